/** Those who write: over HTTP, again until it was acknowledged, and into the file beside the server. */
import { join } from "node:path";
import type { Sent } from "./ledger.ts";
import type { Poller } from "./readers.ts";
import { below, type Stage } from "./stage.ts";

const ANSWER_MS_MAX = 5_000;
const HANG_UP_MS_MAX = 8;
const ROWS_PER_POST_MAX = 5;
const PAUSE_MS_MAX = 80;

/** Posts, and now and then polls right behind an acknowledgement. */
export async function produce(
  stage: Stage,
  name: string,
  random: () => number,
  poller: Poller,
): Promise<void> {
  for (let post = 1; !stage.over(); post += 1) {
    const keyed = random() < 0.5;
    const timed = !keyed || random() < 0.5;
    const count = 1 + below(random, ROWS_PER_POST_MAX);
    const rows = Array.from({ length: count }, () => stage.ledger.make(random, timed));
    await deliver(stage, name, random, rows, keyed ? `${name} ${post}`.replaceAll(" ", "-") : null);
    if (random() < 0.5) await poller.poll();
    else await Bun.sleep(below(random, PAUSE_MS_MAX));
  }
}

/** Sends the same post until its fate is known. */
async function deliver(
  stage: Stage,
  name: string,
  random: () => number,
  rows: readonly Sent[],
  key: string | null,
): Promise<void> {
  const { ledger, counts } = stage;
  const contents = rows.map(({ content }) => content);
  const headers = {
    ...stage.writeHeaders,
    "Content-Type": "application/json",
    ...(key !== null && { "Idempotency-Key": key }),
  };
  const body = JSON.stringify(contents.length === 1 ? contents[0] : contents);
  for (; !stage.late(); counts.retries += 1) {
    // Now and then it hangs up while its post is being written, and cannot know.
    const hangUp = random() < 0.1;
    try {
      const response = await fetch(`${stage.url(random)}/api/signals`, {
        method: "POST",
        headers,
        body,
        signal: AbortSignal.timeout(hangUp ? below(random, HANG_UP_MS_MAX) : ANSWER_MS_MAX),
      });
      const text = await response.text();
      if (response.status === 201) {
        const { signals } = JSON.parse(text) as { signals: { id: number }[] };
        if (signals.length !== rows.length) ledger.odd.push(`${name}: ${text}`);
        for (const [i, { id }] of signals.entries()) ledger.acknowledge(rows[i] as Sent, id);
        return;
      }
      // In flight under this key, or refused for now.
      if (response.status !== 409 && response.status !== 503) {
        return void ledger.odd.push(`${name}: ${response.status} ${text}`);
      }
    } catch {
      // Whether it was written is not known: it is sent again.
    }
    await Bun.sleep(10 + below(random, 50));
  }
}

/** Somebody who writes beside the servers. */
export interface Beside extends AsyncDisposable {
  /** @returns the ids once they are committed; null where that is not known. */
  write(rows: readonly Sent["content"][]): Promise<readonly number[] | null>;
  faults: Record<string, (forMs: number) => Promise<void>>;
}

/** Writes now and then; what is not known to be committed is not written again. */
export async function writeBeside(
  stage: Stage,
  { write }: Beside,
  random: () => number,
): Promise<void> {
  const { ledger } = stage;
  while (!stage.over()) {
    const rows = Array.from({ length: 1 + below(random, 3) }, () => ledger.make(random, true));
    const ids = await write(rows.map(({ content }) => content));
    for (const [i, id] of (ids ?? []).entries()) ledger.acknowledge(rows[i] as Sent, id);
    await Bun.sleep(below(random, 40));
  }
}

/** What the engine is told, and tells back once its commit has returned. */
export type EngineOrder = { rows: readonly Sent["content"][] } | { holdMs: number };
export type EngineNews = "ready" | "held" | { ids: number[] };

/** Another program that writes into the file; it may be killed at any time. */
export class FileWriter implements Beside {
  readonly faults = {
    lock: async (holdMs: number): Promise<void> => void (await this.#ask({ holdMs })),
    "engine killed": async (): Promise<void> => void this.#child?.kill("SIGKILL"),
  };
  #child: ReturnType<typeof Bun.spawn> | null = null;
  #answer: ((news: EngineNews | null) => void) | null = null;
  #idle: Promise<unknown> = Promise.resolve();

  constructor(private readonly db: string) {}

  readonly write: Beside["write"] = async (rows) => {
    const news = await this.#ask({ rows });
    // Killed under way: nobody knows, and nothing was promised.
    return news !== null && typeof news === "object" ? news.ids : null;
  };

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
  }

  /** One order at a time. @returns null when it died under way. */
  #ask(order: EngineOrder): Promise<EngineNews | null> {
    const asked = this.#idle.then(async () => {
      if (this.#child === null) await this.#start();
      return this.#exchange(() => this.#child?.send(order));
    });
    this.#idle = asked;
    return asked;
  }

  async #start(): Promise<void> {
    await this.#exchange(() => {
      const child = Bun.spawn([process.execPath, join(import.meta.dir, "engine.ts"), this.db], {
        stdio: ["ignore", "inherit", "inherit"],
        ipc: (news: EngineNews) => this.#answer?.(news),
      });
      this.#child = child;
      void child.exited.then(() => {
        if (this.#child === child) this.#child = null;
        this.#answer?.(null);
      });
    });
  }

  #exchange(begin: () => void): Promise<EngineNews | null> {
    return new Promise((resolve) => {
      this.#answer = (news) => {
        this.#answer = null;
        resolve(news);
      };
      try {
        begin();
      } catch {
        this.#answer(null);
      }
    });
  }
}
