import { createHmac } from "node:crypto";
import { Redis } from "ioredis";
import { Client } from "pg";
import { type Backend, logIn, makeKey, signUp, startAccounts, startBackend } from "../lib/accounts";
import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { get, repeatableHeaders } from "../lib/http";
import { type PeerStart, type Server, startPeer } from "../lib/peers";
import { latestPath } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, ratios, spread } from "../lib/stats";
import { type Sample, wrkRound } from "../lib/wrk";

export const keyed: Bench = {
  name: "keyed",
  title: "Polls with a key, and who am I, with Postgres and Redis configured",
  run,
};

const mePath = "/api/auth/me";
/** What a command for each poll would be far above, and what background work is far below. */
const perPollMax = 0.001;

type Headers = Record<string, string>;
type Variant = { name: string; round: (seconds: number) => Promise<Sample> };

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using backend = await startBackend();
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "keyed");
  servers.afterwards(() => discard(db));
  const serve = servers.add(await startAccounts({ db, instance: "keyed", backend }));
  const session = await logIn(serve, await signUp(serve));
  const key = await makeKey(serve, session);

  const variants: Variant[] = [];
  const titles = new Map<string, string>();
  const add = async (
    title: string,
    server: Server,
    path: string,
    headers: Headers,
    body: string,
  ) => {
    const answer = await wireAnswer(server, headers, path);
    if (answer.status !== 200 || answer.body.toString() !== body) {
      throw new Error(`${server.name} answers ${answer.status} ${answer.body.toString()}`);
    }
    const name = `${server.name} ${path}`;
    const url = new URL(path, server.url).href;
    const load = { url, headers, answerBytes: answer.bytes, serverPid: server.pid };
    titles.set(name, title);
    variants.push({ name, round: (seconds) => wrkRound({ ...load, seconds }) });
    return name;
  };
  // Asked with the same headers: a token is to be read from the wire, whatever becomes of it.
  const addConstant = async (start: PeerStart, path: string, headers: Headers, title: string) => {
    const peer = await startPeer("raw-constant", start);
    if ("missing" in peer) throw new Error(peer.missing);
    return add(title, servers.add(peer), path, headers, start.body);
  };
  const ask = async (path: string, headers: Headers): Promise<PeerStart> => {
    const url = new URL(path, serve.url).href;
    // The second answer: what the first one needed was looked up.
    await get(url, headers);
    const answer = await get(url, headers);
    return { body: answer.body, headers: repeatableHeaders(answer.headers), db, sql: "" };
  };

  const same = "raw Bun, the same bytes and headers";
  const pollStart = await ask(latestPath, key);
  const poll = await add(
    "**`/api/signals/latest`, an API key**",
    serve,
    latestPath,
    key,
    pollStart.body,
  );
  const pollConstant = await addConstant({ ...pollStart, instance: "poll" }, latestPath, key, same);
  const twin = await addConstant({ ...pollStart, instance: "twin" }, latestPath, key, "once more");
  const meStart = await ask(mePath, session.headers);
  const me = await add(
    "**`/api/auth/me`, a session, cached**",
    serve,
    mePath,
    session.headers,
    meStart.body,
  );
  const meConstant = await addConstant(
    { ...meStart, instance: "me" },
    mePath,
    session.headers,
    same,
  );
  const peer = await startFastApi(backend, meStart);
  let fastApi = "";
  if ("missing" in peer) result.missing.push(`FastAPI + SQLAlchemy + Redis: ${peer.missing}`);
  else {
    const title = "FastAPI + SQLAlchemy + Redis, the same";
    fastApi = await add(title, servers.add(peer.server), mePath, peer.headers, meStart.body);
  }

  const samples = await interleave(context, variants);
  const of = (name: string) => samples.get(name) ?? [];
  const rate = (name: string) => of(name).map((sample) => sample.requestsPerSecond);
  const cpu = (name: string) => median(of(name).map((sample) => sample.cpuUsPerRequest));
  // Two processes of one program differ by up to a fifth for as long as they live: both count.
  const twins = rate(pollConstant).map((one, i) => (one + (rate(twin)[i] ?? one)) / 2);
  result.tables.push({
    title: "Closed loop, 32 connections, medians (least–greatest) of the rounds",
    columns: ["variant", "requests/s", "× constant", "CPU-µs/request", "× by CPU", "core used"],
    rows: variants.map(({ name }) => {
      const constant = name.endsWith(mePath) ? meConstant : pollConstant;
      const digits = name === fastApi ? 3 : 2;
      return [
        titles.get(name) ?? name,
        spread(rate(name), 0),
        spread(ratios(rate(name), rate(constant)), digits),
        fixed(cpu(name), 1),
        fixed(cpu(constant) / cpu(name), digits),
        `${fixed(100 * median(of(name).map((sample) => sample.serverBusy)))} %`,
      ];
    }),
  });
  result.notes.push(
    `The raw constant against itself: ${spread(ratios(rate(twin), rate(pollConstant)), 3)}. No difference smaller than this spread is one: the poll is compared with the mean of both (with the one ${spread(ratios(rate(poll), rate(pollConstant)), 2)}, with the other ${spread(ratios(rate(poll), rate(twin)), 2)}). The constants send the same bytes and headers, and are sent the same.`,
    "FastAPI does what the replaced service did, with what is fastest for it: the token decoded, one look into Redis for a revoked token and one for the user, who is found there; uvloop, httptools, hiredis. Postgres and Redis run on the generator's core.",
  );
  const figure = (name: string, least: number, found: number[], digits = 2) =>
    result.figures.push({
      name,
      target: `≥ ${least}`,
      measured: found.length === 0 ? "the peer is missing" : `${spread(found, digits)} ×`,
      met: found.length === 0 ? null : median(found) >= least,
    });
  figure(
    "`/latest` with an API key, Postgres and Redis configured, × raw Bun constant",
    0.65,
    ratios(rate(poll), twins),
  );
  await countCommands(context, result, backend, serve, key);
  figure("`/api/auth/me`, cached, × raw Bun constant", 0.35, ratios(rate(me), rate(meConstant)));
  figure("`/api/auth/me` × FastAPI + SQLAlchemy + Redis", 15, ratios(rate(me), rate(fastApi)), 1);
  return result;
}

/** The peer, and the headers of a token that is its own. */
async function startFastApi(
  backend: Backend,
  start: PeerStart,
): Promise<{ server: Server; headers: Headers } | { missing: string }> {
  const secret = "a-secret-of-the-peer-0123456789abcdef";
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const { id, email } = JSON.parse(start.body) as { id: string; email: string };
  const claims = { sub: id, email, exp: Math.floor(Date.now() / 1000) + 86_400 };
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  const mac = createHmac("sha256", secret).update(text).digest("base64url");
  const headers = { authorization: `Bearer ${text}.${mac}` };
  const server = await startPeer("fastapi-me", {
    ...start,
    ask: { path: mePath, headers },
    accounts: { databaseUrl: backend.databaseUrl, redisUrl: backend.redisUrl, secret },
  });
  return "missing" in server ? server : { server, headers };
}

/** Commands that Postgres and Redis see in a stretch of polling, beside as long a stretch of rest. */
async function countCommands(
  context: Context,
  result: Result,
  backend: Backend,
  serve: Server,
  headers: Headers,
): Promise<void> {
  if (!backend.postgres.hasStatements) {
    result.missing.push("pg_stat_statements: this Postgres has none");
    return;
  }
  await using stack = new AsyncDisposableStack();
  const admin = new Client({ connectionString: backend.postgres.superuserUrl });
  await admin.connect();
  stack.defer(() => admin.end());
  await admin.query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements");
  const statements = async () => {
    const { rows } = await admin.query<{ calls: string }>(
      `SELECT coalesce(sum(s.calls), 0) AS calls FROM pg_stat_statements s
       JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = $1`,
      [backend.databaseName],
    );
    return Number(rows[0]?.calls);
  };
  const redis = new Redis(backend.redisUrl);
  stack.defer(() => redis.disconnect());
  let commands = 0;
  const monitor = await redis.monitor();
  stack.defer(() => monitor.disconnect());
  monitor.on("monitor", () => (commands += 1));
  const during = async (work: () => Promise<number>) => {
    const before = { statements: await statements(), commands };
    const startedMs = performance.now();
    const polls = await work();
    const seconds = (performance.now() - startedMs) / 1_000;
    return {
      polls,
      seconds,
      statements: (await statements()) - before.statements,
      commands: commands - before.commands,
    };
  };
  const load = { url: serve.url, headers, answerBytes: 0, serverPid: serve.pid };
  const seconds = context.quick ? 2 : 10;
  const busy = await during(async () => (await wrkRound({ ...load, seconds })).requests);
  const rest = await during(async () => {
    await Bun.sleep(busy.seconds * 1_000);
    return 0;
  });
  const more = Math.max(0, busy.statements + busy.commands - rest.statements - rest.commands);
  const perPoll = more / busy.polls;
  result.figures.push({
    name: "the same: Redis and Postgres commands for each poll",
    target: "0",
    measured: `${perPoll < perPollMax ? "0" : fixed(perPoll, 3)} (during ${fixed(busy.polls)} polls in ${fixed(busy.seconds)} s Redis ${busy.commands} and Postgres ${busy.statements}; in as long a rest ${rest.commands} and ${rest.statements})`,
    met: perPoll < perPollMax,
  });
  result.notes.push(
    "Commands are counted by MONITOR and pg_stat_statements. What is left is work in the background: it goes with the clock, not with the polls. Changes of accounts are looked for twice a second, and a limit that is in use is told to Redis.",
  );
}
