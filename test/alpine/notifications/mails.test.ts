/** Mails of notifications, to a mail server that may fail; and keys that are about to end. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { apiKeys, notifications, users } from "../../../db/alpine/schema.ts";
import { tellExpiring } from "../../../src/alpine/notifications/key-expiring.ts";
import { sendDue } from "../../../src/alpine/notifications/mailer.ts";
import { type News, notify } from "../../../src/alpine/notifications/notify.ts";
import { type Accounts, type Member, openAccounts } from "../../harness/accounts.ts";
import { smtp, type SmtpSink } from "../../harness/smtp.ts";
import { alpineOf } from "../people.ts";

const dayMs = 86_400_000;

let at: Accounts;
let sink: SmtpSink;
beforeAll(async () => {
  sink = await smtp();
  const env = { SMTP_URL: sink.url, PUBLIC_URL: "https://signals.example.com" };
  at = await openAccounts({ env });
});
afterAll(async () => {
  await at[Symbol.asyncDispose]();
  await sink[Symbol.asyncDispose]();
});
beforeEach(async () => {
  sink.fail(null);
  await alpineOf(at).outbox.idle();
  await at.db().delete(notifications);
  sink.clear();
});

const send = () =>
  sendDue({
    config: at.app.deps.config,
    db: () => at.db(),
    outbox: alpineOf(at).outbox,
    now: () => at.clock.ms,
  });

async function sendAll(): Promise<void> {
  for (let more = true; more;) ({ more } = await send());
}

/** Somebody whose address is theirs. */
async function verified(): Promise<Member> {
  const member = await at.member();
  await at.db().update(users).set({ isVerified: true }).where(eq(users.id, member.id));
  await alpineOf(at).outbox.idle();
  sink.clear();
  return member;
}

async function tell(userId: string, more: Partial<News> = {}): Promise<void> {
  const news = {
    kind: "payment_failed",
    reference: crypto.randomUUID(),
    title: "A title",
  } as const;
  await at
    .db()
    .transaction((tx) =>
      notify(tx, at.clock.ms, { userId, ...news, body: "What\nhappened.", details: {}, ...more }),
    );
}

describe("a mail", () => {
  test("says what the notification says, and where to want no more of them", async () => {
    const one = await verified();
    await tell(one.id, { title: "The payment failed" });
    await sendAll();
    const mail = await sink.mailFor(one.email);
    expect(mail).toMatchObject({ to: [one.email], subject: "The payment failed", html: "" });
    expect(mail.text).toStartWith("What\nhappened.\n");
    expect(mail.text).toContain("PUT https://signals.example.com/api/notifications/preferences");
  });

  test("is sent once, by however many at once", async () => {
    const members = [await verified(), await verified()];
    for (let n = 0; n < 10; n += 1) {
      for (const { id } of members) await tell(id, { title: `${n}` });
    }
    await Promise.all([sendAll(), sendAll(), sendAll()]);
    const sent = sink.mails().map(({ to, subject }) => `${to[0]} ${subject}`);
    expect(sent).toHaveLength(20);
    expect(new Set(sent).size).toBe(20);
    at.clock.ms += 3_600_000;
    await sendAll();
    expect(sink.mails()).toHaveLength(20);
  });

  test("that fails is tried again, each time after twice as long, and given up after a day", async () => {
    const one = await verified();
    await tell(one.id);
    sink.fail(451);
    const begunMs = at.clock.ms;
    const tries: number[] = [];
    for (let next = await due(); next; next = await due()) {
      at.clock.ms = next.getTime() - 1;
      await send();
      expect(await due()).toEqual(next);
      at.clock.ms += 1;
      tries.push((at.clock.ms - begunMs) / 60_000);
      await send();
    }
    expect(tries).toEqual([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]);
    expect(sink.mails()).toEqual([]);
  });

  test("that the server will never take is not tried again", async () => {
    const one = await verified();
    await tell(one.id);
    sink.fail(550);
    await send();
    expect(await due()).toBeNull();
  });

  test("whose process is killed in between is sent by another, once more at the most", async () => {
    const one = await verified();
    await tell(one.id, { title: "killed" });
    // Claimed, and nothing further: what a process leaves that dies while it sends.
    await sendDue({
      config: at.app.deps.config,
      db: () => at.db(),
      outbox: { deliver: () => Promise.resolve("failed") } as never,
      now: () => at.clock.ms,
    });
    await sendAll();
    expect(sink.mails()).toEqual([]);
    at.clock.ms += 60_000;
    await sendAll();
    await sendAll();
    expect(sink.mails().map(({ subject }) => subject)).toEqual(["killed"]);
  });

  test("goes to nobody whose address is not verified, or who was shut out", async () => {
    const [stranger, out] = [await at.member(), await verified()];
    await at.db().update(users).set({ isActive: false }).where(eq(users.id, out.id));
    await alpineOf(at).outbox.idle();
    sink.clear();
    for (const { id } of [stranger, out]) await tell(id);
    await sendAll();
    expect(sink.mails()).toEqual([]);
    expect(await due()).toBeNull();
  });

  test("has one subject and one receiver, whatever is in a title", async () => {
    const one = await verified();
    await tell(one.id, { title: "Hi\r\nBcc: other@example.com" });
    await sendAll();
    const [mail] = sink.mails();
    expect(mail?.to).toEqual([one.email]);
    expect(mail?.raw).not.toMatch(/^Bcc:/m);
  });

  const due = async (): Promise<Date | null> => {
    const [row] = await at.db().select().from(notifications);
    return row?.mailDueAt ?? null;
  };
});

describe("a key that is about to end", () => {
  const key = async (of: Member, days: number | null): Promise<string> => {
    const expires = days === null ? null : new Date(at.clock.ms + days * dayMs).toISOString();
    const body = { name: "a bot", scopes: ["signals:read"], expires_at: expires };
    const { id } = await at.must<{ id: string }>(201, "POST", "/api/keys", body, of.access);
    return id;
  };
  const run = () => tellExpiring(() => at.db(), at.clock.ms, new AbortController().signal);
  const toldOf = async () =>
    (await at.db().select().from(notifications))
      .filter(({ kind }) => kind === "key_expiring")
      .map(({ details }) => details["key_id"]);

  test("is told of once for each end, a week ahead, and no other key is", async () => {
    const one = await verified();
    const soon = await key(one, 6.9);
    const later = await key(one, 7.1);
    await key(one, null);
    const revoked = await key(one, 3);
    await at.must(204, "DELETE", `/api/keys/${revoked}`, undefined, one.access);
    const rotated = await key(one, 2);
    const { id: successor } = await at.must<{ id: string }>(
      201,
      "POST",
      `/api/keys/${rotated}/rotate`,
      {},
      one.access,
    );
    await run();
    await run();
    expect((await toldOf()).toSorted()).toEqual([soon, successor].toSorted());
    at.clock.ms += dayMs;
    await Promise.all([run(), run()]);
    expect((await toldOf()).toSorted()).toEqual([soon, successor, later].toSorted());
    const [row] = await at.db().select().from(notifications);
    expect(row?.title).toBe('The key "a bot" expires soon');
    expect(row?.body).toMatch(
      /^The key "a bot" \(\w+…\) expires on [\d-]{10} at \d\d:\d\d UTC\.\nMake a new one in time, or rotate this one\.$/,
    );

    // Another end is another event.
    const expiresAt = new Date(at.clock.ms + 6 * dayMs);
    await at.db().update(apiKeys).set({ expiresAt }).where(eq(apiKeys.id, soon));
    await run();
    expect((await toldOf()).filter((id) => id === soon)).toHaveLength(2);
    // Past its end there is nothing to tell.
    await at.db().delete(notifications);
    at.clock.ms += 30 * dayMs;
    await run();
    expect(await toldOf()).toEqual([]);
  });

  test("is told of whichever it is among many that end at one moment", async () => {
    const members = [await verified(), await verified(), await verified()];
    for (const member of members) {
      for (let n = 0; n < 40; n += 1) await key(member, 3);
    }
    const expiresAt = new Date(at.clock.ms + 3 * dayMs);
    await at.db().update(apiKeys).set({ expiresAt });
    await run();
    expect((await toldOf()).length).toBeGreaterThanOrEqual(120);
    expect(new Set(await toldOf()).size).toBe((await toldOf()).length);
  });
});
