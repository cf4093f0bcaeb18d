import { and, eq, sql } from "drizzle-orm";
import {
  type Tier,
  type UserRole,
  users,
  webhookMessages,
  webhooks,
} from "../../../db/alpine/schema";
import type { Logger } from "../../platform/log";
import type { Metrics } from "../../platform/metrics";
import type { Alpine } from "../alpine";
import { type Database, first } from "../database";
import { attempt, settleAttempt, shownFromMs, withhold } from "./attempt";
import type { MessageRow, WebhookRow } from "./schema";

type Options = {
  alpine: Alpine;
  now: () => number;
  log: Logger;
  metrics: Metrics;
  /** Receivers at once, and half as many again each of those that are new and of those that fail. */
  turnsMax: number;
  random?: () => number;
};

/** For so long one receiver is sent its messages before it is looked who else waits. */
const turnMs = 5_000;
/** Above a turn, its last attempt and what it takes to write that down: a killed process is missed after it. */
const leaseSeconds = 30;
/** Of what is sent so much is tried again first: behind a backlog of new ones it would wait for its end. */
const againShare = 0.1;
/** At the end an attempt under way has so long. */
const endMs = 2_000;
const nobody = "00000000-0000-0000-0000-000000000000";

/**
 * Something failed since anything was delivered, what came newest was delivered, or neither is so:
 * of those that are new or were changed nobody knows whether they answer.
 */
type Kind = "failing" | "answering" | "new";
/** Receivers of a kind, which have room of their own. */
type Lane = {
  kind: Kind;
  turnsMax: number;
  turns: Map<string, Promise<void>>;
  /** Who was claimed last: the others come first. */
  after: string;
};
/** Until when a receiver is this process's own, by the clock of the database. */
type Claimed = { id: string; lease: Date };
type Due = { webhook: WebhookRow; message: MessageRow; tier: Tier; role: UserRole };

/**
 * Sends what waits, to each receiver one message after the other, to many receivers at once: one
 * that is slow keeps nobody else, and those that are new or fail, however many, nobody who answers. A receiver
 * is claimed by one process for a while; killed then, what it had not written down yet is sent once
 * more, with the same id.
 */
export class WebhookSender {
  readonly #lanes: Lane[];
  readonly #ending = new AbortController();
  #claiming: Promise<void> | null = null;
  #again = false;
  #closed = false;

  constructor(private readonly options: Options) {
    const { turnsMax } = options;
    const half = Math.ceil(turnsMax / 2);
    const rooms: [Kind, number][] = [
      ["answering", turnsMax],
      ["new", half],
      ["failing", half],
    ];
    this.#lanes = rooms.map(([kind, most]) => {
      return { kind, turnsMax: most, turns: new Map(), after: nobody };
    });
  }

  /** Claims whoever waits, as far as there is room. What fails is told, and tried again. */
  look(): Promise<void> {
    if (this.#claiming) {
      this.#again = true;
      return this.#claiming;
    }
    this.#claiming = this.#claimAll().finally(() => {
      this.#claiming = null;
    });
    return this.#claiming;
  }

  /** Once nothing is under way. */
  async idle(): Promise<void> {
    const turns = () => this.#lanes.flatMap((lane) => [...lane.turns.values()]);
    while (this.#claiming || turns().length > 0) {
      await this.#claiming?.catch(() => undefined);
      await Promise.all(turns());
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const late = setTimeout(() => this.#ending.abort(), endMs);
    this.#closed = true;
    await this.idle();
    clearTimeout(late);
  }

  async #claimAll(): Promise<void> {
    do {
      this.#again = false;
      for (const lane of this.#lanes) await this.#claimOf(lane);
    } while (this.#again);
  }

  async #claimOf(lane: Lane): Promise<void> {
    const room = lane.turnsMax - lane.turns.size;
    if (this.#closed || room <= 0) return;
    const claimed = await this.#claim(lane, room);
    for (const one of claimed) this.#begin(lane, one);
    const all = claimed.length < room;
    // Those before the last one had to wait for it.
    this.#again ||= all && lane.after !== nobody;
    lane.after = all ? nobody : (claimed.at(-1)?.id ?? nobody);
  }

  #begin({ turns }: Lane, { id, lease }: Claimed): void {
    const turn = this.#turn(id, lease)
      .catch((error: unknown) => {
        this.options.log.debug({ webhook_id: id, reason: String(error) }, "webhook left for later");
        return 0;
      })
      .then((sent) => {
        turns.delete(id);
        // Somebody may have waited for room, and more may wait here.
        if (sent > 0) void this.look().catch(() => undefined);
      });
    turns.set(id, turn);
  }

  /** @returns how many messages it took. */
  async #turn(id: string, lease: Date): Promise<number> {
    const { alpine } = this.options;
    const until = performance.now() + turnMs;
    let sent = 0;
    try {
      while (!this.#closed && performance.now() < until) {
        const due = await this.#next(alpine.db(), id);
        if (!due || !(await this.#send(alpine.db(), due, lease))) break;
        sent += 1;
      }
      return sent;
    } finally {
      // Who was held up for longer lets go of nothing that is somebody else's by now.
      const own = and(eq(webhooks.id, id), eq(webhooks.leasedUntil, lease));
      await alpine.db().update(webhooks).set({ leasedUntil: null }).where(own);
    }
  }

  /** @returns false when this receiver is to be left alone for now. */
  async #send(db: Database, { webhook, message, tier, role }: Due, lease: Date): Promise<boolean> {
    const { alpine, now, metrics, random = Math.random } = this.options;
    const { view } = alpine.plans.entitlementOf(tier, role);
    const fromMs = shownFromMs(message, view);
    if (fromMs === null || fromMs > now()) {
      await withhold(db, message, fromMs, now());
      return true;
    }
    const { outbound, webhookSeal: seal } = alpine;
    const outcome = await attempt({ outbound, seal, now }, webhook, message, this.#ending.signal);
    if (!outcome) return false;
    const settled = await settleAttempt(db, webhook, message, { ...outcome, lease }, random());
    if (settled === null) return false;
    metrics.webhookAttempts.of({ outcome: settled }).value += 1;
    return true;
  }

  /** Takes receivers that somebody waits for and nobody else sends to, in the order of their ids. */
  async #claim({ kind, after }: Lane, most: number): Promise<Claimed[]> {
    const { alpine, now } = this.options;
    const at = sql`${new Date(now()).toISOString()}::timestamptz`;
    const nextAfter = (id: ReturnType<typeof sql>) => sql`(
      SELECT m.webhook_id FROM webhook_messages m
      WHERE m.next_attempt_at IS NOT NULL AND m.webhook_id > ${id}
      ORDER BY m.webhook_id LIMIT 1)`;
    // From one webhook to the next by the index, however many messages wait for each.
    const { rows } = await alpine.db().execute<{ id: string; lease: string }>(sql`
      WITH RECURSIVE waiting (id) AS (
        SELECT ${nextAfter(sql`${after}::uuid`)}
        UNION ALL
        SELECT ${nextAfter(sql`waiting.id`)} FROM waiting WHERE waiting.id IS NOT NULL
      ), free AS (
        SELECT w.id FROM waiting JOIN webhooks w ON w.id = waiting.id
        WHERE w.status = 'enabled' AND ${kind}::text = CASE
            WHEN w.failing_since IS NOT NULL THEN 'failing'
            WHEN (SELECT m.ended_at FROM webhook_messages m
              WHERE m.webhook_id = w.id AND m.status = 'delivered'
              ORDER BY m.created_at DESC, m.id DESC LIMIT 1) >= w.updated_at THEN 'answering'
            ELSE 'new' END
          AND coalesce(w.leased_until, '-infinity') <= clock_timestamp()
          AND coalesce(w.not_before, '-infinity') <= ${at}
          AND (
            EXISTS (SELECT 1 FROM webhook_messages m WHERE m.webhook_id = w.id AND m.lane = 0
              AND m.next_attempt_at <= ${at})
            OR EXISTS (SELECT 1 FROM webhook_messages m WHERE m.webhook_id = w.id AND m.lane = 1
              AND m.next_attempt_at <= ${at}))
        LIMIT ${most} FOR NO KEY UPDATE OF w SKIP LOCKED
      )
      UPDATE webhooks SET leased_until = clock_timestamp() + ${leaseSeconds} * interval '1 second'
      FROM free WHERE webhooks.id = free.id
      RETURNING webhooks.id, (extract(epoch FROM webhooks.leased_until) * 1000)::bigint AS lease`);
    return rows
      .map(({ id, lease }) => ({ id, lease: new Date(Number(lease)) }))
      .toSorted((one, other) => (one.id < other.id ? -1 : 1));
  }

  /** The next message of a receiver, with all that it takes to send it: mostly what is new before what failed. */
  async #next(db: Database, id: string): Promise<Due | null> {
    const { now, random = Math.random } = this.options;
    const at = new Date(now());
    const due = (lane: number) =>
      db
        .select()
        .from(webhookMessages)
        .where(
          and(
            eq(webhookMessages.webhookId, id),
            eq(webhookMessages.lane, lane),
            sql`${webhookMessages.nextAttemptAt} <= ${at.toISOString()}::timestamptz`,
          ),
        )
        .orderBy(webhookMessages.nextAttemptAt, webhookMessages.signalId)
        .limit(1);
    const [lane, other] = random() < againShare ? [1, 0] : [0, 1];
    const message = first(await due(lane)) ?? first(await due(other));
    if (!message) return null;
    const [owned] = await db
      .select({ webhook: webhooks, tier: users.tier, role: users.role })
      .from(webhooks)
      .innerJoin(users, and(eq(users.id, webhooks.userId), eq(users.isActive, true)))
      .where(
        and(
          eq(webhooks.id, id),
          eq(webhooks.status, "enabled"),
          sql`coalesce(${webhooks.notBefore}, '-infinity') <= ${at.toISOString()}::timestamptz`,
        ),
      );
    return owned ? { ...owned, message } : null;
  }
}
