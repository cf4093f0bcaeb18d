/** Polls of all plans while somebody writes, changes and replaces rows: what any of them is shown. */
import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import { BACKEND, serveAccounts } from "../harness/accounts.ts";
import { tempDir, until } from "../harness/process.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";
import { Wire } from "./harness.ts";

interface Shown {
  id: number;
  confidence: number;
  entry_price: number;
}
/** One content of a row, told from all others by its price. */
interface Version {
  id: number;
  confidence: number;
  arrivedMs: number;
  /** When the connection that took it away had committed. */
  goneMs: number;
}
interface Plan {
  premium: boolean;
  delayMs: number;
  export: boolean;
}

const PLANS: Record<string, Plan> = {
  starter: { premium: false, delayMs: 2_000, export: false },
  pro: { premium: true, delayMs: 1_000, export: false },
  elite: { premium: true, delayMs: 0, export: true },
};
const CONNECTIONS = 24;
const WRITE_EVERY_MS = 4;

/**
 * Polls so often, over all plans and routes, and looks at every row that is shown: none too early,
 * to the wrong plan, or after it was gone; and none missing that was due before the poll was sent.
 */
export async function seekLeaks(polls: number): Promise<void> {
  tellSeed();
  const random = randomNumbers();
  const pick = (n: number): number => Math.floor(random() * n);
  using dir = tempDir();
  const db = dir.file("signals.db");
  await using at = await serveAccounts("source", BACKEND, { SIGNALS_DB: db });
  const admin = await at.admin();
  const change = (path: string, body: unknown) => at.must(200, "PATCH", path, body, admin.access);
  const keys = new Map<string, string>();
  for (const [tier, plan] of Object.entries(PLANS)) {
    const { premium } = plan;
    const quota = { requests_per_minute: 1_000_000_000 };
    await change(`/api/admin/plans/${tier}`, {
      premium,
      delay_seconds: plan.delayMs / 1_000,
      ...quota,
    });
    const member = await at.member();
    keys.set(tier, await at.key(member));
    await change(`/api/admin/users/${member.id}`, { tier });
  }
  const known = async (): Promise<boolean> => {
    const own = await Promise.all(
      [...keys].map(async ([tier, key]) => {
        const { status } = await at.call("GET", "/api/signals/export", undefined, key);
        return (status === 200) === (PLANS[tier]?.export ?? false);
      }),
    );
    return own.every(Boolean);
  };
  await until(known, "the plans are known");
  // A change is known within a second.
  await Bun.sleep(1_000);

  using engine = new Database(db);
  engine.run("PRAGMA busy_timeout = 5000");
  const versions = new Map<number, Version>();
  const standing: number[] = [];
  let price = 0;
  const insert = engine.prepare<{ id: number }, (number | null | string)[]>(
    `INSERT OR REPLACE INTO signals (id, symbol, action, entry_price, confidence, timestamp, sha256)
     VALUES (?, 'LEAK', 'BUY', ?, ?, ?, ?) RETURNING id`,
  );
  const arrival = engine.prepare<{ at: string }, [number]>(
    "SELECT received_at AS at FROM argo_received WHERE id = ?",
  );
  const hashOf = (of: number): string => of.toString(16).padStart(64, "0");

  /** A row that is there no more as it was, from when this returns. */
  const end = (of: number): void => {
    const version = versions.get(of);
    if (version) version.goneMs = Date.now();
  };
  function write(): void {
    price += 1;
    const confidence = random() < 0.3 ? 95 + pick(5) : 50 + pick(45);
    const replaced = random() < 0.05 ? standing.splice(pick(standing.length), 1)[0] : undefined;
    const at = new Date(Date.now() - pick(5_000)).toISOString();
    const row = insert.get(
      replaced === undefined ? null : (versions.get(replaced)?.id ?? null),
      price,
      confidence,
      at,
      hashOf(price),
    );
    if (replaced !== undefined) end(replaced);
    const id = row?.id ?? 0;
    const arrivedMs = Date.parse(arrival.get(id)?.at ?? "");
    versions.set(price, { id, confidence, arrivedMs, goneMs: Infinity });
    standing.push(price);
    if (random() < 0.02) alter();
  }
  /** An update makes a row premium; it is another version from then on. */
  function alter(): void {
    const of = standing.splice(pick(standing.length), 1)[0];
    const version = of === undefined ? undefined : versions.get(of);
    if (of === undefined || version === undefined) return;
    if (random() < 0.5) engine.run("DELETE FROM signals WHERE id = ?", [version.id]);
    else {
      price += 1;
      const now = { ...version, confidence: 99 };
      versions.set(price, now);
      standing.push(price);
      engine.run("UPDATE signals SET confidence = 99, entry_price = ? WHERE id = ?", [
        price,
        version.id,
      ]);
    }
    end(of);
  }

  const faults: string[] = [];
  let done = 0;
  let rows = 0;
  const tiers = Object.keys(PLANS);

  function judge(tier: string, path: string, shown: Shown[], sentMs: number, atMs: number): void {
    const { premium, delayMs } = PLANS[tier] as Plan;
    for (const { id, confidence, entry_price: of } of shown) {
      rows += 1;
      const version = versions.get(of);
      const say = (what: string): void =>
        void faults.push(`${tier} ${path}: ${what} ${id} ${JSON.stringify(version)} at ${atMs}`);
      if (!version || version.id !== id) say("unknown");
      else if (!premium && confidence >= 95) say("premium");
      else if (atMs < version.arrivedMs + delayMs) say("early");
      else if (version.goneMs < sentMs) say("gone");
    }
  }

  /** The highest id that this plan must be shown by then. */
  function dueBy(tier: string, sentMs: number): number {
    const { premium, delayMs } = PLANS[tier] as Plan;
    for (let of = price; of > 0; of -= 1) {
      const version = versions.get(of);
      if (!version || version.goneMs !== Infinity) continue;
      if (!premium && version.confidence >= 95) continue;
      if (version.arrivedMs + delayMs < sentMs) return version.id;
    }
    return 0;
  }

  async function poll(wire: Wire, turn: number): Promise<void> {
    const tier = tiers[turn % tiers.length] ?? "";
    const headers = { Authorization: `Bearer ${keys.get(tier)}` };
    const kind = random();
    const [of = 0] = [1 + pick(Math.max(1, price))];
    const path =
      kind < 0.5
        ? `/api/signals/latest?limit=${1 + pick(20)}`
        : kind < 0.9
          ? "/api/signals/subscribed?limit=10"
          : kind < 0.94
            ? `/api/signals/${versions.get(of)?.id ?? 1}`
            : kind < 0.97
              ? `/api/signals/hash/${hashOf(of)}`
              : "/api/signals?limit=5";
    // The newest of the due may be gone by the time of the answer: then nothing is said of it.
    const isChecked = kind < 0.9 && random() < 0.05;
    const sentMs = Date.now();
    const due = isChecked ? dueBy(tier, sentMs) : 0;
    const answer = await wire.get(path, headers);
    const atMs = Date.now();
    done += 1;
    if (answer.status === 404 && kind >= 0.9) return;
    if (answer.status !== 200) {
      faults.push(`${tier} ${path}: ${answer.status} ${answer.body}`);
      return;
    }
    const body = JSON.parse(answer.body) as Shown[] | { signals: Shown[] } | Shown;
    const shown = Array.isArray(body) ? body : "signals" in body ? body.signals : [body];
    judge(tier, path, shown, sentMs, atMs);
    const head = Number(answer.headers.get("signal-head"));
    if (isChecked && head < due && dueBy(tier, sentMs) === due) {
      faults.push(`${tier} ${path}: head ${head}, and ${due} was due`);
    }
  }

  const begun = performance.now();
  const writer = setInterval(write, WRITE_EVERY_MS);
  try {
    await Promise.all(
      Array.from({ length: CONNECTIONS }, async (_, i) => {
        using wire = await Wire.open(at.server.url);
        for (let turn = i; done < polls && faults.length < 10; turn += 1) await poll(wire, turn);
      }),
    );
  } finally {
    clearInterval(writer);
  }
  const seconds = ((performance.now() - begun) / 1_000).toFixed(1);
  console.log(
    `${done} polls of ${tiers.length} plans, ${rows} rows shown, ${price} written, ${seconds} s`,
  );
  expect(faults).toEqual([]);
  expect(rows).toBeGreaterThan(polls);
}
