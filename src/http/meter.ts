/** What requests are counted apart by. */
export type RouteClass = "signals" | "account" | "admin";

/** What one account did on one day in one class of routes; `userId` is null for who has none. */
export type UsageRow = {
  userId: string | null;
  /** UTC, YYYY-MM-DD. */
  day: string;
  routeClass: RouteClass;
  requests: number;
  /** Answers of status 400 and above. */
  errors: number;
  /** Signals in answers of status 200 and in messages of streams. */
  delivered: number;
};

/** Signals that an account was given for the first time, as far as this process knows. */
export type Delivery = { userId: string; ids: readonly number[]; atMs: number };

/** One stretch of counting within one day. Rows of another sheet are closed. */
type Sheet = { id: number; day: string; fromMs: number; untilMs: number; rows: UsageRow[] };
type Row = UsageRow & { sheet: number };

type Options = {
  now: () => number;
  /** Accounts that are remembered by their id, and first deliveries that wait to be written. */
  accountsMax?: number;
  deliveriesMax?: number;
};

const dayMs = 86_400_000;

/**
 * Counts what everybody does, in process: nothing here waits for anything. Whoever writes it down
 * takes it from here.
 */
export class Meters {
  /** Of all who come without an account: open readers, the operator's tokens, the unknown. */
  readonly strangers: Meter;
  /** Deliveries that nobody took in time. */
  deliveriesDropped = 0;
  readonly #accounts = new Map<string, Meter>();
  #sheet: Sheet;
  #looked = false;
  #closed: UsageRow[] = [];
  #deliveries: Delivery[] = [];
  #waiting = 0;

  constructor(private readonly options: Options) {
    this.#sheet = sheetAt(options.now());
    this.strangers = new Meter(this, null);
  }

  /** The one meter of an account. Who comes back after many others may get another: sums are the same. */
  of(userId: string): Meter {
    const held = this.#accounts.get(userId);
    if (held) return held;
    if (this.#accounts.size >= (this.options.accountsMax ?? 100_000)) this.#accounts.clear();
    const made = new Meter(this, userId);
    this.#accounts.set(userId, made);
    return made;
  }

  /** Deliveries that wait to be taken. */
  get waiting(): number {
    return this.#waiting;
  }

  /** What was counted since this was last asked. */
  takeRows(): UsageRow[] {
    const rows = [...this.#closed, ...this.#sheet.rows];
    this.#closed = [];
    this.#sheet = sheetAt(this.options.now());
    return rows;
  }

  takeDeliveries(): Delivery[] {
    const taken = this.#deliveries;
    this.#deliveries = [];
    this.#waiting = 0;
    return taken;
  }

  /** Puts back what could not be written, before what came meanwhile. */
  returnDeliveries(deliveries: Delivery[]): void {
    this.#deliveries = [...deliveries, ...this.#deliveries];
    this.#waiting = this.#deliveries.reduce((sum, { ids }) => sum + ids.length, 0);
    this.#bound();
  }

  /** For Meter: the sheet that is open at this moment. */
  open(): Sheet {
    if (!this.#looked) this.#look();
    return this.#sheet;
  }

  /** Once for all that is counted together: to ask the time costs more than to count. */
  #look(): void {
    this.#looked = true;
    queueMicrotask(this.#lookAgain);
    const nowMs = this.options.now();
    const { fromMs, untilMs, rows } = this.#sheet;
    if (nowMs >= fromMs && nowMs < untilMs) return;
    this.#closed = [...this.#closed, ...rows];
    this.#sheet = sheetAt(nowMs);
  }

  readonly #lookAgain = (): void => {
    this.#looked = false;
  };

  /** For Meter. */
  deliver(userId: string, ids: readonly number[]): void {
    this.#deliveries.push({ userId, ids, atMs: this.options.now() });
    this.#waiting += ids.length;
    if (this.#waiting > this.#deliveriesMax) this.#bound();
  }

  get #deliveriesMax(): number {
    return this.options.deliveriesMax ?? 1_000_000;
  }

  /** A tenth at once: to let go of them one by one would move the whole list each time. */
  #bound(): void {
    if (this.#waiting <= this.#deliveriesMax) return;
    let gone = 0;
    for (const { ids } of this.#deliveries) {
      if (this.#waiting <= this.#deliveriesMax * 0.9) break;
      this.#waiting -= ids.length;
      this.deliveriesDropped += ids.length;
      gone += 1;
    }
    this.#deliveries = this.#deliveries.slice(gone);
  }
}

/** Arrays of ids that an account was given lately: a bot may ask for several things in turn. */
const recentMax = 8;

/** Counts for one account in this process, whichever of its keys and sessions comes. */
export class Meter {
  #signals: Row | null = null;
  #account: Row | null = null;
  #admin: Row | null = null;
  #last: readonly number[] = none;
  #recent: (readonly number[])[] | null = null;
  #turn = 0;
  /** What new arrays are compared with. */
  #before: readonly number[] = none;

  constructor(
    private readonly meters: Meters,
    readonly userId: string | null,
  ) {}

  /** Counts one request, once it is answered. */
  answered(routeClass: RouteClass, status: number): void {
    const row = this.#row(routeClass);
    row.requests += 1;
    if (status >= 400) row.errors += 1;
  }

  /**
   * Counts signals that were sent, and notes those that are new to the account. Cheapest for an
   * array that was given before: arrays are told apart by what they are, so they must never change.
   * To several connections of one account they are sent so many `times`.
   */
  deliver(ids: readonly number[], times = 1): void {
    if (ids.length === 0) return;
    this.#row("signals").delivered += ids.length * times;
    if (ids === this.#last || this.userId === null) return;
    this.#last = ids;
    if (this.#recent?.includes(ids)) return;
    (this.#recent ??= [])[this.#turn] = ids;
    this.#turn = (this.#turn + 1) % recentMax;
    const fresh = freshOf(ids, this.#before);
    // A single read says little of what the next poll will show.
    if (ids.length > 1 || this.#before.length <= 1) this.#before = ids;
    if (fresh.length > 0) this.meters.deliver(this.userId, fresh);
  }

  #row(routeClass: RouteClass): Row {
    const sheet = this.meters.open();
    const held =
      routeClass === "signals"
        ? this.#signals
        : routeClass === "account"
          ? this.#account
          : this.#admin;
    if (held !== null && held.sheet === sheet.id) return held;
    const { userId } = this;
    const { id, day, rows } = sheet;
    const row = { sheet: id, userId, day, routeClass, requests: 0, errors: 0, delivered: 0 };
    rows.push(row);
    if (routeClass === "signals") this.#signals = row;
    else if (routeClass === "account") this.#account = row;
    else this.#admin = row;
    return row;
  }
}

const none: readonly number[] = Object.freeze([]);

let sheets = 0;

function sheetAt(nowMs: number): Sheet {
  const fromMs = Math.floor(nowMs / dayMs) * dayMs;
  const day = new Date(fromMs).toISOString().slice(0, 10);
  sheets += 1;
  return { id: sheets, day, fromMs, untilMs: fromMs + dayMs, rows: [] };
}

/** The difference that was asked for last: after a new signal everybody asks for the same one. */
let memo: { ids: readonly number[]; before: readonly number[]; fresh: readonly number[] } = {
  ids: none,
  before: none,
  fresh: none,
};

/** Ids that were not there before. Not of those that a number cannot hold. */
function freshOf(ids: readonly number[], before: readonly number[]): readonly number[] {
  if (memo.ids === ids && memo.before === before) return memo.fresh;
  const known = before.length > 32 ? new Set(before) : null;
  const fresh = ids.filter(
    (id) => Number.isSafeInteger(id) && !(known ? known.has(id) : before.includes(id)),
  );
  memo = { ids, before, fresh };
  return fresh;
}
