/** Liveness, readiness and the end: what a signal stops, and what it must not lose. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { spawnChild, within } from "../harness/children.ts";
import { tempDir, until } from "../harness/process.ts";
import {
  LATEST,
  MAIN,
  readFile,
  seededRandom,
  serveFile,
  serverEnv,
  signal,
  Wire,
} from "./harness.ts";
import { Ledger } from "./producers.ts";

const EXIT_MS_MAX = 15_000;

async function statusOf(url: string, path: string): Promise<number> {
  using wire = await Wire.open(url);
  return (await wire.get(path)).status;
}

test("/livez needs nothing; /readyz and /health tell of a file without its table", async () => {
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using server = await serveFile(db);
  expect(await statusOf(server.url, "/readyz")).toBe(200);
  using file = new Database(db, { readwrite: true });
  file.run("ALTER TABLE signals RENAME TO elsewhere");
  expect(await statusOf(server.url, "/livez")).toBe(200);
  expect(await statusOf(server.url, "/readyz")).toBe(503);
  expect(await statusOf(server.url, "/health")).toBe(503);
  // No table is no reason to answer with an empty list.
  const reads = [
    LATEST,
    "/api/signals",
    "/api/signals/1",
    `/api/signals/hash/${"0".repeat(64)}`,
    "/api/stats",
    "/api/signals/export",
  ];
  const answers: [string, number | string][] = [];
  for (const path of reads) {
    answers.push([path, await statusOf(server.url, path).catch((error: Error) => error.message)]);
  }
  expect(answers).toEqual(reads.map((path) => [path, 503]));
  file.run("ALTER TABLE elsewhere RENAME TO signals");
  const ready = async () => (await statusOf(server.url, "/readyz")) === 200;
  await until(ready, "ready again by itself");
  expect(await statusOf(server.url, LATEST)).toBe(200);
});

test("while it drains: /readyz 503, /livez 200, new connections answered and told to close", async () => {
  using dir = tempDir();
  const env = { SHUTDOWN_DELAY_SECONDS: "4" };
  await using server = await serveFile(dir.file("signals.db"), { env });
  using kept = await Wire.open(server.url);
  expect((await kept.get("/readyz")).status).toBe(200);
  const stopped = server.stop();
  await until(async () => (await statusOf(server.url, "/readyz")) === 503, "readiness off");
  expect(await statusOf(server.url, "/livez")).toBe(200);
  using fresh = await Wire.open(server.url);
  const poll = await fresh.get(LATEST);
  expect([poll.status, poll.headers.get("connection")]).toEqual([200, "close"]);
  using writer = await Wire.open(server.url);
  const post = await writer.post(signal("LATE", 1));
  expect([post.status, post.headers.get("connection")]).toEqual([201, "close"]);
  const last = await kept.get(LATEST);
  expect([last.status, last.headers.get("connection")]).toEqual([200, "close"]);
  expect(await stopped).toBe(0);
});

interface Load {
  polls: number;
  exports: number;
  /** Connections that ended before their first answer, as the listener closed: never accepted. */
  unaccepted: number;
  /** Requests on an accepted connection that got no whole answer. */
  failed: string[];
}

/**
 * Polls as a good client does: keeps its connection until the server says that it will close,
 * then connects anew. A connection that is refused ends it; one that was accepted must answer.
 */
async function pollUntilGone(url: string, load: Load): Promise<void> {
  for (;;) {
    let wire: Wire;
    try {
      wire = await Wire.open(url);
    } catch {
      return;
    }
    try {
      let answered = 0;
      while (!wire.leaving) {
        const answer = await wire.get(LATEST).catch((error: unknown) => String(error));
        if (typeof answer === "string") {
          if (answered === 0) load.unaccepted += 1;
          else load.failed.push(`poll ${answered} on its connection: ${answer}`);
          return;
        }
        if (answer.status !== 200) load.failed.push(`poll: ${answer.status}`);
        load.polls += 1;
        answered += 1;
      }
    } finally {
      wire[Symbol.dispose]();
    }
  }
}

async function exportUntilGone(url: string, rows: number, load: Load): Promise<void> {
  for (;;) {
    let wire: Wire;
    try {
      wire = await Wire.open(url);
    } catch {
      return;
    }
    try {
      const answer = await wire.get("/api/signals/export");
      const lines = answer.body.split("\n").length - 1;
      if (answer.status !== 200 || lines < rows) load.failed.push(`export: ${lines} of ${rows}`);
      load.exports += 1;
    } catch (error) {
      if (wire.received === 0) load.unaccepted += 1;
      else load.failed.push(`export: ${String(error)}`);
    } finally {
      wire[Symbol.dispose]();
    }
  }
}

async function produceUntilGone(url: string, ledger: Ledger, load: Load): Promise<void> {
  for (;;) {
    let wire: Wire;
    try {
      wire = await Wire.open(url);
    } catch {
      return;
    }
    try {
      while (!wire.leaving) await ledger.send(wire, ledger.make());
    } catch (error) {
      if (wire.received === 0) load.unaccepted += 1;
      else load.failed.push(`post: ${String(error)}`);
    } finally {
      wire[Symbol.dispose]();
    }
  }
}

for (const name of ["SIGTERM", "SIGINT"] as const) {
  test(`${name} under load: every accepted request is answered, exit code 0`, async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    const rows = 5_000;
    await using server = await serveFile(db, { env: { SHUTDOWN_DELAY_SECONDS: "1" } });
    const ledger = new Ledger(seededRandom(name));
    using wire = await Wire.open(server.url);
    for (let n = 0; n < rows; n += 500) {
      const batch = Array.from({ length: 500 }, (_, i) => signal(`B${n + i}`, 50_000 + n + i));
      expect((await wire.post(batch)).status).toBe(201);
    }
    wire[Symbol.dispose]();
    const load: Load = { polls: 0, exports: 0, unaccepted: 0, failed: [] };
    const clients = [
      ...Array.from({ length: 8 }, () => pollUntilGone(server.url, load)),
      ...Array.from({ length: 6 }, () => produceUntilGone(server.url, ledger, load)),
      ...Array.from({ length: 2 }, () => exportUntilGone(server.url, rows, load)),
    ];
    await until(
      () => load.exports > 0 && load.polls > 100 && ledger.acknowledged.length > 20,
      () => `all to be under way: ${JSON.stringify(load)}`,
    );
    const begun = performance.now();
    expect(await server.stop(name)).toBe(0);
    const ms = performance.now() - begun;
    await Promise.all(clients);
    console.log(
      `${name}: ${load.polls} polls, ${ledger.acknowledged.length} posts, ${load.exports} exports, ${load.unaccepted} not accepted, ended in ${ms.toFixed(0)} ms`,
    );
    expect(ms).toBeLessThan(EXIT_MS_MAX);
    expect(load.failed).toEqual([]);
    expect(ledger.odd).toEqual([]);
    // As many as there are clients: each finds the listener gone once.
    expect(load.unaccepted).toBeLessThanOrEqual(clients.length);
    const { lost, twice, integrity } = ledger.compare(db);
    expect({ lost, twice, integrity }).toEqual({ lost: [], twice: [], integrity: ["ok"] });
  });
}

test("clients that idle or say nothing do not keep it from ending", async () => {
  using dir = tempDir();
  await using server = await serveFile(dir.file("signals.db"));
  using idle = await Wire.open(server.url);
  expect((await idle.get(LATEST)).status).toBe(200);
  using silent = await Wire.open(server.url);
  await Bun.sleep(300);
  const begun = performance.now();
  expect(await server.stop()).toBe(0);
  // They would be cut off after seven seconds.
  expect(performance.now() - begun).toBeLessThan(6_000);
  expect(silent.received).toBe(0);
});

test("a signal right behind the line that says it listens drains like any other", async () => {
  using dir = tempDir();
  for (let round = 0; round < 8; round += 1) {
    await using server = await serveFile(dir.file("signals.db"));
    expect(await server.stop(round % 2 === 0 ? "SIGTERM" : "SIGINT")).toBe(0);
    expect(server.logs().at(-1)).toContain('"msg":"stopped"');
  }
});

test("a second signal while it drains cuts nothing off", async () => {
  using dir = tempDir();
  const env = { SHUTDOWN_DELAY_SECONDS: "1" };
  await using server = await serveFile(dir.file("signals.db"), { env });
  await Bun.sleep(200);
  // What a terminal sends to a group of processes arrives once more from the one that leads it.
  const stopped = server.stop("SIGINT");
  await Bun.sleep(200);
  process.kill(server.pid, "SIGINT");
  process.kill(server.pid, "SIGTERM");
  expect(await stopped).toBe(0);
});

test("SIGTERM during the start: it ends at once and the file is sound", async () => {
  const random = seededRandom("start");
  using dir = tempDir();
  const db = dir.file("signals.db");
  let rounds = 0;
  for (let round = 0; round < 8; round += 1) {
    const env = { ...serverEnv(db), PORT: "0" };
    await using child = spawnChild([process.execPath, MAIN, "serve"], { env });
    await Bun.sleep(20 + random() * 300);
    child.kill("SIGTERM");
    const code = await within(child.done, 30_000);
    // 143 where the signal came before there was anything to drain.
    expect([0, 143]).toContain(code ?? -1);
    rounds += 1;
  }
  expect(rounds).toBe(8);
  await using server = await serveFile(db);
  expect(await statusOf(server.url, "/readyz")).toBe(200);
  using wire = await Wire.open(server.url);
  expect((await wire.post(signal("AFTER", 1))).status).toBe(201);
  expect(readFile(db).integrity).toEqual(["ok"]);
});
