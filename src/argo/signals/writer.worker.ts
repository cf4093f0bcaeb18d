import type { Database } from "bun:sqlite";
import { AppError, SetupError } from "../../errors";
import {
  isCorruption,
  openDatabase,
  sqliteCode,
  type Synchronous,
  translate,
} from "../../platform/sqlite";
import { fileId } from "../../platform/directory";
import { emit, serveThread } from "../../platform/thread";
import type { NodeFile, NodeOptions, NodeState } from "../origin/node";
import { adopt } from "./adopt";
import type { Drafts } from "./ingest";
import { forgottenBefore, SignalLedger } from "./ledger";
import {
  attempt,
  type Done,
  type GroupOutcome,
  type Outcome,
  type Post,
  readPost,
  type Refusal,
  writePost,
} from "./group";

export type Start = {
  path: string;
  synchronous: Synchronous;
  checkpointMs: number;
  /** Where posts are committed instead of in the file, which is a copy then. */
  origin: NodeOptions | null;
  /** The clock at the start. */
  nowMs: number;
};
type Commit = { posts: Post[]; nowMs: number };

/** How long a group waits for the lock, and how often it tries. */
const lockMs = 2_000;
const tryEveryMs = 1;
const forgottenPerRun = 500;
/** An engine that waits for the lock gets it after some 10 ms. */
const expiredPerRun = 200;

serveThread(({ path, synchronous, checkpointMs, origin, nowMs: startedMs }: Start) => {
  const started = performance.now();
  let db: Database | undefined;
  let ledger: SignalLedger | undefined;
  /** Set once the file is known to be damaged: nothing is written any more. */
  let damage: string | null = null;
  /** Why the file could not be adopted, for those who post into it. */
  let unadopted: AppError | SetupError | null = null;
  let dirty = false;
  let checkpointFault = "";
  let seenVersion = -1;
  let seenSchema = -1;

  let file: string | null = null;
  function open(): Database {
    if (db) return db;
    db = openDatabase(path, "writer", synchronous);
    file = fileId(path);
    return db;
  }
  const note = (message: string, data?: Record<string, unknown>) => emit("note", { message, data });

  /** Checkpoints between commits keep the log short, so that the engine seldom has to take one. */
  function checkpoint(): void {
    if (!db || damage !== null) return;
    try {
      const version = db.query<{ data_version: number }, []>("PRAGMA data_version").get();
      if (!dirty && version?.data_version === seenVersion) return;
      seenVersion = version?.data_version ?? -1;
      dirty = false;
      db.run("PRAGMA wal_checkpoint(PASSIVE)");
    } catch (error) {
      // Busy is normal: somebody else checkpoints. The next round tries again.
      if (sqliteCode(error) === "SQLITE_BUSY" || String(error) === checkpointFault) return;
      checkpointFault = String(error);
      emit("fault", { message: "checkpoint failed", error: checkpointFault });
    }
  }
  setInterval(checkpoint, checkpointMs);

  function fail(error: unknown): never {
    // A table made anew or a lock lost: look again at the next call.
    forgetLedger();
    const shown = translate(error);
    if (isCorruption(error) && shown instanceof AppError) damage = shown.detail;
    throw shown;
  }

  function mustBeSound(): void {
    if (damage === null) return;
    throw new AppError("unavailable", damage, { retryAfterSeconds: 300 });
  }

  /** Statements left open would keep the file open, and its log beside it. */
  function forgetLedger(): void {
    ledger?.[Symbol.dispose]();
    ledger = undefined;
  }

  function ledgerOf(handle: Database): SignalLedger {
    const version = schemaVersion(handle);
    if (version !== seenSchema) forgetLedger();
    ledger ??= SignalLedger.open(handle) ?? undefined;
    if (!ledger)
      throw unadopted ?? new AppError("unavailable", "The signal table is being adopted.");
    seenSchema = version;
    return ledger;
  }

  function transaction<T>(handle: Database, work: () => T): T {
    begin(handle);
    try {
      // Nobody can change the table any more: was it changed since the posts were read for it?
      if (schemaVersion(handle) !== seenSchema) {
        throw new AppError("unavailable", "The signal table has just been changed. Try again.");
      }
      const result = work();
      // Durable in a file that nobody will open again is not durable.
      if (fileId(path) !== file) throw replaced();
      handle.run("COMMIT");
      dirty = true;
      return result;
    } catch (error) {
      if (handle.inTransaction) handle.run("ROLLBACK");
      throw error;
    }
  }

  const now = () => startedMs + performance.now() - started;
  /** The file as a copy is written. */
  const copy: NodeFile = {
    read: open,
    layout: () => ledgerOf(open()).layout,
    index: () => {
      forgetLedger();
      adopt(open(), note, { create: false, nowMs: now() });
    },
    write: (work) => {
      mustBeSound();
      try {
        const handle = open();
        ledgerOf(handle);
        return transaction(handle, () => work(handle));
      } catch (error) {
        return fail(error);
      }
    },
  };
  const tell = (state: NodeState, reason: string | null) => emit("node", { state, reason });
  // Loaded where there is one.
  const node =
    origin && import("../origin/node").then(({ Node }) => new Node(origin, path, copy, now, tell));

  return {
    /** Adopts the file. Blocks this thread alone. */
    adopt: (given: { create: boolean; nowMs: number }) => {
      mustBeSound();
      forgetLedger();
      try {
        const layout = adopt(open(), note, given);
        unadopted = null;
        return layout !== null;
      } catch (error) {
        const shown = translate(error);
        if (shown instanceof AppError || shown instanceof SetupError) unadopted = shown;
        return fail(error);
      }
    },

    /** Commits a group of posts in one transaction: all are durable when this returns. */
    commit: ({ posts, nowMs }: Commit): GroupOutcome | Promise<GroupOutcome> => {
      mustBeSound();
      if (node) return node.then((one) => one.commit(posts, nowMs));
      const begun = performance.now();
      try {
        const handle = open();
        const writer = ledgerOf(handle);
        const read = posts.map((p) => attempt(() => readPost(p, nowMs, writer.layout)));
        const group = { handle, writer, posts, read, nowMs };
        const outcomes = read.some((r) => "value" in r)
          ? commitGroup((undoable) => transaction(handle, () => writeGroup(group, undoable)))
          : (read as Outcome[]);
        return { outcomes, durationMs: performance.now() - begun };
      } catch (error) {
        return fail(error);
      }
    },

    /** Forgets idempotency keys that are past their time, a few at a time. */
    forget: ({ nowMs }: { nowMs: number }) => {
      mustBeSound();
      try {
        return open()
          .query(
            "DELETE FROM argo_idempotency WHERE key IN (SELECT key FROM argo_idempotency WHERE created_at < ? LIMIT ?)",
          )
          .run(forgottenBefore(nowMs), forgottenPerRun).changes;
      } catch (error) {
        return fail(error);
      }
    },

    /** Deletes some of what arrived before a time; see `SignalLedger.forgetOld`. */
    expire: ({ before, after }: { before: string; after: number }) => {
      mustBeSound();
      try {
        const handle = open();
        const writer = ledgerOf(handle);
        return transaction(handle, () => writer.forgetOld(before, after, expiredPerRun));
      } catch (error) {
        return fail(error);
      }
    },

    /** The same of the rows at the libSQL server. */
    expireOrigin: ({ before, after }: { before: string; after: number }) =>
      node?.then((one) => one.expire(before, after)),

    /** Forgets what is past its time at the libSQL server. */
    forgetOrigin: ({ nowMs }: { nowMs: number }) =>
      node?.then((one) => one.forget(forgottenBefore(nowMs))),

    /** There may be something new at the libSQL server. */
    tail: ({ here }: { here: boolean }) => node?.then((one) => one.wake(here)),

    refuse: ({ reason }: { reason: string }) => {
      damage = reason;
    },

    close: async () => {
      await (await node)?.[Symbol.asyncDispose]();
      checkpoint();
      forgetLedger();
      db?.close();
      db = undefined;
    },
  };
});

/**
 * SQLite pauses ever longer between its tries for the lock, up to 100 ms: of several writers that
 * keep at it some would be passed over for most of a second. Tries at an even pace are fair to all,
 * and leave an engine as many gaps as one writer does.
 */
function begin(handle: Database): void {
  const until = performance.now() + lockMs;
  handle.run("PRAGMA busy_timeout = 0");
  try {
    for (;;) {
      try {
        handle.run("BEGIN IMMEDIATE");
        return;
      } catch (error) {
        if (sqliteCode(error) !== "SQLITE_BUSY" || performance.now() >= until) throw error;
        Bun.sleepSync(tryEveryMs * (0.5 + Math.random()));
      }
    }
  } finally {
    handle.run(`PRAGMA busy_timeout = ${lockMs}`);
  }
}

const replaced = (): AppError =>
  new AppError("unavailable", "The signal file was replaced under the server. Restart it.");

const schemaVersion = (db: Database): number =>
  db.query<{ schema_version: number }, []>("PRAGMA schema_version").get()?.schema_version ?? -1;

type Group = {
  handle: Database;
  writer: SignalLedger;
  posts: Post[];
  read: ({ value: Drafts } | Refusal)[];
  nowMs: number;
};

/** Thrown where a post failed half-way and there is no savepoint to go back to. */
class HalfWritten extends Error {}

/**
 * Savepoints make each row cost three times as much (SQLite keeps a copy of every page), and posts
 * hardly ever fail half-way: so they are only set when a first try without them has failed.
 */
function commitGroup(write: (undoable: boolean) => Outcome[]): Outcome[] {
  try {
    return write(false);
  } catch (error) {
    if (error instanceof HalfWritten) return write(true);
    throw error;
  }
}

function writeGroup({ handle, writer, posts, read, nowMs }: Group, undoable: boolean): Outcome[] {
  return posts.map((post, i) => {
    const drafts = read[i];
    if (!drafts) throw new Error("a post without its reading");
    if ("error" in drafts) return drafts;
    const write = () => writePost(writer, post, drafts.value, nowMs);
    return undoable ? writeUndoable(handle, write) : writePlain(writer, write);
  });
}

/** Its faults undo this post's writes and nobody else's. */
function writeUndoable(db: Database, write: () => Done): Outcome {
  db.run("SAVEPOINT post");
  const done = attempt(write);
  if ("error" in done) db.run("ROLLBACK TO post");
  db.run("RELEASE post");
  return "error" in done ? done : done.value;
}

/** @throws HalfWritten when it fails after a row of it was written. */
function writePlain(writer: SignalLedger, write: () => Done): Outcome {
  const before = writer.inserts;
  const done = attempt(write);
  if (!("error" in done)) return done.value;
  if (writer.inserts !== before) throw new HalfWritten();
  return done;
}
