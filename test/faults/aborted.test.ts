/** Clients that go away in the midst of a request leave no connection of the database behind (R8). */
import { expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import { PASSWORD, serveAccounts } from "../harness/accounts.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";
import { until } from "../harness/process.ts";

const requests = 1_000;
const atOnce = 50;
const poolSize = 4;

test("a thousand aborted requests leave as many connections as there were", async () => {
  tellSeed();
  const random = randomNumbers();
  await using at = await serveAccounts("source", "postgres+redis", {
    DB_POOL_SIZE: `${poolSize}`,
    DB_MAX_OVERFLOW: "0",
    ENABLE_CACHE: "false",
    TRUST_PROXY: "1",
  });
  const member = await at.member();

  /** Connections of this database but for the one that asks, by what they are at. */
  const connections = async () => {
    const { rows } = await at.db().execute<{ state: string; count: number }>(sql`
      SELECT state, count(*)::int AS count FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY state`);
    const of = (state: string): number =>
      rows.filter((row) => row.state.startsWith(state)).reduce((sum, row) => sum + row.count, 0);
    return { all: of(""), inTransaction: of("idle in transaction") };
  };
  const somewhere = (): string => `10.${[1, 2, 3].map(() => Math.floor(random() * 256)).join(".")}`;
  const ask = (signal: AbortSignal | null, login: boolean): Promise<Response> =>
    login
      ? fetch(`${at.server.url}/api/auth/login`, {
          method: "POST",
          // Guesses of one address would be limited.
          headers: { "Content-Type": "application/json", "X-Forwarded-For": somewhere() },
          body: JSON.stringify({ email: `nobody-${random()}@example.com`, password: PASSWORD }),
          signal,
        })
      : fetch(`${at.server.url}/api/users/profile`, {
          headers: { Authorization: `Bearer ${member.access}` },
          signal,
        });
  /** @returns true when the client was gone before the answer. */
  const abort = async (login: boolean): Promise<boolean> => {
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), random() * (login ? 30 : 6));
    try {
      await (await ask(controller.signal, login)).arrayBuffer();
      return false;
    } catch {
      return true;
    } finally {
      clearTimeout(timer);
    }
  };

  // As many as there will be: the pool is full before.
  await Promise.all(Array.from({ length: atOnce }, () => ask(null, false)));
  const before = await connections();
  let aborted = 0;
  for (let from = 0; from < requests; from += atOnce) {
    const gone = await Promise.all(Array.from({ length: atOnce }, (_, i) => abort(i % 2 === 0)));
    aborted += gone.filter(Boolean).length;
  }
  console.log(`${aborted} of ${requests} aborted; connections before`, before);
  expect(aborted).toBeGreaterThan(requests / 4);

  let after = before;
  const left = async (): Promise<boolean> => {
    after = await connections();
    return after.inTransaction === 0 && after.all <= before.all;
  };
  await until(left, () => `no more than ${before.all} connections, not ${JSON.stringify(after)}`);
  // A pool that lost one of its connections would keep somebody waiting.
  const answers = await Promise.all(Array.from({ length: atOnce }, () => ask(null, false)));
  expect(answers.map(({ status }) => status)).toEqual(Array<number>(atOnce).fill(200));
  // Passwords of those who are gone are still being looked at, a few at once.
  const { email, password } = member;
  const login = () =>
    fetch(`${at.server.url}/api/auth/login`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Forwarded-For": somewhere() },
      body: JSON.stringify({ email, password }),
    });
  await until(async () => (await login()).status === 200, "a login");
});
