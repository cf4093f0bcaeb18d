import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { spawnChild } from "../harness/children.ts";
import { tempDir } from "../harness/process.ts";

test("the embedded Postgres is not met by surprise where other machines connect", async () => {
  using dir = tempDir();
  const data = dir.file("data");
  const main = new URL("../../src/main.ts", import.meta.url).pathname;
  await using child = spawnChild([process.execPath, main, "serve", "--host", "0.0.0.0"], {
    cwd: dir.path,
    env: { PORT: "0", DATA_DIR: data },
  });
  expect(await child.done).toBe(1);
  const said = child.lines().join("\n");
  for (const word of ["0.0.0.0", "DATABASE_URL", "--embedded", "--role argo"]) {
    expect(said).toContain(word);
  }
  expect(existsSync(data)).toBe(false);
});
