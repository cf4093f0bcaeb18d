/** Webhooks where the signals are elsewhere, sent by a server in a process of its own. */
import { expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { users } from "../../../db/alpine/schema.ts";
import type { Member } from "../../harness/accounts.ts";
import { signal, WRITE_TOKEN } from "../../harness/app.ts";
import { until } from "../../harness/process.ts";
import { openSplit } from "../split.ts";
import { receiver, signedBy, type Hook } from "./receiver.ts";

const CANARY = "canary-in-the-path-0123456789";

test("the role alpine asks its argo, by each owner's view, and tells its log no secret", async () => {
  await using bot = receiver();
  await using modest = receiver();
  const env = { WEBHOOKS_ALLOW_PRIVATE: "true", LOG_LEVEL: "trace", METRICS_TOKEN: "m".repeat(16) };
  await using split = await openSplit("postgres", env);
  const { alpine, argo } = split;
  let posted = 0;
  const post = async (confidence: number): Promise<number> => {
    posted += 1;
    const timestamp = new Date().toISOString();
    const response = await fetch(`${split.argo.url}/api/signals`, {
      method: "POST",
      headers: { Authorization: `Bearer ${WRITE_TOKEN}`, "Content-Type": "application/json" },
      body: JSON.stringify(signal({ entry_price: 100 + posted, confidence, timestamp })),
    });
    return ((await response.json()) as { signals: [{ id: number }] }).signals[0].id;
  };
  const owner = async (tier: "pro" | "elite"): Promise<Member> => {
    const member = await alpine.member();
    await alpine.db().update(users).set({ tier }).where(eq(users.id, member.id));
    return alpine.login(member.email);
  };
  const admin = await alpine.admin();
  const plan = { premium: false };
  await alpine.must(200, "PATCH", "/api/admin/plans/pro", plan, admin.access);
  const made = (member: Member, url: string) =>
    alpine.must<Hook>(201, "POST", "/api/webhooks", { url }, member.access);
  const elite = await owner("elite");
  const hook = await made(elite, `${bot.url}&token=${CANARY}`);
  await made(await owner("pro"), modest.url);
  const one = await post(99);
  const two = await post(60);
  await until(() => bot.got.length === 2 && modest.got.length === 1, "both are told");
  expect(bot.ids()).toEqual([one, two]);
  expect(modest.ids()).toEqual([two]);
  expect(bot.got.every((got) => signedBy(hook.secret, got))).toBeTrue();
  // Argo goes and comes back: what came meanwhile is told.
  await split.killArgo();
  await split.startArgo();
  const three = await post(61);
  await until(() => bot.got.length === 3 && modest.got.length === 2, "both go on");
  const { queued } = await alpine.must<{ queued: number }>(
    202,
    "POST",
    `/api/webhooks/${hook.id}/replay`,
    { since_id: one },
    elite.access,
  );
  expect(queued).toBe(2);
  await until(() => bot.got.length === 5, "it is replayed");
  expect(bot.ids()).toEqual([one, two, three, two, three]);
  const headers = { Authorization: `Bearer ${env.METRICS_TOKEN}` };
  let metrics = "";
  await until(async () => {
    metrics = await (await fetch(`${alpine.server.url}/metrics`, { headers })).text();
    return metrics.includes('webhook_attempts_total{outcome="delivered"} 7');
  }, "the last is counted");
  expect(metrics).toContain("webhook_messages_waiting ");
  const { rows } = await alpine.db().execute<{ all: string }>(
    `SELECT string_agg(t::text, ' ') AS all FROM (SELECT secret::text, old_secret::text FROM webhooks
     UNION ALL SELECT details::text, event FROM audit_log) AS t`,
  );
  const written = [...alpine.server.logs(), ...argo.logs(), metrics, rows[0]?.all].join("\n");
  const secret = hook.secret.slice("whsec_".length);
  const bytes = Buffer.from(secret, "base64").toString("hex");
  for (const canary of [secret, bytes, CANARY]) expect(written).not.toContain(canary);
});
