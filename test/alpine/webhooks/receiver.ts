/** Where webhooks are sent in tests, and what sends them, driven by hand. */
import { setSystemTime } from "bun:test";
import { Webhook } from "standardwebhooks";
import type { Tier, UserRole } from "../../../db/alpine/schema.ts";
import { WebhookTasks } from "../../../src/alpine/webhooks/tasks.ts";
import type { Accounts, Member } from "../../harness/accounts.ts";
import { signal } from "../../harness/app.ts";
import { alpineOf, person } from "../people.ts";

export interface Received {
  id: string;
  headers: Record<string, string>;
  body: string;
  message: { type: string; timestamp: string; data: Record<string, unknown> };
}

export interface Receiver extends AsyncDisposable {
  url: string;
  got: Received[];
  /** Ids of the signals that came, in their order. */
  ids(): number[];
  /** What it answers; 200 where nothing is said. */
  answer: (request: Received) => Response | Promise<Response>;
}

/** A server of its own on a free port of 127.0.0.1. */
export function receiver(): Receiver {
  const got: Received[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    idleTimeout: 0,
    development: false,
    async fetch(request) {
      const body = await request.text();
      const headers = Object.fromEntries(request.headers);
      const message = JSON.parse(body) as Received["message"];
      const received = { id: headers["webhook-id"] ?? "", headers, body, message };
      got.push(received);
      return at.answer(received);
    },
  });
  const at: Receiver = {
    url: `http://127.0.0.1:${server.port}/signals?of=a-bot`,
    got,
    ids: () => got.flatMap(({ message: { data } }) => (data["id"] ? [Number(data["id"])] : [])),
    answer: () => new Response("ok"),
    async [Symbol.asyncDispose]() {
      await server.stop(true);
    },
  };
  return at;
}

/** As the library checks it for a receiver whose clock is that of the test. @throws what it says. */
export function verified(secret: string, { body, headers }: Received, nowMs: number): unknown {
  setSystemTime(nowMs);
  try {
    return new Webhook(secret).verify(body, headers);
  } finally {
    setSystemTime();
  }
}

/** True when one of the signatures is of this secret, whenever it was made. */
export function signedBy(secret: string, { id, body, headers }: Received): boolean {
  const at = new Date(Number(headers["webhook-timestamp"]) * 1_000);
  const signature = new Webhook(secret).sign(id, at, body);
  return (headers["webhook-signature"] ?? "").split(" ").includes(signature);
}

export interface Hook {
  id: string;
  secret: string;
  url: string;
  status: string;
  reason: string | null;
  last_signal_id: number;
  failing_since: string | null;
  old_secret_until: string | null;
}
export interface Delivery {
  id: string;
  type: string;
  signal_id: number | null;
  status: string;
  attempts: number;
  last_status: number | null;
  last_error: string | null;
  duration_ms: number | null;
  next_attempt_at: string | null;
}

/** The same content again would be the same signal. */
let posted = 0;

/** Accounts, a member of them with webhooks, and what sends those. */
export class World implements AsyncDisposable {
  readonly tasks: WebhookTasks;
  /** 0 to 1: 0.5 has no jitter. */
  random = 0.5;

  private constructor(
    readonly at: Accounts,
    readonly member: Member,
  ) {
    this.tasks = this.another();
  }

  static async open(at: Accounts, tier: "starter" | "pro" | "elite" = "elite"): Promise<World> {
    return new World(at, await person(at, { tier }));
  }

  /** What another process would send with, at the same time. */
  another(): WebhookTasks {
    const { metrics, log, webhookSource: source } = this.at.app.deps;
    const alpine = alpineOf(this.at);
    const now = () => this.at.clock.ms;
    const embedded = this.at.backend === "embedded";
    const random = () => this.random;
    return new WebhookTasks({ alpine, source, embedded, now, log, metrics, random });
  }

  hook(url: string, more: object = {}, member = this.member): Promise<Hook> {
    return this.at.must<Hook>(201, "POST", "/api/webhooks", { url, ...more }, member.access);
  }

  async ask<T>(method: string, path: string, body?: unknown, status = 200): Promise<T> {
    const access = await this.access();
    return this.at.must<T>(status, method, `/api/webhooks/${path}`, body, access);
  }

  /** A token of the member's session that is good now, however the clock was moved. */
  access(): Promise<string> {
    const [, claims = ""] = this.member.access.split(".");
    const { sub, sid, gen, tier, role } = JSON.parse(
      Buffer.from(claims, "base64url").toString(),
    ) as { sub: string; sid: string; gen: number; tier: Tier; role: UserRole };
    const subject = { userId: sub, sessionId: sid, generation: gen, tier, role };
    return alpineOf(this.at).tokens.sign(subject);
  }

  get(id: string): Promise<Hook> {
    return this.ask("GET", id);
  }

  async log(id: string, query = ""): Promise<Delivery[]> {
    const path = `${id}/deliveries${query}`;
    return (await this.ask<{ deliveries: Delivery[] }>("GET", path)).deliveries;
  }

  /** Posts a signal, by default a premium one. @returns its id. */
  async post(more: Record<string, unknown> = {}): Promise<number> {
    posted += 1;
    const timestamp = new Date().toISOString();
    const body = signal({ entry_price: 100 + posted / 1000, timestamp, ...more });
    const response = await this.at.app.post(body);
    const { signals } = (await response.json()) as { signals: [{ id: number }] };
    return signals[0].id;
  }

  /** Hands over and sends all that is due. */
  async send(): Promise<void> {
    this.tasks.outbox?.doubt();
    await this.tasks.look();
    await this.tasks.sender.idle();
  }

  /** The same, so much later. */
  async later(seconds: number): Promise<void> {
    this.at.clock.ms += seconds * 1_000;
    await this.send();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tasks[Symbol.asyncDispose]();
  }
}
