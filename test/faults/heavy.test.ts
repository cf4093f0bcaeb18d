/** Heavy reads of a large file: they end in time, in bounded memory, and move no other poll. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnChild } from "../harness/children.ts";
import { leastMs, type Server, type TempDir, tempDir } from "../harness/process.ts";
import { expectFlow } from "./flow.ts";
import {
  figures,
  isRetryLater,
  LATEST,
  makeFile,
  Pollers,
  residentMiB,
  serveFile,
  Wire,
} from "./harness.ts";

const ROWS = Number(process.env["TEST_HEAVY_ROWS"] ?? 1_000_000);
const EXPORTED = Math.min(ROWS, 250_000);
const COUNT_LINES = `
const response = await fetch(process.argv[1]);
let lines = 0, bytes = 0;
for await (const chunk of response.body) {
  for (const byte of chunk) if (byte === 10) lines += 1;
  bytes += chunk.length;
}
console.log(lines, bytes);
`;
/** The server gives a read 5 s; the rest is what a busy machine adds. A hundred walks take a minute. */
const ENDED_MS_MAX = 20_000;

let dir: TempDir;
let server: Server;

beforeAll(async () => {
  dir = tempDir();
  const db = dir.file("signals.db");
  const begun = performance.now();
  makeFile(db, ROWS);
  const madeMs = performance.now() - begun;
  server = await serveFile(db);
  console.log(`${ROWS} rows made in ${(madeMs / 1_000).toFixed(1)} s`);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  dir[Symbol.dispose]();
});

/** Polls beside the work; what they saw is printed and bounded. */
async function beside(name: string, work: () => Promise<string>): Promise<void> {
  const pollers = Pollers.start(server.url, { connections: 2, path: `${LATEST}?limit=10` });
  await Bun.sleep(400);
  const quiet = pollers.phase();
  const said = await work();
  const loaded = pollers.phase();
  await pollers.stop();
  const [before, meanwhile] = [quiet, loaded].map(({ durationsMs }) => figures(durationsMs));
  console.log(`${name}: ${said}; quiet ${before}; meanwhile ${meanwhile}`);
  expect(pollers.faults).toEqual([]);
  expectFlow(loaded, quiet);
}

test("a filter that matches nothing in a million rows ends, and moves no other poll", async () => {
  await beside("nothing matches", async () => {
    const paths = [
      `${LATEST}?min_confidence=94`,
      "/api/signals?action=HOLD",
      "/api/signals?action=HOLD&order=asc",
      `${LATEST}?symbol=S7&strategy=nobody`,
      `${LATEST}?symbol=NONE`,
      `${LATEST}?strategy=nobody`,
      `${LATEST}?premium_only=true`,
    ];
    const times: string[] = [];
    for (const path of paths) {
      using wire = await Wire.open(server.url);
      const answer = await wire.get(path);
      times.push(`${answer.durationMs.toFixed(0)} ms`);
      if (answer.status === 200) {
        expect(["[]", '{"signals":[],"next_cursor":null,"has_more":false}']).toContain(answer.body);
      } else expect(isRetryLater(answer)).toBe(true);
      expect(answer.durationMs).toBeLessThan(ENDED_MS_MAX);
    }
    return times.join(", ");
  });
});

test("a hundred of them at once are bounded: each ends with its answer or 503", async () => {
  await beside("a hundred at once", async () => {
    const answers = await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        using wire = await Wire.open(server.url);
        return await wire.get(`/api/signals?min_confidence=94.${i + 100}`);
      }),
    );
    const ok = answers.filter((answer) => answer.status === 200).length;
    expect(answers.filter((answer) => answer.status !== 200 && !isRetryLater(answer))).toEqual([]);
    const slowest = Math.max(...answers.map((answer) => answer.durationMs));
    expect(slowest).toBeLessThan(ENDED_MS_MAX);
    return `${ok} answered, ${100 - ok} refused, the last after ${slowest.toFixed(0)} ms`;
  });
  using wire = await Wire.open(server.url);
  expect((await wire.get("/api/signals?action=BUY&limit=5")).status).toBe(200);
});

test("the same heavy poll from fifty clients is one walk", async () => {
  await beside("fifty alike", async () => {
    const path = `${LATEST}?min_confidence=93`;
    const answers = await Promise.all(
      Array.from({ length: 50 }, async () => {
        using wire = await Wire.open(server.url);
        return await wire.get(path);
      }),
    );
    const slowest = Math.max(...answers.map((answer) => answer.durationMs));
    expect(new Set(answers.map((answer) => `${answer.status} ${answer.body}`)).size).toBe(1);
    expect(slowest).toBeLessThan(ENDED_MS_MAX);
    return `the last after ${slowest.toFixed(0)} ms`;
  });
});

test("counts of a million rows move no poll, and are kept", async () => {
  await beside("stats", async () => {
    using wire = await Wire.open(server.url);
    const first = await wire.get("/api/stats");
    expect(first.status).toBe(200);
    expect((JSON.parse(first.body) as { total: number }).total).toBe(ROWS);
    const keptMs = await leastMs(async () =>
      expect((await wire.get("/api/stats")).status).toBe(200),
    );
    expect(keptMs).toBeLessThan(first.durationMs / 4);
    return `${first.durationMs.toFixed(0)} ms, then ${keptMs.toFixed(0)} ms`;
  });
});

test("an export of hundreds of thousands of rows holds bounded memory", async () => {
  const before = residentMiB(server.pid);
  let peak = before;
  await beside("export", async () => {
    const begun = performance.now();
    const since = ROWS - EXPORTED;
    const url = `${server.url}/api/signals/export?since_id=${since}`;
    // In a process of its own: reading it here would hold up the polls that are measured here.
    await using reader = spawnChild([process.execPath, "-e", COUNT_LINES, url]);
    while (reader.running()) {
      peak = Math.max(peak, residentMiB(server.pid));
      await Bun.sleep(20);
    }
    expect(await reader.done).toBe(0);
    const [lines = 0, bytes = 0] = (reader.lines()[0] ?? "").split(" ").map(Number);
    expect(lines).toBe(EXPORTED);
    const seconds = (performance.now() - begun) / 1_000;
    return `${lines} rows, ${(bytes / 1e6).toFixed(0)} MB in ${seconds.toFixed(1)} s, ${before.toFixed(0)} → ${peak.toFixed(0)} MiB`;
  });
  expect(peak - before).toBeLessThan(100);
});

test("what everybody may ask for, asked all the time, costs a poll next to nothing", async () => {
  for (const path of ["/openapi.json", "/docs", "/docs/swagger-ui-bundle.js", "/health"]) {
    using wire = await Wire.open(server.url);
    // Made once, sent many times: a page that is made at each request holds up everybody.
    const ms = await leastMs(async () => expect((await wire.get(path)).status).toBe(200), 50);
    console.log(`${path}: ${ms.toFixed(2)} ms`);
    expect(ms).toBeLessThan(15);
  }
});
