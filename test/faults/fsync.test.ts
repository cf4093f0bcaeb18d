/** Every acknowledgement follows an fsync that began after its row was written: seen by strace. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { spawnChild } from "../harness/children.ts";
import { tempDir, until } from "../harness/process.ts";
import { findTool } from "../harness/tools.ts";
import { acceptedOf, serveFile, signal, Wire } from "./harness.ts";

const POSTS = 960;
const IN_FLIGHT = 64;

const tool = await findTool("strace");
const strace = tool.path;
const why = strace === null ? tool.reason : (await attaches(strace)) ? null : "cannot attach here";
if (why !== null) console.log(`skipped: strace ${why}`);

async function attaches(path: string): Promise<boolean> {
  await using target = spawnChild(["sleep", "5"]);
  using dir = tempDir();
  const args = ["-f", "-y", "-o", dir.file("trace"), "-p", `${target.pid}`];
  await using tracer = spawnChild([path, ...args]);
  const attached = () => tracer.lines().some((line) => line.includes("attached"));
  const waited = until(() => attached() || !tracer.running(), "strace");
  return await waited.then(attached, () => false);
}

test.skipIf(why !== null)(
  `no acknowledgement before its fsync${why === null ? "" : ` (strace ${why})`}`,
  async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    await using server = await serveFile(db);
    const trace = dir.file("trace");
    const calls = "trace=pwrite64,pwritev,fdatasync,fsync,write,writev,sendto,sendmsg";
    const args = ["-f", "-y", "-s", "9000", "-e", calls, "-o", trace, "-p", `${server.pid}`];
    await using tracer = spawnChild([strace ?? "", ...args]);
    await until(() => tracer.lines().some((line) => line.includes("attached")), "strace");

    // The hash of an acknowledgement says whose it is, the symbol which row was written.
    const symbolOf = new Map<string, string>();
    let next = 0;
    const produce = async (): Promise<void> => {
      using wire = await Wire.open(server.url);
      while (next < POSTS) {
        const symbol = `FSYNC${String((next += 1)).padStart(6, "0")}`;
        const answer = await wire.post(signal(symbol, next));
        expect(answer.status).toBe(201);
        for (const { sha256 } of acceptedOf(answer)) symbolOf.set(sha256, symbol);
      }
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, produce));
    const inFlight = symbolOf.size;
    // One at a time too, where nobody else's fsync can stand in for one's own.
    const before = symbolOf.size;
    for (let i = 0; i < 20; i += 1) {
      using wire = await Wire.open(server.url);
      const symbol = `ALONE${String(i).padStart(6, "0")}`;
      for (const { sha256 } of acceptedOf(await wire.post(signal(symbol, i)))) {
        symbolOf.set(sha256, symbol);
      }
    }
    expect(symbolOf.size - before).toBe(20);
    await tracer.stop("SIGINT").catch(() => null);

    const { early, syncs, acknowledged } = judge(readFileSync(trace, "latin1"), symbolOf);
    const lone = 20;
    const ratio = inFlight / Math.max(1, syncs - lone);
    console.log(`${acknowledged} acknowledgements, ${syncs} fsyncs, ${ratio.toFixed(1)} to one`);
    expect(early).toEqual([]);
    expect(acknowledged).toBe(inFlight + lone);
    // One for all who wait would be 32 of 64; clients that get no time to send make it fewer.
    expect(ratio).toBeGreaterThanOrEqual(6);
  },
);

/** Reads the trace in order: when each row was written, the log synced and the post answered. */
function judge(
  trace: string,
  symbolOf: Map<string, string>,
): { early: string[]; syncs: number; acknowledged: number } {
  const writtenAt = new Map<string, number>();
  const syncBegunAt = new Map<string, number>();
  let durableUpTo = -1;
  let syncs = 0;
  let acknowledged = 0;
  const early: string[] = [];
  const answered = new Set<string>();
  for (const [at, line] of trace.split("\n").entries()) {
    const thread = /^\d+/.exec(line)?.[0] ?? "";
    if (/ (pwrite64|pwritev|write|writev)\(\d+<[^>]*-wal>/.test(line)) {
      for (const [symbol] of line.matchAll(/(FSYNC|ALONE)\d{6}/g)) {
        if (!writtenAt.has(symbol)) writtenAt.set(symbol, at);
      }
    } else if (/ f(data)?sync\(\d+<[^>]*-wal>/.test(line)) {
      syncBegunAt.set(thread, at);
      if (/\)\s+= 0/.test(line)) {
        syncs += 1;
        durableUpTo = at;
      }
    } else if (/<\.\.\. f(data)?sync resumed>\)\s+= 0/.test(line)) {
      const begun = syncBegunAt.get(thread);
      if (begun === undefined) continue;
      syncBegunAt.delete(thread);
      syncs += 1;
      durableUpTo = Math.max(durableUpTo, begun);
    } else if (/ (write|writev|sendto|sendmsg)\(\d+<(TCP|socket)/.test(line)) {
      for (const [, sha256 = ""] of line.matchAll(/sha256\\":\\"([0-9a-f]{64})/g)) {
        const symbol = symbolOf.get(sha256);
        if (symbol === undefined || answered.has(sha256)) continue;
        answered.add(sha256);
        acknowledged += 1;
        const written = writtenAt.get(symbol);
        if (written === undefined || written > durableUpTo) early.push(symbol);
      }
    }
  }
  return { early, syncs, acknowledged };
}
