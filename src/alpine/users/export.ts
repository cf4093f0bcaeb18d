import { z } from "@hono/zod-openapi";
import { AppError } from "../../errors";
import type { Account } from "../../http/guard";
import { audit, auditEntries, AuditRecord, type Origin, recordOf } from "../audit";
import { limitWrites } from "../auth/limits";
import { Key, keyOf } from "../keys/schema";
import { keysOf } from "../keys/store";
import { Notification, notificationOf, Preferences, preferencesOf } from "../notifications/schema";
import {
  type NotificationPlace,
  notificationPlaceOf,
  notificationsOf,
  wantedOf,
} from "../notifications/store";
import { timePlaceOf } from "../page";
import type { Plane } from "../plane";
import { usageOf } from "../usage";
import { PastSession, sessionOf, User, userOf } from "./schema";
import { sessionsOf, userById } from "./store";

const rowsAtOnce = 500;

const time = z.iso.datetime();
export const AccountExport = z
  .object({
    exported_at: time,
    profile: User.extend({ last_login_at: time.nullable(), password_changed_at: time }),
    sessions: z.array(PastSession),
    keys: z.array(Key),
    usage: z.array(z.object({ day: z.iso.date(), requests: z.int() })),
    notifications: z.array(Notification),
    notification_preferences: Preferences,
    audit: z.array(AuditRecord),
  })
  .openapi("AccountExport");
export type AccountExport = z.infer<typeof AccountExport>;

/**
 * Everything that is kept about a user, but for what would let somebody else in, as JSON
 * (`AccountExport`). It is read while it is sent, some rows at a time, however much there is.
 * @throws AppError 404, 429, 503.
 */
export async function exportAccount(
  plane: Plane,
  account: Account,
  origin: Origin,
): Promise<ReadableStream<Uint8Array>> {
  const { alpine, now } = plane;
  const { userId } = account;
  await limitWrites(plane, account, origin);
  const user = await userById(alpine.db(), userId);
  if (!user) throw new AppError("not_found", "There is no such account.");
  const nowMs = now();
  await audit(alpine.db(), nowMs, origin, { event: "data_exported", actorId: userId });
  const head: Pick<AccountExport, "exported_at" | "profile" | "notification_preferences"> = {
    exported_at: new Date(nowMs).toISOString(),
    profile: {
      ...userOf(user),
      last_login_at: user.lastLoginAt?.toISOString() ?? null,
      password_changed_at: user.passwordChangedAt.toISOString(),
    },
    notification_preferences: preferencesOf(await wantedOf(alpine.db(), userId)),
  };
  const lists = {
    sessions: allOf(
      (after, limit) => sessionsOf(alpine.db(), userId, null, after, limit),
      timePlaceOf,
      (row) => ({ ...sessionOf(row), ended_at: row.endedAt?.toISOString() ?? null }),
    ),
    keys: allOf((after, limit) => keysOf(alpine.db(), userId, after, limit), timePlaceOf, keyOf),
    usage: allOf(
      (after: string | null, limit) => usageOf(alpine.db(), userId, after, limit),
      ({ day }) => day,
      (row) => row,
    ),
    notifications: allOf(
      (after: NotificationPlace | null, limit) =>
        notificationsOf(alpine.db(), userId, {}, after, limit),
      notificationPlaceOf,
      notificationOf,
    ),
    audit: allOf(
      (after: number | null, limit) =>
        auditEntries(alpine.db(), { subjectId: userId }, after, limit),
      ({ id }) => id,
      (row) => withoutOthers(recordOf(row), userId),
    ),
  };
  const texts = textsOf(head, lists);
  const encoder = new TextEncoder();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await texts.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
    },
    { highWaterMark: 0 },
  );
}

/** Where an administrator came from is theirs to tell. */
function withoutOthers(record: AuditRecord, userId: string): AuditRecord {
  if (record.actor_id === null || record.actor_id === userId) return record;
  return { ...record, actor_id: null, address: null, request_id: null };
}

/** Every row of a list as answers show it, page after page. */
async function* allOf<Row, Place>(
  read: (after: Place | null, limit: number) => Promise<Row[]>,
  placeOf: (row: Row) => Place,
  show: (row: Row) => unknown,
): AsyncGenerator<unknown[]> {
  for (let after: Place | null = null; ;) {
    const rows: Row[] = await read(after, rowsAtOnce);
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows.map(show);
    after = placeOf(last);
  }
}

async function* textsOf(
  head: object,
  lists: Record<string, AsyncGenerator<unknown[]>>,
): AsyncGenerator<string> {
  yield JSON.stringify(head).slice(0, -1);
  for (const [name, pages] of Object.entries(lists)) {
    let before = `,"${name}":[`;
    for await (const rows of pages) {
      yield before + rows.map((row) => JSON.stringify(row)).join(",");
      before = ",";
    }
    yield before === "," ? "]" : `${before}]`;
  }
  yield "}\n";
}
