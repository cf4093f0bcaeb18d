import { randomBytes } from "node:crypto";
import type { UserRole } from "../../db/alpine/schema";
import type { Alpine } from "../alpine/alpine";
import { audit } from "../alpine/audit";
import { endSessions } from "../alpine/auth/sessions";
import { insertUser, lockUserByEmail, newUser, updateUser } from "../alpine/users/store";
import type { Argo } from "../argo/argo";
import type { Config } from "../config";
import { argoOf, type Deps } from "../deps";
import { makeDirectory } from "../platform/directory";
import { ownDirectory } from "../platform/lock";
import { layHistory } from "./demo-history";
import { start } from "./serve";
import { untilSignal } from "./until-signal";

const symbol = "SPX";
const everyMs = 5_000;

/**
 * The server with something to look at: the S&P 500's history of signals, a producer that adds a
 * synthetic one now and then, and two logins. Everything lies in the data directory.
 */
export async function demo(config: Config, writeToken: string): Promise<void> {
  makeDirectory(config.dataDir);
  // Nobody reads it any more: an end like any other, which must not fail on its last line.
  const unread = new Promise<void>((resolve) => process.stdout.on("error", () => resolve()));
  const stop = Promise.race([untilSignal(), unread]);
  using _owner = ownDirectory(config.dataDir);
  await layHistory(config.signalsDb);
  await using running = await start(config, { showLinks: true });
  const { now } = running.deps;
  const argo = argoOf(running.deps);
  const timer = setInterval(() => {
    post(argo, synthetic(lastPrice(argo), now())).catch((error: unknown) => {
      running.deps.log.warn({ reason: String(error) }, "demo signal not written");
    });
  }, everyMs);
  try {
    // Signals flow meanwhile: accounts take a second longer.
    const logins = await Promise.race([makeLogins(running.deps), stop, running.failed]);
    const signals = argo.reader.head.maxId;
    if (logins) process.stdout.write(welcome(running.url, writeToken, signals, logins));
    await Promise.race([stop, running.failed]);
  } finally {
    clearInterval(timer);
  }
  process.stdout.write("\nStopping: open requests are answered first.\n");
}

type Login = { email: string; password: string };
type Logins = { admin: Login; user: Login };

async function makeLogins({ alpine, now }: Deps): Promise<Logins | null> {
  if (!alpine) return null;
  await alpine.started;
  return {
    admin: await makeLogin(alpine, now(), "admin"),
    user: await makeLogin(alpine, now(), "user"),
  };
}

/** Its password is made for this run: that of an earlier one is good no more. */
async function makeLogin(alpine: Alpine, nowMs: number, role: UserRole): Promise<Login> {
  const email = `${role}@example.com`;
  const password = randomBytes(9).toString("base64url");
  const passwordHash = await alpine.passwords.hash(password);
  await alpine.changes.write(async (tx, tell) => {
    const old = await lockUserByEmail(tx, email);
    const fullName = `Demo ${role}`;
    // Who looks around wants to see what comes in, at once.
    const plan = { tier: "pro", tierGrant: "pro" } as const;
    const made = newUser(nowMs, { email, fullName, passwordHash, role, isVerified: true, ...plan });
    const id = old?.id ?? made.id;
    if (old) {
      const passwordChangedAt = new Date(nowMs);
      await updateUser(tx, id, { passwordHash, passwordChangedAt, role, isActive: true, ...plan });
      await endSessions(tx, tell, id, nowMs);
    } else await insertUser(tx, made);
    const event = old ? "password_changed" : role === "admin" ? "admin_created" : "signup";
    await audit(tx, nowMs, null, { event, subjectId: id, details: { by: "demo" } });
    tell({ kind: "user", id });
  });
  return { email, password };
}

const encoder = new TextEncoder();
const post = (argo: Argo, body: string) =>
  argo.writer.submit({ body: encoder.encode(body), key: null });

function lastPrice(argo: Argo): number {
  const walk = {
    filter: { symbol },
    sight: null,
    order: "desc",
    after: null,
    limit: 1,
    skip: 0,
  } as const;
  const [last] = argo.reader.page({ ...walk, budget: 1, received: false }).rows;
  return last?.entry_price ?? 3_000;
}

/** One step of a random walk, marked as what it is by its strategy. */
function synthetic(price: number, nowMs: number): string {
  const entry = round(price * (1 + (Math.random() - 0.5) / 200));
  const up = Math.random() < 0.55 ? 1 : -1;
  return JSON.stringify({
    symbol,
    action: up > 0 ? "BUY" : "SELL",
    confidence: round(60 + Math.random() * 39.9),
    entry_price: entry,
    stop_price: round(entry * (1 - 0.03 * up)),
    target_price: round(entry * (1 + 0.05 * up)),
    timestamp: new Date(nowMs).toISOString().replace("Z", "000+00:00"),
    strategy: "demo",
  });
}

const round = (value: number): number => Math.round(value * 100) / 100;

function welcome(url: string, writeToken: string, signals: number, logins: Logins): string {
  const { admin, user } = logins;
  return `
argo-alpine demo: ${signals} signals: those of the S&P 500, 2000-2020, and a synthetic one
(strategy "demo") every ${everyMs / 1000} s. Nothing here is financial advice.

  Poll       ${url}/api/signals/latest
  Docs       ${url}/docs
  Health     ${url}/health
  Metrics    ${url}/metrics

  Reading    open to this machine
  Writing    Bearer ${writeToken}
  Admin      ${admin.email}   ${admin.password}
  User       ${user.email}    ${user.password}
             (token and passwords made for this run; both are granted the plan pro)

Try:

  curl '${url}/api/signals/latest?limit=3'
  curl '${url}/api/signals' -H 'Authorization: Bearer ${writeToken}' \\
    -H 'Content-Type: application/json' \\
    -d '{"symbol":"SPX","action":"BUY","confidence":97.5,"entry_price":3400,"stop_price":3300,"target_price":3570}'
  curl '${url}/api/auth/login' -H 'Content-Type: application/json' \\
    -d '{"email":"${user.email}","password":"${user.password}"}'

Ctrl-C stops it.
`;
}
