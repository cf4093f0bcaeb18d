/** Producers that post until the server dies, with a ledger of what they sent and were promised. */
import { acceptedOf, type Answer, readFile, signal, Wire } from "./harness.ts";

interface Sent {
  symbols: string[];
  body: unknown;
  key: string | null;
  /** The ids that a 201 named; null while there was none. */
  ids: number[] | null;
}

/** What was sent and what was acknowledged: it owes the server nothing. */
export class Ledger {
  readonly posts: Sent[] = [];
  /** Answers that were neither 201 nor a polite 503. */
  readonly odd: string[] = [];
  refused = 0;
  #next = 0;

  constructor(private readonly random: () => number) {}

  get acknowledged(): Sent[] {
    return this.posts.filter((post) => post.ids !== null);
  }

  get unanswered(): Sent[] {
    return this.posts.filter((post) => post.ids === null);
  }

  /** A batch of 1 to 20 timed signals, or one without a time that only its key makes unique. */
  make(): Sent {
    const keyed = this.random() < 0.5;
    const count = keyed ? 1 : 1 + Math.floor(this.random() * 20);
    const bodies = Array.from({ length: count }, () => {
      this.#next += 1;
      return signal(`K${this.#next}`, this.#next, !keyed);
    });
    const symbols = bodies.map((body) => body.symbol);
    const post: Sent = {
      symbols,
      body: count === 1 ? bodies[0] : bodies,
      key: keyed ? `key-${symbols[0]}` : null,
      ids: null,
    };
    this.posts.push(post);
    return post;
  }

  /** Posts until the connection is lost or the check says so. */
  async produce(url: string, over: () => boolean = () => false): Promise<void> {
    let wire: Wire | null = null;
    try {
      wire = await Wire.open(url);
      while (!over() && !wire.leaving) await this.send(wire, this.make());
    } catch {
      // The server died or left under way: the post stays unanswered.
    } finally {
      wire?.[Symbol.dispose]();
    }
  }

  async send(wire: Wire, post: Sent): Promise<Answer> {
    const headers: Record<string, string> =
      post.key === null ? {} : { "Idempotency-Key": post.key };
    const answer = await wire.post(post.body, headers);
    if (answer.status === 201) post.ids = acceptedOf(answer).map((row) => row.id);
    else if (answer.status === 503) this.refused += 1;
    else this.odd.push(`${answer.status} ${answer.body}`);
    return answer;
  }

  /** What the file lacks of the promises, holds beyond what was sent, or holds twice. */
  compare(db: string): { lost: string[]; phantom: string[]; twice: string[]; integrity: string[] } {
    const { rows, integrity } = readFile(db);
    const stored = new Map(rows.map((row) => [row.id, row.symbol]));
    const sent = new Set(this.posts.flatMap((post) => post.symbols));
    const lost = this.acknowledged.flatMap(({ symbols, ids }) =>
      symbols.filter((symbol, i) => stored.get(ids?.[i] ?? 0) !== symbol),
    );
    const seen = new Set<string>();
    const twice: string[] = [];
    for (const { symbol } of rows) {
      if (seen.has(symbol)) twice.push(symbol);
      seen.add(symbol);
    }
    const phantom = [...seen].filter((symbol) => !sent.has(symbol));
    return { lost, phantom, twice, integrity };
  }
}

export const SOUND = { lost: [], phantom: [], twice: [], integrity: ["ok"] };
