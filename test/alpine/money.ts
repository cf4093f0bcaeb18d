/** What tests of money ask of the server, and look at. */
import { and, eq, isNull } from "drizzle-orm";
import { plans, revenueMovements, sessions, type Tier, users } from "../../db/alpine/schema.ts";
import type { Payment } from "../../src/alpine/payments/schema.ts";
import type { PlanRow } from "../../src/alpine/plans/schema.ts";
import type { Revenue } from "../../src/alpine/revenue/schema.ts";
import type {
  CurrentSubscription,
  Invoice,
  StartedSubscription,
} from "../../src/alpine/subscriptions/schema.ts";
import type { Accounts, Member } from "../harness/accounts.ts";
import { problemOf } from "../harness/app.ts";
import { alpineOf, person } from "./people.ts";

export const DAY = 86_400_000;

/** Somebody who sells: an administrator with sessions that do not end meanwhile. */
export class Shop {
  #admin: Member | null = null;
  #references = 0;

  constructor(readonly at: Accounts) {}

  /** A token of the administrator that is good now. */
  async boss(): Promise<string> {
    this.#admin ??= await person(this.at, { role: "admin" });
    return this.token(this.#admin);
  }

  /** A token of somebody that is good now: clocks of tests run for months. */
  async token({ id: userId }: Member): Promise<string> {
    const alpine = alpineOf(this.at);
    const [user] = await this.at.db().select().from(users).where(eq(users.id, userId));
    if (!user) throw new Error("there is no such user");
    const { tier, role } = user;
    const of = and(eq(sessions.userId, userId), isNull(sessions.endedAt));
    const [open] = await this.at.db().select().from(sessions).where(of).limit(1);
    const { id: sessionId, generation } = open ?? (await this.#session(userId));
    return alpine.tokens.sign({ userId, sessionId, generation, tier, role });
  }

  async #session(userId: string): Promise<{ id: string; generation: number }> {
    const [id, now] = [Bun.randomUUIDv7("hex", this.at.clock.ms), new Date(this.at.clock.ms)];
    const times = { createdAt: now, lastUsedAt: now, expiresAt: now };
    await this.at
      .db()
      .insert(sessions)
      .values({ id, userId, ...times });
    return { id, generation: 0 };
  }

  async ask<T>(status: number, who: Member, method: string, path: string, body?: unknown) {
    return this.at.must<T>(status, method, path, body, await this.token(who));
  }

  /** The status and the words that a post is refused with. */
  async refusal(who: Member, path: string, body: unknown): Promise<string> {
    const answer = await this.at.call("POST", path, body, await this.token(who));
    const { status, detail } = await problemOf(answer);
    return `${status} ${detail}`;
  }

  current(who: Member): Promise<CurrentSubscription> {
    return this.ask(200, who, "GET", "/api/subscriptions");
  }

  subscribe(who: Member, tier: Tier): Promise<StartedSubscription> {
    return this.ask(201, who, "POST", "/api/subscriptions", { tier });
  }

  change(who: Member, tier: Tier): Promise<CurrentSubscription> {
    return this.ask(200, who, "POST", "/api/subscriptions/change", { tier });
  }

  cancel(who: Member): Promise<CurrentSubscription> {
    return this.ask(200, who, "POST", "/api/subscriptions/cancel");
  }

  /** The open invoice of somebody, as they see it. */
  async owed(who: Member): Promise<Invoice> {
    const { open_invoice: invoice } = await this.current(who);
    if (!invoice) throw new Error("nothing is owed");
    return invoice;
  }

  /** Books the open invoice of somebody. */
  async pay(who: Member): Promise<Payment> {
    return this.book(await this.owed(who));
  }

  async book({ id, amount_minor, currency }: Invoice): Promise<Payment> {
    const body = { invoice_id: id, amount_minor, currency, reference: this.reference() };
    return this.at.must(201, "POST", "/api/admin/payments", body, await this.boss());
  }

  reference(): string {
    this.#references += 1;
    return `bank ${this.#references}`;
  }

  /** What the clock has made due is done. */
  async settle(): Promise<void> {
    const alpine = alpineOf(this.at);
    // A round that began before does not know what is due since.
    await alpine.settle();
    await alpine.settle();
  }

  /** Lets time pass, then does what it has made due. */
  async pass(ms: number): Promise<void> {
    this.at.clock.ms += ms;
    await this.settle();
  }

  async revenue(): Promise<Revenue> {
    const path = "/api/admin/revenue?fresh=1";
    return this.at.must(200, "GET", path, undefined, await this.boss());
  }

  async plan(tier: Tier, change: Partial<PlanRow>): Promise<void> {
    await alpineOf(this.at).changes.write(async (tx, tell) => {
      await tx.update(plans).set(change).where(eq(plans.tier, tier));
      tell({ kind: "plan", tier });
    });
  }

  /** Kinds, tiers and amounts in their order. */
  async movements(who: Member): Promise<string[]> {
    const rows = await this.at
      .db()
      .select()
      .from(revenueMovements)
      .where(eq(revenueMovements.userId, who.id))
      .orderBy(revenueMovements.at, revenueMovements.deltaMinor);
    return rows.map(({ kind, tier, deltaMinor }) => `${kind} ${tier} ${deltaMinor}`);
  }
}
