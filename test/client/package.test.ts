import { expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { READ_TOKEN, WRITE_TOKEN } from "../harness/app.ts";
import { spawnChild } from "../harness/children.ts";
import { until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { range, serve, signals, writer } from "./serve.ts";

const ROOT = join(import.meta.dir, "../..");

test("what it depends on is what it is tested with", async () => {
  type Manifest = Record<"dependencies" | "devDependencies", Record<string, string>>;
  const [own, all] = (await Promise.all(
    ["client/package.json", "package.json"].map((path) => Bun.file(join(ROOT, path)).json()),
  )) as [Manifest, Manifest];
  for (const [name, version] of Object.entries(own.dependencies)) {
    expect([name, version]).toEqual([name, all.devDependencies[name] ?? "nothing"]);
  }
  const { typescript } = own.devDependencies;
  expect(all.devDependencies["typescript"]).toBe(`npm:typescript@${typescript}`);
});

test("it is built, and does its work on Node", async () => {
  // Below node_modules, where what it depends on is found.
  const dist = join(ROOT, `node_modules/.cache/argo-client-${process.pid}`);
  try {
    const tsc = ["node_modules/.bin/tsc", "-p", "client", "--noCheck", "--outDir", dist];
    const build = spawnChild([process.execPath, ...tsc], { cwd: ROOT });
    await using at = await serve();
    await writer(at.url).post(signals(50));
    await using way = await tcpProxy({ port: at.port });
    expect([await build.done, ...build.lines()]).toEqual([0]);
    await Bun.write(join(dist, "package.json"), '{ "type": "module" }');

    const node = Bun.which("node");
    if (node === null) return console.warn("not tried on Node: there is none here");
    const script = [join(import.meta.dir, "bot.mjs"), join(dist, "index.js")];
    const told: Record<string, unknown>[] = [];
    await using bot = spawnChild(
      [node, ...script, `http://127.0.0.1:${way.port}`, READ_TOKEN, WRITE_TOKEN],
      { onLine: (line) => void told.push(JSON.parse(line) as Record<string, unknown>) },
    );
    const ids = (): unknown[] => told.flatMap(({ id }) => (id === undefined ? [] : [id]));
    await until(() => ids().length === 51 || !bot.running(), "the stream").catch((error) => {
      throw new Error(`${error}\n${bot.lines().join("\n")}`);
    });
    expect(told.slice(0, 4)).toEqual([
      { same: true, headId: 50 },
      { refused: "unauthorized" },
      { exported: 50 },
      { total: 51 },
    ]);
    way.cut();
    way.restore();
    await writer(at.url).post(signals(1));
    await until(() => ids().length === 52, "the stream resumed");
    expect(ids()).toEqual(range(1, 52));
  } finally {
    rmSync(dist, { recursive: true, force: true });
  }
});
