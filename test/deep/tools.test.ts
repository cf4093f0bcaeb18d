import { expect, test } from "bun:test";
import { chmodSync } from "node:fs";
import { tempDir } from "../harness/process.ts";
import { ownPostgres, redis } from "../harness/servers.ts";

test("where neither Postgres nor Redis is installed, both are fetched and run", async () => {
  using dir = tempDir();
  // As closed as a home directory: Postgres does not run as root, nor from below one of root's.
  chmodSync(dir.path, 0o700);
  const find = { searchPath: "", postgresDir: dir.file("none"), cacheDir: dir.file("tools") };
  {
    await using server = await ownPostgres({ find });
    expect(server.hasStatements).toBe(true);
    await using database = await server.createDatabase();
    expect(database.url).toContain(database.name);
    await server.kill();
    await server.start();
  }
  await using server = await redis({ find });
  await server.flush();
}, 180_000);
