/** The servers that are checked, whom they let read, and how they are broken. */
import { Database } from "bun:sqlite";
import { Client } from "pg";
import { accountsTemplate, clientOf, JWT_SECRET, PASSWORD } from "../harness/accounts.ts";
import { READ_TOKEN, SERVICE_TOKEN, WRITE_TOKEN } from "../harness/app.ts";
import { freePort, tempDir, until } from "../harness/process.ts";
import { type TcpProxy, tcpProxy } from "../harness/proxy.ts";
import { ownPostgres, redis } from "../harness/servers.ts";
import { startWorkers, type Workers } from "../harness/workers.ts";
import { Hooks } from "./hooks.ts";
import type { Filter, Ledger, Reader } from "./ledger.ts";
import type { Stored } from "./judge.ts";
import { type Beside, FileWriter } from "./producers.ts";
import { pick } from "./stage.ts";

/** Breaks something, for so long where it lasts, and mends it. */
export type Fault = (forMs: number) => Promise<void>;

export interface World extends AsyncDisposable {
  readers: Reader[];
  writeHeaders: Record<string, string>;
  url: (random: () => number) => string;
  /** Servers that copy another: only with `min_id` does a read show what was acknowledged before. */
  copies: boolean;
  /** Of the servers themselves, one at a time; and around them, at the same time as those. */
  serverFaults: Record<string, Fault>;
  otherFaults: Record<string, Fault>;
  /** Another program that writes. */
  beside: Beside;
  /** Where webhooks are sent; null without accounts. */
  hooks: Hooks | null;
  /** What is stored, once nobody writes any more. */
  rows: (ledger: Ledger) => Promise<Stored[]>;
  /** What printed what, for whoever looks into a failure. */
  logs: () => string[];
}

export interface WorldOptions {
  /** Accounts in a Postgres, with Redis; else signals alone. */
  accounts: boolean;
  /** Processes that serve the port. */
  workers: number;
}

const withdrawnSeconds = { starter: 2, token: 1 };
const everybody = (name: string, headers: Record<string, string>): Reader => ({
  name,
  headers,
  premium: true,
  delayMs: 0,
  account: false,
});

/** One server on one file, behind a link. */
export async function openServer({ accounts, workers }: WorldOptions): Promise<World> {
  await using cleanup = new AsyncDisposableStack();
  const dir = cleanup.use(tempDir());
  const db = dir.file("signals.db");
  const port = freePort();
  const behind = accounts ? await openBehind(cleanup) : null;
  const lines: string[] = [];
  const start = (): Promise<Workers> =>
    startWorkers(dir.path, workers, {
      role: accounts ? "all" : "argo",
      env: { ...env, PORT: String(port), SIGNALS_DB: db, ...behind?.env },
    });
  let server = await start();
  const end = async (): Promise<void> => {
    lines.push(...server.logs());
    await server[Symbol.asyncDispose]();
  };
  cleanup.defer(end);
  const link = cleanup.use(await tcpProxy({ port }));
  const direct = `http://127.0.0.1:${port}`;
  const linked = `http://127.0.0.1:${link.port}`;
  const readers = behind ? await behind.readers(direct) : viewsOfTokens();
  const beside = cleanup.use(new FileWriter(db));

  /** The server itself, or one of its workers. */
  const someOf = (forMs: number): number => {
    const all = workers > 1 ? server.workers() : [];
    return all[forMs % all.length] ?? server.pid;
  };
  const serverFaults: Record<string, Fault> = {
    async kill() {
      server.kill();
      await end();
      server = await start();
    },
    async restart() {
      const code = await server.stop();
      if (code !== 0) throw new Error(`the server ended with ${code}`);
      await end();
      server = await start();
    },
    async freeze(forMs) {
      const pid = someOf(forMs);
      process.kill(pid, "SIGSTOP");
      await Bun.sleep(forMs);
      process.kill(pid, "SIGCONT");
    },
  };
  if (workers > 1) {
    serverFaults["kill worker"] = async (forMs) => {
      process.kill(someOf(forMs), "SIGKILL");
      await until(() => server.workers().length === workers, "another worker");
    };
    serverFaults["replace workers"] = () => server.reload();
  }
  const whole = cleanup.move();
  return {
    readers,
    writeHeaders: { Authorization: `Bearer ${WRITE_TOKEN}` },
    url: (random) => pick(random, [direct, linked]),
    serverFaults,
    otherFaults: { ...linkFaults(link), ...behind?.faults, ...beside.faults },
    copies: false,
    hooks: behind?.hooks ?? null,
    beside,
    rows: (ledger) => Promise.resolve(readRows(db, ledger)),
    logs: () => [...lines, ...server.logs()],
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

export const env = {
  SIGNALS_ACCESS: "key",
  ARGO_READ_TOKEN: READ_TOKEN,
  ARGO_SERVICE_TOKEN: SERVICE_TOKEN,
  ARGO_WRITE_TOKEN: WRITE_TOKEN,
};

/** Without accounts plans are what a server of the role `alpine` would say. */
export function viewsOfTokens(): Reader[] {
  const service = { Authorization: `Bearer ${SERVICE_TOKEN}` };
  const late = withdrawnSeconds.token;
  return [
    everybody("token", { Authorization: `Bearer ${READ_TOKEN}` }),
    {
      name: "starter",
      headers: { ...service, "Argo-View": `premium=false, delay_seconds=${late}` },
      premium: false,
      delayMs: late * 1_000,
      account: false,
    },
    everybody("pro", { ...service, "Argo-View": "premium=true, delay_seconds=0" }),
  ];
}

export function linkFaults(link: TcpProxy): Record<string, Fault> {
  const mended = (begin: () => void): Fault => {
    return async (forMs) => {
      begin();
      await Bun.sleep(forMs);
      link.restore();
    };
  };
  return {
    // All connections at once; the next ones are good.
    cut: async () => {
      link.cut();
      link.restore();
    },
    away: mended(() => link.cut()),
    silent: mended(() => link.blackhole()),
    slow: mended(() => link.delay(50)),
  };
}

export interface Behind {
  env: Record<string, string>;
  faults: Record<string, Fault>;
  hooks: Hooks;
  readers: (url: string) => Promise<Reader[]>;
}

/** Postgres and Redis, which may be gone while signals flow. */
export async function openBehind(cleanup: AsyncDisposableStack): Promise<Behind> {
  const postgres = cleanup.use(await ownPostgres());
  const cache = cleanup.use(await redis());
  const hooks = cleanup.use(new Hooks());
  const database = await postgres.createDatabase(accountsTemplate);
  const query = async (text: string, values: string[] = []): Promise<void> => {
    const client = new Client({ connectionString: database.url });
    await client.connect();
    await client.query(text, values);
    await client.end();
  };
  await query("UPDATE plans SET streams_max = 100, webhooks_max = 5, export = true");
  await query(
    `UPDATE plans SET delay_seconds = ${withdrawnSeconds.starter} WHERE tier = 'starter'`,
  );
  const away = (what: typeof postgres | typeof cache): Record<string, Fault> => ({
    async killed(forMs) {
      await what.kill();
      await Bun.sleep(forMs);
      await what.start();
    },
    async silent(forMs) {
      what.pause();
      await Bun.sleep(forMs);
      what.resume();
    },
  });
  const named = (name: string, faults: Record<string, Fault>): [string, Fault][] =>
    Object.entries(faults).map(([kind, fault]) => [`${name} ${kind}`, fault]);
  return {
    env: {
      DATABASE_URL: database.url,
      REDIS_URL: cache.url,
      JWT_SECRET,
      WEBHOOKS_ALLOW_PRIVATE: "true",
    },
    hooks,
    faults: Object.fromEntries([
      ...named("postgres", away(postgres)),
      ...named("redis", away(cache)),
    ]),
    async readers(url) {
      await until(async () => (await fetch(`${url}/readyz`)).ok, "accounts are ready");
      const client = clientOf((request) => {
        const { pathname, search } = new URL(request.url);
        return fetch(new Request(url + pathname + search, request));
      });
      const made: Reader[] = [everybody("token", { Authorization: `Bearer ${READ_TOKEN}` })];
      for (const tier of ["starter", "pro", "elite"]) {
        const email = `${tier}@example.com`;
        await client.must(201, "POST", "/api/auth/signup", {
          email,
          password: PASSWORD,
          full_name: tier,
        });
        // Before the key is made, so that it is known with its plan.
        await query("UPDATE users SET tier = $1, tier_grant = $1 WHERE email = $2", [tier, email]);
        const member = await client.login(email);
        const key = await client.key(member);
        const delayMs = tier === "starter" ? withdrawnSeconds.starter * 1_000 : 0;
        const reader: Reader = {
          name: tier,
          headers: { Authorization: `Bearer ${key}` },
          premium: tier !== "starter",
          delayMs,
          account: true,
        };
        made.push(reader);
        const filter: Filter = tier === "pro" ? { min_confidence: 60 } : {};
        const asked = { url: hooks.urlOf(tier), ...filter };
        const hook = await client.must<{ secret: string }>(
          201,
          "POST",
          "/api/webhooks",
          asked,
          member.access,
        );
        hooks.add(tier, reader, filter, hook.secret);
      }
      // A key that was made by one process is known to the others half a second later.
      await Bun.sleep(1_000);
      return made;
    },
  };
}

/** The rows of a file, which nobody writes into any more. */
export function readRows(db: string, ledger: Ledger): Stored[] {
  using file = new Database(db, { readonly: true });
  const check = file.query<{ integrity_check: string }, []>("PRAGMA integrity_check(5)").all();
  for (const { integrity_check: said } of check) {
    if (said !== "ok") ledger.odd.push(`the file: ${said}`);
  }
  return file
    .query<StoredRow, []>(allRows)
    .all()
    .map((row) => storedOf(row, ledger));
}

export type StoredRow = Parameters<Ledger["known"]>[0] & { timestamp: string };

export const allRows = `SELECT id, symbol, action, confidence, entry_price, stop_price AS stop_loss,
  target_price AS take_profit, strategy, timestamp FROM signals ORDER BY id`;

export const storedOf = (row: StoredRow, ledger: Ledger): Stored => ({
  id: row.id,
  sent: ledger.known(row),
  timestamp: row.timestamp,
});
