import { dirname } from "node:path";
import type { Config } from "../config";
import { AppError, SetupError } from "../errors";
import { Cursors } from "../http/cursor";
import type { View } from "../http/entitlement";
import { secureHeaders } from "../http/policy";
import type { Logger } from "../platform/log";
import type { Metrics } from "../platform/metrics";
import { isCorruption, type Synchronous } from "../platform/sqlite";
import { fileId, makeDirectory } from "../platform/directory";
import { mustHaveSoundLog } from "../platform/wal";
import { NodeStatus } from "./origin/status";
import { Ahead } from "./signals/ahead";
import { FarReader } from "./signals/far";
import { Answers } from "./signals/answers";
import { Feed } from "./signals/feed";
import { askLatest } from "./signals/latest";
import type { ReceivedSignal } from "./signals/signal";
import { Reached } from "./signals/reached";
import { SignalStats } from "./signals/stats";
import { SignalReader } from "./signals/store";
import { askSubscribed } from "./signals/subscribed";
import { Views } from "./signals/views";
import { SignalWriter } from "./signals/writer";

export type ArgoOptions = {
  config: Config;
  log: Logger;
  metrics: Metrics;
  now: () => number;
  beforeWriting: () => void;
  synchronous: Synchronous;
  /** Whether this process does what one of those with this file need do; see `SignalWriter`. */
  chores: boolean;
};

const deadlineMs = 5_000;
const lockedAtStartMs = 15_000;
const keepEveryMs = 250;
const aheadEveryMs = 10_000;
const damageCheckAfterMs = 20;
/** How long posts wait for that check; on a large file it takes longer. */
const damageCheckWaitMs = 2_000;
const wakeWriterAfterMs = 100;
const answersMax = 512;
/** What is kept grows old, and is collected late: resident memory grows by a multiple of this. */
const answersBytesMax = 4 * 1024 * 1024;

/** The data plane: everything that stands on the signal file. */
export class Argo implements AsyncDisposable {
  readonly far: FarReader;
  /** What each plan may see. */
  readonly views: Views;
  /** The answers of `/latest` and of `/subscribed`. */
  readonly answers: Answers;
  readonly subscribed: Answers;
  readonly stats: SignalStats;
  /** What comes to be seen, for those who wait for it. */
  readonly feed: Feed;
  readonly cursors: Cursors;
  /** How the file stands to the libSQL server that it is a copy of; null where it is nobody's. */
  readonly node: NodeStatus | null;
  /** Whether what a client has heard of elsewhere is here. */
  readonly reached: Reached;
  /** What SQLite's own check found; empty while it has found nothing. */
  damage: string[] = [];
  /** Signals from a clock that is ahead, as last counted. */
  readonly ahead: Ahead;
  readonly #timers: Timer[] = [];
  readonly #file: string | null;
  #log: string | null = null;
  #replaced: SetupError | null = null;
  #adopting: Promise<void> | null = null;
  #toldUnadopted = "";

  private constructor(
    readonly reader: SignalReader,
    readonly writer: SignalWriter,
    private readonly options: ArgoOptions,
  ) {
    const { config } = options;
    this.#file = fileId(config.signalsDb);
    this.far = new FarReader(reader, {
      path: config.signalsDb,
      deadlineMs,
      onEvent: threadEvents(options.log),
    });
    this.views = new Views(reader, this.far, options.now);
    this.stats = new SignalStats(this.views, this.far);
    this.ahead = new Ahead({ reader, far: this.far, log: options.log, now: options.now });
    this.feed = new Feed(config.signalsDb, reader, this.far, this.views, options.now);
    writer.onCommit = this.feed.wake;
    const copy =
      config.libsql &&
      new NodeStatus(options.log, reader.copyOf()?.whole ?? false, () => writer.tail(true));
    if (copy) {
      copy.onRows = () => {
        this.#keepInPlace();
        this.feed.wake();
      };
      writer.onNode = copy.apply;
    }
    this.node = copy;
    this.reached = new Reached(reader, this.feed, copy);
    if (copy) this.feed.reach = (sinceId, view) => this.reached.mustFollow(sinceId, view);
    reader.condemn(copy?.filling ?? null);
    // Without our own tables cursors live as long as this process.
    const transient = crypto.getRandomValues(new Uint8Array(32));
    let secret: Uint8Array | null = null;
    this.cursors = new Cursors(() => (secret ??= reader.secret()) ?? transient);
    const kept = {
      cache: config.cache,
      entriesMax: answersMax,
      bytesMax: answersBytesMax,
      headers: secureHeaders,
    };
    const answering = (understand: ConstructorParameters<typeof Answers>[3]["understand"]) =>
      new Answers(reader, this.far, this.views, { ...kept, understand });
    this.answers = answering(askLatest(config.pageSizeMax));
    this.subscribed = answering(askSubscribed(config.pageSizeMax, this.cursors));
  }

  /**
   * Opens the signal file and makes it ready to be served: adopted, migrated, indexed.
   * A file that can be read but not written is served as it is.
   * @throws SetupError when it can neither be served nor made.
   */
  static async open(options: ArgoOptions): Promise<Argo> {
    const { config, log, metrics, now } = options;
    mustHaveSoundLog(config.signalsDb);
    const checked = Promise.withResolvers<void>();
    const gate = Promise.race([checked.promise, Bun.sleep(damageCheckWaitMs)]);
    const writer = new SignalWriter({
      gate: () => gate,
      path: config.signalsDb,
      synchronous: options.synchronous,
      origin: config.libsql,
      retentionDays: config.signalsRetentionDays,
      chores: options.chores,
      now,
      metrics,
      onEvent: threadEvents(log),
    });
    try {
      let reader = tryReader(config.signalsDb);
      if (!ready(reader)) {
        options.beforeWriting();
        makeDirectory(dirname(config.signalsDb));
        if (fileId(config.signalsDb) === null && config.signalsDbGiven) {
          log.warn({ signals: config.signalsDb }, "there is no such file: an empty one is made");
        }
        const fault = await adoptPatiently(writer, log);
        reader ??= tryReader(config.signalsDb);
        if (fault && !reader?.layout) throw fault;
        if (fault) log.warn({ reason: fault.message, fix: fault.fix }, "serving without adopting");
      }
      if (!reader) throw new SetupError("The signal file cannot be opened.", openFix);
      reader.refresh();
      mustFit(reader, config);
      const argo = new Argo(reader, writer, options);
      argo.#keep(checked.resolve);
      return argo;
    } catch (error) {
      await writer[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Signals by their ids; those that are gone, or that this view does not see, are left out. */
  byIds(ids: readonly number[], view: View): Map<number, ReceivedSignal> {
    const { sight } = this.views.current(view);
    const found = ids.map((id) => this.reader.byId(id, sight)).filter((signal) => signal !== null);
    return new Map(found.map((signal) => [signal.id, signal]));
  }

  /** Why traffic is not welcome yet; null when it is. */
  get catchingUp(): string | null {
    return this.node?.settled === false ? "copying from the libSQL server" : null;
  }

  /** Why the signal file is not fit to be served; null when it is. */
  async fault(): Promise<string | null> {
    if (this.damage.length > 0) return "The signal file is damaged.";
    try {
      this.reader.refresh();
      if (!this.reader.layout) return "The signal file has no table of signals.";
      this.reader.touch();
      return null;
    } catch (error) {
      return error instanceof AppError ? error.detail : "The signal file cannot be read.";
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    this.feed.drain();
    await this.#adopting;
    await this.far[Symbol.asyncDispose]();
    this.reader[Symbol.dispose]();
    // The last to let go of the file is the one that may fold its log into it.
    await this.writer[Symbol.asyncDispose]();
  }

  /** Looks after the file while it is served. None of this runs for a poll. */
  #keep(checked: () => void): void {
    this.#every(keepEveryMs, () => this.#keepAdopted());
    this.#every(aheadEveryMs, () => void this.ahead.count());
    // Begins to follow the libSQL server.
    if (this.node) this.writer.tail(false);
    // The writer's thread also keeps the log short while only the engine writes.
    this.#after(wakeWriterAfterMs, () => this.#adopt());
    this.#after(damageCheckAfterMs, () => void this.#checkDamage().then(checked));
  }

  #every(ms: number, work: () => void): void {
    const timer = setInterval(work, ms);
    timer.unref();
    this.#timers.push(timer);
  }

  #after(ms: number, work: () => void): void {
    const timer = setTimeout(work, ms);
    timer.unref();
    this.#timers.push(timer);
  }

  /** The engine may drop its table and make it anew: then it is adopted again. */
  #keepAdopted(): void {
    const { reader } = this;
    this.#keepInPlace();
    try {
      reader.refresh();
    } catch {
      // Told by every poll and by the health check; the next look tries again.
      return;
    }
    if (reader.layout && !ready(reader)) this.#adopt();
  }

  /** Another file under the same name, or none: what is open here is what nobody writes any more. */
  #keepInPlace(): void {
    const { reader, options } = this;
    const path = options.config.signalsDb;
    const file = fileId(path);
    // The log is there for as long as anybody has the file open: another one is another file's.
    const log = fileId(`${path}-wal`);
    this.#log ??= log;
    if (file === this.#file && log === this.#log) {
      return reader.condemn(this.node?.filling ?? null);
    }
    if (!this.#replaced) {
      const what = file === null ? "removed" : "replaced";
      this.#replaced = new SetupError(
        `The signal file was ${what} under the server.`,
        "Restart it.",
      );
      this.#refuse(`${this.#replaced.message} ${this.#replaced.fix}`);
      options.log.error({ path, fix: this.#replaced.fix }, this.#replaced.message);
    }
    reader.condemn(this.#replaced);
  }

  #adopt(): void {
    this.#adopting ??= this.writer
      .adopt(false)
      .then(() => undefined)
      .catch(async (error: unknown) => {
        const reason = error instanceof AppError ? error.detail : String(error);
        if (reason !== this.#toldUnadopted) {
          this.options.log.warn({ reason }, "signal file cannot be written: nothing is ingested");
        }
        this.#toldUnadopted = reason;
        await Bun.sleep(adoptAgainMs);
      })
      .finally(() => {
        this.#adopting = null;
      });
  }

  #refuse(reason: string): void {
    this.writer.refuse(reason).catch((error: unknown) => {
      this.options.log.warn({ reason: String(error) }, "the writer was not told");
    });
  }

  /** A damaged page is found before a write makes it worse. On a thread of its own. */
  async #checkDamage(): Promise<void> {
    const checker = new FarReader(this.reader, {
      path: this.options.config.signalsDb,
      deadlineMs,
      onEvent: threadEvents(this.options.log),
    });
    try {
      this.damage = await checker.damage();
    } catch (error) {
      if (!(error instanceof AppError) || !/SQLITE_CORRUPT|malformed/.test(String(error.cause))) {
        this.options.log.warn({ reason: String(error) }, "signal file not checked");
        return;
      }
      this.damage = [error.detail];
    } finally {
      await checker[Symbol.asyncDispose]();
    }
    if (this.damage.length === 0) return;
    this.#refuse(damagedText);
    this.options.log.error(
      { damage: this.damage, fix: "Stop the server and run `argo-alpine restore BACKUP`." },
      "signal file damaged: nothing is written",
    );
  }
}

const damagedText =
  "The signal file is damaged: nothing is written. Stop the server and run `argo-alpine restore BACKUP`.";
const adoptAgainMs = 2_000;
const openFix =
  "Check SIGNALS_DB, its permissions, and those of its directory: SQLite needs to write beside it.";

const ready = (reader: SignalReader | null): boolean =>
  reader?.layout?.tracked === true && reader.complete;

/** A file is a copy of one libSQL server's rows, or has rows of its own. @throws SetupError */
function mustFit(reader: SignalReader, { libsql, signalsDb }: Config): void {
  const copy = reader.copyOf();
  if (libsql && !copy && reader.head.maxId > 0) {
    throw new SetupError(
      `${signalsDb} holds signals of its own, and LIBSQL_URL says that they are at the libSQL server.`,
      "Point SIGNALS_DB at a file that is not there yet; it is filled from the server.",
    );
  }
  if (libsql || !copy) return;
  throw new SetupError(
    `${signalsDb} is a copy of the signals at a libSQL server, and LIBSQL_URL is not set.`,
    `Set LIBSQL_URL. To make the copy a file of its own for good: sqlite3 ${signalsDb} 'DELETE FROM argo_tail'`,
  );
}

function tryReader(path: string): SignalReader | null {
  try {
    return new SignalReader(path);
  } catch (error) {
    if (error instanceof SetupError) throw error;
    const cause = error instanceof AppError ? error.cause : error;
    if (isCorruption(cause)) {
      throw new SetupError(
        `The signal file is damaged or no SQLite file: ${path}. It is left as it is.`,
        "Run `argo-alpine restore BACKUP`, or point SIGNALS_DB elsewhere.",
        { cause: error },
      );
    }
    return null;
  }
}

/** Adopts the file; a lock held by somebody else is waited for. Returns why it could not be done. */
async function adoptPatiently(writer: SignalWriter, log: Logger): Promise<SetupError | null> {
  const until = performance.now() + lockedAtStartMs;
  for (;;) {
    try {
      await writer.adopt(true);
      return null;
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      const locked = error.retryAfterSeconds !== undefined && error.retryAfterSeconds <= 2;
      if (!locked || performance.now() >= until) return new SetupError(error.detail, openFix);
      log.info({ reason: error.detail }, "waiting for the signal file");
    }
  }
}

function threadEvents(log: Logger): (event: string, data: unknown) => void {
  return (event, data) => {
    if (event === "note") {
      const { message, data: more } = data as { message: string; data?: Record<string, unknown> };
      log.info(more ?? {}, message);
    } else log.error({ data }, `thread ${event}`);
  };
}
