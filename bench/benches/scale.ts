import { wireAnswer } from "../lib/bytes";
import { Connection, requestBytes } from "../lib/connection";
import type { Bench, Context } from "../lib/context";
import { discard, type Rows, workingCopy } from "../lib/dataset";
import { fixedRateRound } from "../lib/generator";
import type { Server } from "../lib/peers";
import { latestPath, portOf, readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, percentile, ratios, spread } from "../lib/stats";
import { wrkRound } from "../lib/wrk";

export const scale: Bench = { name: "scale", title: "A miss as the file grows", run };

const small = 1_000;
const large = 1_000_000;
const limit = 1.2;
const filters = [
  { name: "unfiltered", query: "limit=10" },
  { name: "premium", query: "limit=10&premium_only=true" },
  { name: "one symbol", query: "limit=10&symbol=SYM07" },
];
/** No confidence of the data reaches 99.9, but each index leads to a great many rows first. */
const nothing = [
  {
    name: "nothing: a symbol, and too high a confidence",
    query: "symbol=SYM07&min_confidence=99.95",
  },
  {
    name: "nothing: a strategy, and too high a confidence",
    query: "strategy=momentum&min_confidence=99.95",
  },
  {
    name: "nothing: premium, and too high a confidence",
    query: "premium_only=true&min_confidence=99.95",
  },
];

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using servers = new Servers();
  const start = async (rows: Rows) => {
    const instance = `scale-${rows}`;
    const db = workingCopy(rows, instance);
    servers.afterwards(() => discard(db));
    const env = { ENABLE_CACHE: "false" };
    return servers.add(await startProduct({ kind: "serve", db, instance, env }));
  };
  const few = await start(small);
  const many = await start(large);
  await filtersThatMatch(context, result, few, many);
  await filtersThatDoNot(context, result, few, many);
  return result;
}

async function filtersThatMatch(
  context: Context,
  result: Result,
  few: Server,
  many: Server,
): Promise<void> {
  const variants = [];
  for (const { name, query } of filters) {
    for (const server of [few, many]) {
      const path = `/api/signals/latest?${query}`;
      const { status, body, bytes } = await wireAnswer(server, readHeaders, path);
      if (status !== 200 || body.length < 1_000) throw new Error(`${path}: ${status}, ${body}`);
      const load = {
        url: new URL(path, server.url).href,
        headers: readHeaders,
        answerBytes: bytes,
        serverPid: server.pid,
      };
      variants.push({
        name: `${name} ${server.name}`,
        round: (seconds: number) => wrkRound({ ...load, seconds }),
      });
    }
  }
  const samples = await interleave(context, variants);
  const cpu = (filter: string, server: Server) =>
    (samples.get(`${filter} ${server.name}`) ?? []).map((sample) => sample.cpuUsPerRequest);
  result.tables.push({
    title: "Cache off, 32 connections, CPU-µs a request",
    columns: ["filter", `${fixed(small)} rows`, `${fixed(large)} rows`, "ratio"],
    rows: filters.map(({ name }) => [
      name,
      spread(cpu(name, few), 1),
      spread(cpu(name, many), 1),
      spread(ratios(cpu(name, many), cpu(name, few))),
    ]),
  });
  for (const { name } of filters) {
    const found = ratios(cpu(name, many), cpu(name, few));
    result.figures.push({
      name: `a miss at 1,000,000 rows, × at 1,000 rows: ${name}`,
      target: `≤ ${limit}`,
      measured: spread(found),
      met: median(found) <= limit,
    });
  }
}

/** One such request after the other, while plain polls go on at a fixed rate beside them. */
async function filtersThatDoNot(
  context: Context,
  result: Result,
  few: Server,
  many: Server,
): Promise<void> {
  const seconds = Math.max(3, context.secondsPerRound);
  const poll = (server: Server) =>
    fixedRateRound(
      {
        port: portOf(server),
        path: latestPath,
        headers: readHeaders,
        requestsPerSecond: 500,
        seconds,
        connections: 32,
      },
      server.pid,
    );
  const rows: string[][] = [];
  let worstUs = 0;
  let broken = 0;
  let movedUs = 0;
  for (const { name, query } of nothing) {
    context.say(`  ${name}`);
    const path = `/api/signals/latest?${query}`;
    const shorter = await repeat(few, path, 1);
    const quiet = await poll(many);
    const asking = repeat(many, path, seconds);
    const busy = await poll(many);
    const longer = await asking;
    worstUs = Math.max(worstUs, ...longer.latenciesUs);
    movedUs = Math.max(movedUs, busy.p99Us - quiet.p99Us);
    broken += longer.unexpected + shorter.unexpected;
    rows.push([
      name,
      fixed(median(shorter.latenciesUs) / 1_000, 2),
      fixed(median(longer.latenciesUs) / 1_000, 2),
      fixed(percentile(longer.latenciesUs, 100) / 1_000, 2),
      `${longer.answered} × 200, ${longer.givenUp} × 503`,
      fixed(quiet.p99Us / 1_000, 2),
      fixed(busy.p99Us / 1_000, 2),
    ]);
  }
  result.tables.push({
    title: "Filters that match nothing, cache off, one request after the other",
    columns: [
      "filter",
      `${fixed(small)} rows, ms`,
      `${fixed(large)} rows, ms`,
      "longest, ms",
      "answers",
      "p99 of other polls, quiet, ms",
      "beside it, ms",
    ],
    rows,
  });
  result.figures.push({
    name: "a filter that matches nothing in 1,000,000 rows",
    target: "bounded by its deadline",
    measured: `longest ${fixed(worstUs / 1_000)} ms; p99 of other polls moved by ${fixed(movedUs / 1_000, 2)} ms at most`,
    met: broken === 0 && worstUs / 1_000 <= deadlineMs,
  });
  result.notes.push(
    `"Bounded" is held against ${fixed(deadlineMs)} ms, the server's own deadline and a tenth for the way; past it the answer is a 503.`,
  );
}

/** The server gives such a read up after this long, milliseconds, and 10 % on top. */
const deadlineMs = 5_500;

type Repeated = {
  latenciesUs: number[];
  answered: number;
  givenUp: number;
  unexpected: number;
};

async function repeat(server: Server, path: string, seconds: number): Promise<Repeated> {
  const connection = await Connection.open(portOf(server));
  const request = requestBytes("GET", path, readHeaders);
  const found: Repeated = { latenciesUs: [], answered: 0, givenUp: 0, unexpected: 0 };
  const end = performance.now() + seconds * 1_000;
  do {
    const sent = performance.now();
    const { status, body } = await connection.ask(request);
    found.latenciesUs.push((performance.now() - sent) * 1_000);
    if (status === 200 && body.toString() === "[]") found.answered += 1;
    else if (status === 503) found.givenUp += 1;
    else found.unexpected += 1;
  } while (performance.now() < end);
  connection.close();
  return found;
}
