/** Where webhooks are sent: each handed over once, by what its receiver answered. */
import { Webhook } from "standardwebhooks";
import type { Stored } from "./judge.ts";
import { type Filter, isFor, type Ledger, type Reader, type Sequence } from "./ledger.ts";
import type { WireSignal } from "./ledger.ts";
import { below } from "./stage.ts";

const SLOW_MS_MAX = 1_500;

interface Hook {
  reader: Reader;
  filter: Filter;
  secret: string;
  sequence: Sequence | null;
}

type Random = () => number;

/** One server for all of them; by its path each is known. */
export class Hooks implements AsyncDisposable {
  /** Requests so far, those that were refused or are no news included. */
  came = 0;
  readonly #hooks = new Map<string, Hook>();
  readonly #taken = new Set<string>();
  readonly #refused = new Set<string>();
  #ledger: Ledger | null = null;
  #random: Random = () => 1;
  readonly #server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    idleTimeout: 0,
    fetch: (request) => this.#take(request),
  });

  /** Where a webhook of this name is to be sent. */
  urlOf(name: string): string {
    return `http://127.0.0.1:${this.#server.port}/${name}`;
  }

  add(name: string, reader: Reader, filter: Filter, secret: string): void {
    this.#hooks.set(name, { reader, filter, secret, sequence: null });
  }

  /** From now on what comes is noted. */
  attend(ledger: Ledger, random: Random): void {
    this.#ledger = ledger;
    this.#random = random;
    for (const [name, hook] of this.#hooks) {
      const { reader, filter } = hook;
      hook.sequence = ledger.follow({
        name: `webhook ${name}`,
        reader,
        filter,
        fromId: 0,
        ordered: false,
      });
    }
  }

  /** Whether all has come. */
  complete(rows: readonly Stored[]): boolean {
    return [...this.#hooks.values()].every(({ reader, filter, sequence }) => {
      const expected = rows.filter(({ sent }) => sent !== null && isFor(reader, filter, sent));
      return sequence === null || sequence.shown.length >= expected.length;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.stop(true);
  }

  async #take(request: Request): Promise<Response> {
    const ledger = this.#ledger;
    const name = new URL(request.url).pathname.slice(1);
    const hook = this.#hooks.get(name);
    const body = await request.text();
    const headers = Object.fromEntries(request.headers);
    this.came += 1;
    const key = `${name} ${headers["webhook-id"]}`;
    if (!ledger || !hook?.sequence) return new Response("who?", { status: 404 });
    try {
      new Webhook(hook.secret).verify(body, headers);
    } catch (error) {
      ledger.odd.push(`webhook ${name}: ${String(error)}`);
    }
    const luck = this.#random();
    if (luck < 0.02 && !this.#refused.has(key)) {
      this.#refused.add(key);
      return new Response("not now", { status: 500 });
    }
    if (luck > 0.98) await Bun.sleep(below(this.#random, SLOW_MS_MAX));
    // After a kill one may come again, under the same id.
    if (!this.#taken.has(key)) {
      this.#taken.add(key);
      ledger.see(hook.sequence, (JSON.parse(body) as { data: WireSignal }).data);
    }
    return new Response("ok");
  }
}
