import type { Database } from "bun:sqlite";
import { AppError, SetupError } from "../../errors";
import { type Owned, ownFile } from "../../platform/lock";
import {
  attempt,
  type GroupOutcome,
  type Outcome,
  type Post,
  readPost,
  writePost,
} from "../signals/group";
import type { Drafts } from "../signals/ingest";
import type { Layout } from "../signals/layout";
import { copyRows, join, placeOf } from "./copy";
import { type Expired, expireSome, nothingExpired } from "./expire";
import { claim, OriginLedger } from "./ledger";
import { Constraint, Origin, type OriginAddress, Overtaken, TooLarge } from "./origin";
import { markOf, mustStand, type OriginRow, type Place, rowsAfter, rowsOf, standing } from "./rows";

export type NodeOptions = OriginAddress & {
  /** How often the server is asked for new rows, where nobody tells of them. */
  pollMs: number;
};

/** How a node stands to the server that it copies. */
export type NodeState = {
  /** The highest id that is here, and the highest that the server is known to have given. */
  id: number;
  headId: number;
  /** True when nothing was missing at the last look. */
  current: boolean;
  /** True once nothing was missing: until then the file is not served. */
  whole: boolean;
  up: boolean;
  /** Why nothing is copied or written until an operator mends it; null when it is. */
  stopped: string | null;
  /** Rows that this process has copied. */
  rows: number;
  /** False while another process of this machine copies into the same file. */
  copies: boolean;
};

/** The file, in which each `write` is one transaction. */
export type NodeFile = {
  read: () => Database;
  layout: () => Layout;
  /** Builds the indexes that are not there. */
  index: () => void;
  write: <T>(work: (db: Database) => T) => T;
};

/** A post is told so when the server does not answer for this long: less than clients wait. */
const postMs = 1_500;
const pageMs = 15_000;
const rowsMax = 5_000;
const awayMs = 500;
const againMs = 5;
const forgottenPerRun = 1_000;
/** How often a process that does not copy looks whether it has to, and whether all is well. */
const idleMs = 1_000;

/**
 * One node of many: what is posted here is committed at the libSQL server, and what anybody has
 * committed there is copied into this node's file by ascending id, a page in each transaction
 * together with its place. So the file holds at any time exactly the server's rows up to some id.
 */
export class Node implements AsyncDisposable {
  readonly #posts: Origin;
  readonly #pages: Origin;
  readonly #running: Promise<void>;
  readonly #claimant = crypto.randomUUID();
  #owned: Owned | null = null;
  #closed = false;
  #pageRows = rowsMax;
  #asked = false;
  #failed = false;
  #lookedAt = -Infinity;
  #wake: (() => void) | null = null;
  #state: NodeState = {
    id: 0,
    headId: 0,
    current: false,
    whole: false,
    up: false,
    stopped: null,
    rows: 0,
    copies: false,
  };

  constructor(
    private readonly options: NodeOptions,
    private readonly path: string,
    private readonly file: NodeFile,
    /** The clock, milliseconds since the epoch. */
    private readonly now: () => number,
    private readonly tell: (state: NodeState, reason: string | null) => void,
  ) {
    this.#posts = new Origin(options, postMs);
    this.#pages = new Origin(options, pageMs);
    this.#running = this.#run();
  }

  /**
   * There may be something new. Of several processes on one file only one copies, but for what was
   * committed or is waited for here. A server that has just failed is not asked again for a rumour.
   */
  readonly wake = (here: boolean): void => {
    if (!here && (!this.#owned || this.#failed)) return;
    this.#asked = true;
    this.#wake?.();
  };

  /**
   * Commits a group of posts at the server: all are durable there when this resolves.
   * @throws AppError 503, and nothing was written that was not.
   */
  async commit(posts: Post[], nowMs: number): Promise<GroupOutcome> {
    const begun = performance.now();
    const place = this.#mustStand();
    const layout = this.file.layout();
    const read = posts.map((post) => attempt(() => readPost(post, nowMs, layout)));
    const good = read.flatMap((drafts, i) => {
      const post = posts[i];
      return "value" in drafts && post ? [{ i, post, drafts: drafts.value }] : [];
    });
    const outcomes = read.map((drafts) => ("error" in drafts ? drafts : undefined)) as Outcome[];
    if (good.length > 0) {
      const written = await this.#write(place, good, nowMs);
      for (const [at, { i }] of good.entries()) outcomes[i] = written[at] as Outcome;
      this.wake(true);
    }
    return { outcomes, durationMs: performance.now() - begun };
  }

  /** Forgets what is past its time at the server, a few at a time; whichever node comes first does it. */
  async forget(before: string): Promise<void> {
    while (this.#owned && this.#state.stopped === null && this.#state.up && !this.#closed) {
      const [done] = await this.#posts.write([
        {
          sql: `DELETE FROM argo_idempotency
                WHERE key IN (SELECT key FROM argo_idempotency WHERE created_at < ? LIMIT ?)`,
          args: [before, forgottenPerRun],
        },
      ]);
      if ((done?.rowsAffected ?? 0) < forgottenPerRun) return;
    }
  }

  /** Deletes some of what arrived at the server before a time; see `SignalLedger.forgetOld`. */
  async expire(before: string, after: number): Promise<Expired> {
    if (this.#state.stopped !== null || !this.#state.up) return nothingExpired;
    return expireSome(this.#posts, before, after);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.wake(true);
    // What is under way is given up: the file stays as it is between two transactions.
    this.#pages[Symbol.dispose]();
    await this.#running;
    this.#posts[Symbol.dispose]();
    this.#owned?.[Symbol.dispose]();
  }

  #mustStand(): Place {
    const { stopped } = this.#state;
    if (stopped !== null) throw new AppError("unavailable", stopped, { retryAfterSeconds: 30 });
    const place = placeOf(this.file.read());
    if (place) return place;
    const detail = "The libSQL server has not been reached yet. Try again.";
    throw new AppError("unavailable", detail, { retryAfterSeconds: 2 });
  }

  /** A rule of an adopted table may refuse one post of a group: then each goes by itself. */
  async #write(place: Place, posts: Readable[], nowMs: number): Promise<Outcome[]> {
    try {
      return await this.#writeGroup(place, posts, nowMs);
    } catch (error) {
      if (!(error instanceof Constraint)) throw this.#seen(error);
      if (posts.length === 1) return [refused(error)];
      const outcomes: Outcome[] = [];
      for (const post of posts) outcomes.push(...(await this.#write(place, [post], nowMs)));
      return outcomes;
    }
  }

  /**
   * Looks and writes until nobody has written in between. Who was overtaken claims the next turn with
   * its look: else a node that is far away would never come before those that are near.
   */
  async #writeGroup(place: Place, posts: Readable[], nowMs: number): Promise<Outcome[]> {
    const until = performance.now() + postMs;
    for (let tries = 0; ; tries += 1) {
      const ledger = await OriginLedger.open(
        async (statements) => {
          if (tries === 0) return await this.#posts.read(statements);
          const [, ...results] = await this.#posts.write([claim(this.#claimant), ...statements]);
          return results;
        },
        place,
        posts.map(({ post }) => post),
        posts.map(({ drafts }) => drafts),
      );
      const outcomes = posts.map(({ post, drafts }): Outcome => {
        const before = ledger.rows;
        const done = attempt(() => writePost(ledger, post, drafts, nowMs));
        if (!("error" in done)) return done.value;
        ledger.undo(before);
        return done;
      });
      const statements = ledger.statements(this.#claimant);
      if (statements.length === 0) return outcomes;
      try {
        await this.#posts.write(statements);
        return outcomes;
      } catch (error) {
        if (!(error instanceof Overtaken)) throw error;
        if (performance.now() >= until) throw busy(error);
        // Whoever has the turn is not to be kept from it by those who ask.
        await Bun.sleep(againMs * Math.random() * (tries + 1));
      }
    }
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      const asked = this.#asked;
      this.#asked = false;
      let restMs = this.options.pollMs;
      try {
        this.#owned ??= ownFile(`${this.path}-tail`);
        if (this.#owned || asked) await this.#tail();
        else if (performance.now() - this.#lookedAt >= idleMs) await this.#look();
        this.#failed = false;
      } catch (error) {
        if (this.#closed) return;
        this.#failed = true;
        this.#seen(error);
        restMs = Math.max(restMs, awayMs);
      }
      if (!this.#closed && !this.#asked) await this.#rest(restMs);
    }
  }

  #rest(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Copies all that is there. The next page is on its way while one is written. */
  async #tail(): Promise<void> {
    const place = placeOf(this.file.read()) ?? (await this.#join());
    let page = await this.#page(place);
    for (;;) {
      const { rows, headId, expiredId, more } = page;
      const last = rows.at(-1);
      const next =
        more && last ? this.#page({ ...place, id: last.id, rowSha256: markOf(last) }) : null;
      // Its failure is met where it is awaited.
      next?.catch(() => undefined);
      const copied = { origin: place.origin, expiredId, nowMs: this.now() };
      const added = this.file.write((db) => copyRows(db, rows, { ...copied, whole: false }));
      if (!more && placeOf(this.file.read())?.whole === false) {
        this.file.index();
        this.file.write((db) => copyRows(db, [], { ...copied, whole: true }));
      }
      const here = placeOf(this.file.read()) ?? place;
      this.#set({
        id: here.id,
        // The newest rows may have been deleted: then nothing is missing.
        headId: more ? headId : here.id,
        current: !more,
        whole: here.whole,
        up: true,
        stopped: null,
        rows: this.#state.rows + added,
      });
      if (!next || this.#closed) return;
      page = await next;
    }
  }

  async #join(): Promise<Place> {
    const identity = await this.#pages.identity();
    this.file.write((db) => join(db, identity));
    const place = placeOf(this.file.read());
    if (!place) throw new Error("the file was not joined");
    return place;
  }

  async #page(place: Place): Promise<Page> {
    for (;;) {
      const limit = this.#pageRows;
      try {
        const asked = [...standing(place), rowsAfter(place.id, limit)];
        const results = await this.#pages.read(asked);
        const { headId, expiredId } = mustStand(place, results);
        const rows = rowsOf(results[2]);
        this.#pageRows = Math.min(rowsMax, limit * 2);
        return { rows, headId, expiredId, more: rows.length === limit };
      } catch (error) {
        if (!(error instanceof TooLarge)) throw error;
        if (limit === 1) throw tooLarge(place, error);
        this.#pageRows = Math.ceil(limit / 8);
      }
    }
  }

  /** Another process of this machine copies: whether all is well is looked at all the same. */
  async #look(): Promise<void> {
    this.#lookedAt = performance.now();
    const place = placeOf(this.file.read());
    if (!place) return;
    // The newest rows may have been deleted: then nothing is missing.
    const asked = [...standing(place), 'SELECT max(id) AS id FROM "signals"'];
    const results = await this.#pages.read(asked);
    mustStand(place, results);
    const { id, whole } = placeOf(this.file.read()) ?? place;
    const headId = Math.max(id, Number(results[2]?.rows[0]?.["id"] ?? 0));
    const stands = id === this.#state.id && this.#state.headId > id && headId > id;
    this.#set({ id, headId, current: id >= headId, whole, up: true, stopped: null });
    // Whoever is to copy hangs.
    if (stands) await this.#tail();
  }

  /** Notes what a failure says of the server. */
  #seen(error: unknown): unknown {
    const stopped = error instanceof SetupError ? `${error.message} ${error.fix}` : null;
    const reason = error instanceof AppError ? error.detail : String(error);
    const place = this.#state.id > 0 ? null : attemptPlace(this.file);
    const here = place && { id: place.id, whole: place.whole };
    this.#set(
      { ...here, current: false, up: stopped !== null, ...(stopped !== null && { stopped }) },
      stopped ?? reason,
    );
    if (stopped === null) return error;
    return new AppError("unavailable", stopped, { retryAfterSeconds: 30, cause: error });
  }

  #set(state: Partial<NodeState>, reason: string | null = null): void {
    this.#state = { ...this.#state, ...state, copies: this.#owned !== null };
    this.tell(this.#state, reason);
  }
}

type Readable = { post: Post; drafts: Drafts };
type Page = { rows: OriginRow[]; headId: number; expiredId: number; more: boolean };

function attemptPlace({ read }: NodeFile): Place | null {
  try {
    return placeOf(read());
  } catch {
    return null;
  }
}

const busy = (cause: Error): AppError =>
  new AppError("unavailable", "The libSQL server is busy with other nodes' posts. Try again.", {
    retryAfterSeconds: 1,
    cause,
  });

const tooLarge = ({ id }: Place, cause: Error): AppError =>
  new AppError(
    "unavailable",
    `The next signal after ${id} at the libSQL server is too large to be copied. Delete that row.`,
    { retryAfterSeconds: 30, cause },
  );

function refused(error: Constraint): Outcome {
  const detail = `The signal table refused the row: ${error.message}.`;
  return { error: { code: "conflict", detail, errors: undefined, retryAfterSeconds: undefined } };
}
