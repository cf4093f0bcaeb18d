import { z } from "@hono/zod-openapi";
import { sql } from "drizzle-orm";
import { auditLog, routeClasses, usageDays } from "../../../db/alpine/schema";
import type { AuditEvent } from "../audit";
import { clocksApartMs } from "../clocks";
import { first, type Queries } from "../database";

const count = z.int().min(0);

const Address = z
  .object({
    address: z.string(),
    failed_logins: count,
    accounts_tried: count.openapi({ description: "Of those that there are." }),
    limits_exceeded: count,
    last_at: z.iso.datetime(),
  })
  .openapi("SuspiciousAddress");
export type SuspiciousAddress = z.infer<typeof Address>;
export const addressColumns = Address.keyof().options;

export const Security = z
  .object({
    since: z.iso.datetime().openapi({ description: "24 hours ago." }),
    failed_logins: count,
    failed_confirmations: count.openapi({
      description: "Wrong passwords and codes of who was logged in.",
    }),
    limits_exceeded: count.openapi({
      description: "Of what protects passwords and mailboxes: one a minute of each.",
    }),
    refresh_reuse: count,
    administration_refused: count,
    revocations: z.object({ sessions: count, keys: count }),
    errors_today: z.object({ signals: count, account: count, admin: count }).openapi({
      description: "Answers of status 400 and above by class of routes, those of 429 among them.",
    }),
    suspicious_addresses: z.array(Address).openapi({
      description: "From where most logins failed.",
    }),
    complete: z.boolean().openapi({
      description: "False when there was more of an event than is looked at: the newest count.",
    }),
    generated_at: z.iso.datetime(),
  })
  .openapi("Security");
export type Security = z.infer<typeof Security>;

const windowMs = 86_400_000;
const addressesMax = 20;
/** Of one event: an attack must not make the look at it dear. */
const entriesMax = 50_000;

const watched = [
  "login_failed",
  "confirmation_failed",
  "limit_exceeded",
  "refresh_reused",
  "admin_refused",
  "session_revoked",
  "logout_all",
  "key_revoked",
] as const satisfies readonly AuditEvent[];

type Counted = { events: Partial<Record<string, number>>; addresses: SuspiciousAddress[] };

/** What the log of events tells of attacks in the last 24 hours. */
export async function countSecurity(db: Queries, nowMs: number): Promise<Security> {
  const since = new Date(nowMs - windowMs).toISOString();
  const { events, addresses } = await countEvents(db, since, nowMs);
  const of = (name: (typeof watched)[number]) => events[name] ?? 0;
  return {
    since,
    failed_logins: of("login_failed"),
    failed_confirmations: of("confirmation_failed"),
    limits_exceeded: of("limit_exceeded"),
    refresh_reuse: of("refresh_reused"),
    administration_refused: of("admin_refused"),
    revocations: { sessions: of("session_revoked") + of("logout_all"), keys: of("key_revoked") },
    errors_today: await errorsOf(db, new Date(nowMs).toISOString().slice(0, 10)),
    suspicious_addresses: addresses.map((one) =>
      Object.assign(one, { last_at: new Date(one.last_at).toISOString() }),
    ),
    complete: watched.every((name) => of(name) < entriesMax),
    generated_at: new Date(nowMs).toISOString(),
  };
}

/** By the index of events, from the first entry of the time on: older ones cost nothing. */
async function countEvents(db: Queries, since: string, nowMs: number): Promise<Counted> {
  // Ids go with time but for what clocks differ by.
  const before = new Date(nowMs - windowMs - clocksApartMs).toISOString();
  const { rows } = await db.execute<Counted>(sql`
    WITH begin AS MATERIALIZED (
      SELECT id FROM ${auditLog} WHERE at >= ${before}::timestamptz ORDER BY at LIMIT 1
    ), recent AS MATERIALIZED (
      SELECT entry.*
      FROM unnest(${`{${watched.join(",")}}`}::text[]) AS wanted (name)
      CROSS JOIN LATERAL (
        SELECT event, address, subject_id, at FROM ${auditLog}
        WHERE event = wanted.name AND id >= (SELECT id FROM begin) AND at >= ${since}::timestamptz
        ORDER BY id DESC LIMIT ${entriesMax}
      ) AS entry
    ), counted AS (
      SELECT event, count(*) AS n FROM recent GROUP BY event
    ), suspects AS (
      SELECT
        address,
        count(*) FILTER (WHERE event = 'login_failed') AS failed_logins,
        count(DISTINCT subject_id) FILTER (WHERE event = 'login_failed') AS accounts_tried,
        count(*) FILTER (WHERE event = 'limit_exceeded') AS limits_exceeded,
        max(at) AS last_at
      FROM recent
      WHERE event IN ('login_failed', 'limit_exceeded') AND address IS NOT NULL
      GROUP BY address
      ORDER BY failed_logins DESC, accounts_tried DESC, limits_exceeded DESC, address
      LIMIT ${addressesMax}
    )
    SELECT
      (SELECT coalesce(json_object_agg(event, n), '{}') FROM counted) AS events,
      (SELECT coalesce(json_agg(suspects), '[]') FROM suspects) AS addresses`);
  return first(rows) ?? { events: {}, addresses: [] };
}

async function errorsOf(db: Queries, day: string): Promise<Security["errors_today"]> {
  const { rows } = await db.execute<{ route_class: string; errors: number }>(
    sql`SELECT route_class, errors::float8 FROM ${usageDays} WHERE day = ${day}::date`,
  );
  const errors = rows.map(({ route_class: name, errors: n }) => [name, n] as const);
  const none = routeClasses.map((name) => [name, 0] as const);
  return Object.fromEntries([...none, ...errors]) as Security["errors_today"];
}
