/** A full disk and files that may not be written: writes are 503 and name the fix, reads go on. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { accessSync, chmodSync, constants, copyFileSync, statSync } from "node:fs";
import { chown, mkdir, rm, writeFile } from "node:fs/promises";
import { spawnChild } from "../harness/children.ts";
import { startServer, tempDir, until } from "../harness/process.ts";
import {
  type Answer,
  isRetryLater,
  LATEST,
  MAIN,
  newestId,
  Pollers,
  seededRandom,
  serveFile,
  serverEnv,
  signal,
  Wire,
} from "./harness.ts";
import { Ledger, SOUND } from "./producers.ts";

const LEGACY = new URL("../fixtures/argo-legacy.db", import.meta.url).pathname;
const NOBODY = 65_534;
const asRoot = process.getuid?.() === 0;

async function succeeds(command: string[]): Promise<boolean> {
  return (await spawnChild(command).done.catch(() => 1)) === 0;
}

/** A small file system of its own, or null where this user may mount none. */
async function smallDisk(path: string, size: string): Promise<AsyncDisposable | null> {
  await mkdir(path);
  if (Bun.which("mount") === null) return null;
  if (!(await succeeds(["mount", "-t", "tmpfs", "-o", `size=${size}`, "none", path]))) return null;
  return {
    async [Symbol.asyncDispose]() {
      await succeeds(["umount", "-l", path]);
    },
  };
}

async function mountable(): Promise<boolean> {
  using dir = tempDir();
  await using disk = await smallDisk(dir.file("disk"), "64k");
  return disk !== null;
}
const mounts = await mountable();
const noMount = mounts ? "" : " (no tmpfs can be mounted here)";
const prlimit = Bun.which("prlimit");
if (!mounts) console.log("skipped: no tmpfs can be mounted here");

/** Posts until one is refused for good, or says that none was. */
async function fill(url: string, ledger: Ledger): Promise<Answer | null> {
  using wire = await Wire.open(url);
  for (let n = 0; n < 3_000; n += 1) {
    const answer = await ledger.send(wire, ledger.make());
    if (answer.status !== 201) return answer;
  }
  return null;
}

/** The producers' way back: what was refused is sent again until it is taken. */
async function resume(url: string, ledger: Ledger): Promise<void> {
  using wire = await Wire.open(url);
  for (const post of ledger.unanswered) {
    const taken = async () => (await ledger.send(wire, post)).status === 201;
    await until(taken, "ingest once there is space");
  }
}

test.skipIf(!mounts)(
  `a full disk: posts 503, polls go on, ingest resumes, nothing is lost${noMount}`,
  async () => {
    using dir = tempDir();
    const path = dir.file("disk");
    await using disk = await smallDisk(path, "3m");
    expect(disk).not.toBeNull();
    const db = `${path}/signals.db`;
    const ledger = new Ledger(seededRandom("full disk"));
    {
      await using server = await serveFile(db);
      const pollers = Pollers.start(server.url);
      // First the log fills the disk by itself, then a stranger's file takes what is left.
      const refusal = await fill(server.url, ledger);
      expect(refusal).not.toBeNull();
      if (refusal !== null) {
        expect(isRetryLater(refusal)).toBe(true);
        expect(refusal.body).toContain("full");
      }
      await succeeds(["dd", "if=/dev/zero", `of=${path}/filler`, "bs=4k"]);
      for (let i = 0; i < 20; i += 1) {
        using wire = await Wire.open(server.url);
        const answer = await ledger.send(wire, ledger.make());
        // Room that the log already has is room: what is taken then is as durable as ever.
        expect(answer.status === 201 || isRetryLater(answer)).toBe(true);
        const poll = await wire.get(`${LATEST}?limit=${1 + i}`);
        expect(poll.status).toBe(200);
      }
      using wire = await Wire.open(server.url);
      expect((await wire.get("/readyz")).status).toBe(200);
      expect((await wire.get("/api/stats")).status).toBe(200);
      expect(ledger.compare(db)).toEqual(SOUND);

      await succeeds(["mount", "-o", "remount,size=32m", path]);
      await rm(`${path}/filler`, { force: true });
      await resume(server.url, ledger);
      await pollers.stop();
      expect(pollers.faults).toEqual([]);
      expect(ledger.odd).toEqual([]);
      server.kill();
      await server.exited;
    }
    expect(ledger.unanswered).toEqual([]);
    expect(ledger.compare(db)).toEqual(SOUND);
    console.log(`full disk: ${ledger.acknowledged.length} acknowledged, ${ledger.refused} refused`);
  },
);

test.skipIf(!mounts)(
  `a server that starts on a full disk serves what is there or says why not${noMount}`,
  async () => {
    using dir = tempDir();
    const path = dir.file("disk");
    await using disk = await smallDisk(path, "2m");
    expect(disk).not.toBeNull();
    const db = `${path}/signals.db`;
    {
      await using first = await serveFile(db);
      using wire = await Wire.open(first.url);
      expect((await wire.post(signal("KEPT", 1))).status).toBe(201);
      await first.stop();
    }
    await succeeds(["dd", "if=/dev/zero", `of=${path}/filler`, "bs=4k"]);
    const before = await Bun.file(db).bytes();
    await using second = await startServer({ env: serverEnv(db) }).catch((error: unknown) => {
      expect(String(error)).toContain("exit code 1");
      expect(String(error)).toMatch(/full|space|disk/i);
      return null;
    });
    console.log(`start on a full disk: ${second === null ? "refused" : "served"}`);
    if (second !== null) {
      using wire = await Wire.open(second.url);
      expect(newestId((await wire.get(LATEST)).body)).toBe(1);
      expect(isRetryLater(await wire.post(signal("MORE", 2)))).toBe(true);
      await rm(`${path}/filler`);
      await until(async () => (await wire.post(signal("MORE", 2))).status === 201, "ingest");
    } else {
      expect(await Bun.file(db).bytes()).toEqual(before);
    }
  },
);

test.skipIf(prlimit === null)(
  "a file that may not grow: posts 503, polls go on, ingest resumes",
  async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    // The signal that comes with the refusal is ignored, as it is where the disk itself refuses.
    const binary = dir.file("server");
    const words = `trap '' XFSZ\nexec '${process.execPath}' '${MAIN}' "$@"`;
    await writeFile(binary, `#!/bin/sh\n${words}\n`, { mode: 0o755 });
    await using server = await serveFile(db, { binary });
    const ledger = new Ledger(seededRandom("file size"));
    const limit = (bytes: string) =>
      succeeds([prlimit ?? "", `--fsize=${bytes}:unlimited`, "--pid", `${server.pid}`]);
    expect(await limit("800000")).toBe(true);
    const pollers = Pollers.start(server.url, { connections: 2 });
    const refusal = await fill(server.url, ledger);
    expect(refusal === null ? null : isRetryLater(refusal)).toBe(true);
    using wire = await Wire.open(server.url);
    const newest = newestId((await wire.get(LATEST)).body);
    expect(newest).toBe(Math.max(...ledger.acknowledged.flatMap((post) => post.ids ?? [])));
    expect(await limit("unlimited")).toBe(true);
    await resume(server.url, ledger);
    await pollers.stop();
    expect(pollers.faults).toEqual([]);
    expect(ledger.odd).toEqual([]);
    expect(ledger.compare(db)).toEqual(SOUND);
  },
);

/** A server as a user whom permissions bind: they do not bind root. */
async function serveBound(db: string) {
  if (!asRoot) return serveFile(db);
  using words = tempDir();
  const binary = words.file("server");
  const user = `--reuid ${NOBODY} --regid ${NOBODY} --clear-groups --pdeathsig KILL`;
  const command = `exec setpriv ${user} -- '${process.execPath}' '${MAIN}' "$@"`;
  await writeFile(binary, `#!/bin/sh\n${command}\n`, { mode: 0o755 });
  chmodSync(words.path, 0o755);
  return await serveFile(db, { binary });
}

const bound = await (async (): Promise<boolean> => {
  if (!asRoot) return true;
  if (Bun.which("setpriv") === null) return false;
  const user = [`--reuid`, `${NOBODY}`, "--regid", `${NOBODY}`, "--clear-groups"];
  return succeeds(["setpriv", ...user, "--", process.execPath, MAIN, "--version"]);
})();
if (!bound) console.log("skipped: no other user can run the server here");

/** An adopted file with three rows, closed, and owned by the user who serves it. */
async function madeFile(db: string): Promise<void> {
  await using server = await serveFile(db);
  using wire = await Wire.open(server.url);
  for (let n = 1; n <= 3; n += 1) expect((await wire.post(signal("KEPT", n))).status).toBe(201);
  await server.stop();
}

async function own(path: string): Promise<void> {
  if (asRoot) await chown(path, NOBODY, NOBODY);
}

async function expectReadsOnly(url: string, newest: number): Promise<void> {
  using wire = await Wire.open(url);
  const poll = await wire.get(LATEST);
  expect([poll.status, newestId(poll.body)]).toEqual([200, newest]);
  expect((await wire.get("/api/signals?limit=5")).status).toBe(200);
  expect((await wire.get("/api/signals/1")).status).toBe(200);
  expect((await wire.get("/api/stats")).status).toBe(200);
  expect((await wire.get("/readyz")).status).toBe(200);
  const post = await wire.post(signal("NEVER", 1));
  expect(isRetryLater(post)).toBe(true);
  expect(post.body).toMatch(/read-only|permission/i);
}

test.skipIf(!bound)(
  "a read-only file is served; posts are 503 and name the permission",
  async () => {
    using dir = tempDir();
    await own(dir.path);
    const db = dir.file("signals.db");
    await madeFile(db);
    await own(db);
    chmodSync(db, 0o444);
    const before = await Bun.file(db).bytes();
    await using server = await serveBound(db);
    await expectReadsOnly(server.url, 3);
    expect(await server.stop()).toBe(0);
    expect(await Bun.file(db).bytes()).toEqual(before);
  },
);

test.skipIf(!bound)(
  "a read-only file of the engine, never adopted, is served as it is",
  async () => {
    using dir = tempDir();
    await own(dir.path);
    const db = dir.file("signals.db");
    copyFileSync(LEGACY, db);
    await own(db);
    chmodSync(db, 0o444);
    const before = await Bun.file(db).bytes();
    await using server = await serveBound(db);
    await expectReadsOnly(server.url, 3_489);
    expect(await server.stop()).toBe(0);
    expect(await Bun.file(db).bytes()).toEqual(before);
  },
);

test.skipIf(!bound)(
  "the engine's file in a read-only directory is served; posts are 503",
  async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    copyFileSync(LEGACY, db);
    chmodSync(db, 0o444);
    chmodSync(dir.path, 0o555);
    await own(db);
    await own(dir.path);
    const before = await Bun.file(db).bytes();
    try {
      await using server = await serveBound(db);
      await expectReadsOnly(server.url, 3_489);
      expect(await server.stop()).toBe(0);
      expect(await Bun.file(db).bytes()).toEqual(before);
    } finally {
      chmodSync(dir.path, 0o755);
    }
  },
);

test.skipIf(!bound || !asRoot)(
  "another user's file, written while it is served read-only: its commits are seen",
  async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    await madeFile(db);
    chmodSync(dir.path, 0o755);
    chmodSync(db, 0o644);
    using file = new Database(db, { readwrite: true });
    const insert = file.prepare(
      "INSERT INTO signals (symbol, action, entry_price, confidence, timestamp) VALUES ('LIVE', 'BUY', 1, 99, '2021')",
    );
    insert.run();
    await using server = await serveBound(db);
    await expectReadsOnly(server.url, 4);
    using wire = await Wire.open(server.url);
    for (let id = 5; id < 50; id += 1) {
      insert.run();
      expect(newestId((await wire.get(`${LATEST}?symbol=LIVE`)).body)).toBe(id);
    }
    insert.finalize();
    expect(await server.stop()).toBe(0);
  },
);

test.skipIf(!bound)(
  "a file whose log cannot be made, in a read-only directory, is served or the fix is named",
  async () => {
    using dir = tempDir();
    const db = dir.file("signals.db");
    await madeFile(db);
    await own(db);
    await own(dir.path);
    chmodSync(dir.path, 0o555);
    const before = await Bun.file(db).bytes();
    try {
      await using server = await serveBound(db).catch((error: unknown) => {
        expect(String(error)).toContain("exit code 1");
        expect(String(error)).toMatch(/directory/i);
        expect(String(error)).toMatch(/permission/i);
        return null;
      });
      if (server !== null) await expectReadsOnly(server.url, 3);
      expect(await Bun.file(db).bytes()).toEqual(before);
    } finally {
      chmodSync(dir.path, 0o755);
    }
  },
);

test.skipIf(!bound)(
  "a directory in which nothing can be made ends the start with exit code 1",
  async () => {
    using dir = tempDir();
    await own(dir.path);
    chmodSync(dir.path, 0o555);
    try {
      const refused = await serveBound(dir.file("signals.db")).then(
        () => "it started",
        (error: unknown) => String(error),
      );
      expect(refused).toContain("exit code 1");
      expect(refused).toMatch(/permission/i);
      expect(() => accessSync(dir.file("signals.db"), constants.F_OK)).toThrow();
      expect(statSync(dir.path).isDirectory()).toBe(true);
    } finally {
      chmodSync(dir.path, 0o755);
    }
  },
);
