import { join } from "node:path";
import { Connection, requestBytes } from "../lib/connection";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { get } from "../lib/http";
import { binaryPath, cacheDir, peersDir } from "../lib/paths";
import { freePort, rssBytes, serverCore, spawnPinned } from "../lib/process";
import { buildBinary, latestPath, productEnv, readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result, unmeasured } from "../lib/result";
import { interleave } from "../lib/rounds";
import { fixed, median, ratios, spread } from "../lib/stats";

export const startup: Bench = {
  name: "startup",
  title: "From start to the first correct answer",
  run,
};

const limit = 10;
const figureName = "first correct answer, compiled, 1,000,000 rows, × a raw Bun hello";

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  const fault = buildBinary();
  if (fault) {
    result.missing.push(`the compiled binary: ${fault}`);
    result.figures.push(unmeasured(figureName, `≤ ${limit}`, "no compiled binary"));
    return result;
  }
  const db = workingCopy(1_000_000, "startup");
  try {
    const hello = compileHello();
    const expected = await expectedAnswer(db);
    const helloStart = () => timed([hello], {}, "/", "hello", "hello");
    const rounds = context.quick ? 3 : Math.max(15, context.rounds);
    const samples = await interleave(
      context,
      [
        { name: "raw Bun hello", round: helloStart },
        { name: "the same once more", round: helloStart },
        {
          name: "**argo-alpine, `serve --role argo`**",
          round: () =>
            timed(
              [binaryPath, "serve", "--role", "argo"],
              productEnv(db, "startup"),
              latestPath,
              expected,
              "argo",
            ),
        },
      ],
      rounds,
    );
    const [floor, again, ours] = [...samples.values()].map((taken) => taken.map((s) => s.ms));
    const found = ratios(ours ?? [], floor ?? []);
    result.tables.push({
      title: "Compiled the same way; first answer over a new connection",
      columns: ["program", "ms to the first correct answer", "MB resident then"],
      rows: [...samples].map(([name, taken]) => [
        name,
        spread(
          taken.map((s) => s.ms),
          1,
        ),
        fixed(median(taken.map((s) => s.rss)) / 1e6, 1),
      ]),
    });
    result.figures.push({
      name: figureName,
      target: `≤ ${limit}`,
      measured: `${spread(found, 1)} (${fixed(median(ours ?? []), 1)} ms against ${fixed(median(floor ?? []), 1)} ms)`,
      met: median(found) <= limit,
    });
    result.notes.push(`The hello against itself: ${spread(ratios(again ?? [], floor ?? []))}.`);
  } finally {
    discard(db);
  }
  return result;
}

function compileHello(): string {
  const out = join(cacheDir, "hello");
  const done = Bun.spawnSync([
    process.execPath,
    "build",
    "--compile",
    "--minify",
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    join(peersDir, "hello.ts"),
    "--outfile",
    out,
  ]);
  if (!done.success) throw new Error(`the hello does not compile: ${done.stderr.toString()}`);
  return out;
}

async function expectedAnswer(db: string): Promise<string> {
  const server = await startProduct({ kind: "binary", db, instance: "startup-expected" });
  try {
    return (await get(server.url, readHeaders)).body;
  } finally {
    await server.child.stop();
  }
}

/** Milliseconds from before the process is made to its first whole, correct answer. */
async function timed(
  command: string[],
  env: Record<string, string>,
  path: string,
  expected: string,
  label: string,
): Promise<{ ms: number; rss: number }> {
  const port = freePort();
  const request = requestBytes("GET", path, readHeaders);
  const started = performance.now();
  const child = spawnPinned(command, {
    core: serverCore,
    log: `startup-${label}`,
    env: { ...env, PORT: String(port) },
  });
  try {
    for (;;) {
      if (performance.now() - started > 30_000) throw new Error(`${label}: no answer in 30 s`);
      if ((await attempt(port, request)) === expected) break;
    }
    return { ms: performance.now() - started, rss: rssBytes(child.pid) };
  } finally {
    await child.stop();
  }
}

async function attempt(port: number, request: Buffer): Promise<string | null> {
  try {
    const connection = await Connection.open(port);
    const answer = await connection.ask(request);
    connection.close();
    return answer.status === 200 ? answer.body.toString() : null;
  } catch {
    return null; // not listening yet: that is what is being timed
  }
}
