import { call, logIn, makeKey, signUp, startAccounts, startBackend } from "../lib/accounts";
import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { latestPath, readHeaders, writeHeaders } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { Servers } from "../lib/servers";
import { fixed, median, percentile } from "../lib/stats";

export const due: Bench = { name: "due", title: "A withheld signal, when it falls due", run };

const delaySeconds = 2;
const lateMsMax = 100;
const everyMs = 100;
const askEveryMs = 1;

/** Signals posted at any moment, and a key of a delayed plan that polls for them. */
async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using backend = await startBackend();
  await using servers = new Servers();
  const db = workingCopy(1_000, "due");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startAccounts({ db, instance: "due", backend }));
  const change = { delay_seconds: delaySeconds, premium: false };
  const { headers: operator } = server.operator;
  const changed = await call(server, "PATCH", "/api/admin/plans/starter", change, operator);
  if (changed.status !== 200) throw new Error(`the plan: ${changed.status}`);
  const key = await makeKey(server, await logIn(server, await signUp(server)));
  await Bun.sleep(1_000);

  const signals = context.quick ? 20 : 500;
  /** When each is due, by its id: milliseconds since the epoch. */
  const dueAtMs = new Map<number, number>();
  const lateMs: number[] = [];
  let early = 0;
  let polls = 0;
  const post = async () => {
    for (let n = 0; n < signals; n += 1) {
      await Bun.sleep(2 * everyMs * Math.random());
      const content = { symbol: "SPX", action: "BUY", confidence: 50, entry_price: 1_000 + n };
      const posted = await call(server, "POST", "/api/signals", content, writeHeaders);
      const { signals: made } = (await posted.json()) as { signals: { id: number }[] };
      const id = made[0]?.id ?? 0;
      const single = await call(server, "GET", `/api/signals/${id}`, undefined, readHeaders);
      const { received_at: at } = (await single.json()) as { received_at: string };
      dueAtMs.set(id, Date.parse(at) + delaySeconds * 1_000);
    }
  };
  const poll = async () => {
    while (lateMs.length < signals) {
      const { head } = await wireAnswer(server, key, latestPath);
      const nowMs = Date.now();
      const highest = Number(/^signal-head: (\d+)/im.exec(head)?.[1]);
      polls += 1;
      for (const [id, atMs] of dueAtMs) {
        if (highest < id) break;
        dueAtMs.delete(id);
        if (nowMs < atMs) early += 1;
        lateMs.push(nowMs - atMs);
      }
      await Bun.sleep(askEveryMs);
    }
  };
  await Promise.all([post(), poll()]);
  const most = Math.max(...lateMs);
  result.figures.push({
    name: "a withheld signal appears to a delayed plan, after its due time",
    target: `≤ ${lateMsMax} ms, never before`,
    measured: `median ${fixed(median(lateMs), 1)} ms, p99 ${fixed(percentile(lateMs, 99), 1)} ms, most ${fixed(most, 1)} ms; ${early} before (${lateMs.length} signals, ${fixed(polls)} polls)`,
    met: most <= lateMsMax && early === 0,
  });
  result.notes.push(
    `Signals are posted at any moment, some ten a second, and withheld for ${delaySeconds} s. Due is what received_at says, to the millisecond; the poll is sent every millisecond or two, and its way is part of the time.`,
  );
  return result;
}
