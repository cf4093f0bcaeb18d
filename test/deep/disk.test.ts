/** A disk whose syncs fail, or take their time: seen through strace's injection. */
import { expect, test } from "bun:test";
import { spawnChild } from "../harness/children.ts";
import { tempDir, until } from "../harness/process.ts";
import { findTool } from "../harness/tools.ts";
import {
  figures,
  isRetryLater,
  LATEST,
  Pollers,
  quantile,
  seededRandom,
  serveFile,
  Wire,
} from "../faults/harness.ts";
import { Ledger, SOUND } from "../faults/producers.ts";

const tool = await findTool("strace");
const strace = tool.path;
const why = strace === null ? ` (${tool.reason})` : "";
if (why !== "") console.log(`skipped:${why}`);

async function inject(pid: number, what: string) {
  const args = ["-f", "-e", "trace=fsync,fdatasync", "-e", `inject=fsync,fdatasync:${what}`];
  const tracer = spawnChild([strace ?? "", ...args, "-o", "/dev/null", "-p", `${pid}`]);
  await until(() => tracer.lines().some((line) => line.includes("attached")), "strace");
  return tracer;
}

test.skipIf(why !== "")(
  `EIO at every sync: posts 503, polls go on, ingest resumes, nothing is lost${why}`,
  async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    const ledger = new Ledger(seededRandom("EIO"));
    await using server = await serveFile(db);
    using wire = await Wire.open(server.url);
    for (let i = 0; i < 50; i += 1) {
      expect((await ledger.send(wire, ledger.make())).status).toBe(201);
    }
    const pollers = Pollers.start(server.url);
    for (let round = 0; round < 3; round += 1) {
      const tracer = await inject(server.pid, "error=EIO");
      for (let i = 0; i < 10; i += 1) {
        const answer = await ledger.send(wire, ledger.make());
        expect([answer.status, isRetryLater(answer)]).toEqual([503, true]);
      }
      expect((await wire.get(LATEST)).status).toBe(200);
      await tracer.stop("SIGINT").catch(() => null);
      for (const post of ledger.unanswered) {
        const taken = async () => (await ledger.send(wire, post)).status === 201;
        await until(taken, "ingest once the disk works", 5_000);
      }
    }
    await pollers.stop();
    expect(pollers.faults).toEqual([]);
    server.kill();
    await server.exited;
    expect(ledger.compare(db)).toEqual(SOUND);
  },
  60_000,
);

test.skipIf(why !== "")(
  `syncs of 20 ms and more: no poll waits for one${why}`,
  async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    const ledger = new Ledger(seededRandom("slow syncs"));
    await using server = await serveFile(db);
    // The tracer itself slows every call: quiet is measured beneath it too.
    await using _tracer = await inject(server.pid, "delay_enter=20000");
    const pollers = Pollers.start(server.url);
    await Bun.sleep(3_000);
    const quiet = pollers.cut();
    const ends = performance.now() + 5_000;
    const over = () => performance.now() > ends;
    await Promise.all(Array.from({ length: 4 }, () => ledger.produce(server.url, over)));
    const loaded = pollers.cut();
    await pollers.stop();
    const posts = ledger.acknowledged.length;
    console.log(`quiet ${figures(quiet)}; ${posts} posts ${figures(loaded)}`);
    expect(pollers.faults).toEqual([]);
    expect(posts).toBeGreaterThan(100);
    expect(quantile(loaded, 0.5)).toBeLessThan(quantile(quiet, 0.5) * 2 + 2);
    expect(quantile(loaded, 0.99)).toBeLessThan(quantile(quiet, 0.99) + 10);
  },
  60_000,
);
