import { wireAnswer } from "../lib/bytes";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { get, repeatableHeaders } from "../lib/http";
import { startPeer } from "../lib/peers";
import { productSql } from "../lib/product-sql";
import { readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { median, ratios, spread } from "../lib/stats";
import { wrkRound } from "../lib/wrk";

export const miss: Bench = { name: "miss", title: "Every poll a miss", run };

const limit = 1.2;

/** The cache is switched off, so that each poll runs its query and writes its JSON. */
async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using servers = new Servers();
  const db = workingCopy(1_000_000, "miss");
  servers.afterwards(() => discard(db));
  const env = { ENABLE_CACHE: "false" };
  const serve = servers.add(await startProduct({ kind: "serve", db, instance: "miss", env }));
  const bare = servers.add(await startProduct({ kind: "bare", db, instance: "miss-bare", env }));
  const answer = await get(serve.url, readHeaders);
  const start = {
    body: answer.body,
    headers: repeatableHeaders(answer.headers),
    db,
    sql: productSql(db),
  };
  const titles = new Map([
    [serve.name, "**argo-alpine, `serve`, cache off**"],
    [bare.name, "**argo-alpine, bare route, cache off**"],
  ]);
  const raw = async (title: string, instance: string) => {
    const peer = await startPeer("raw-sql", { ...start, instance });
    if ("missing" in peer) throw new Error(peer.missing);
    titles.set(peer.name, title);
    return servers.add(peer);
  };
  const same = await raw("raw Bun + the same SQL", "same");
  const twin = await raw("the same once more", "twin");

  const variants = [];
  for (const server of servers.all) {
    const headers = server === serve || server === bare ? readHeaders : {};
    const { status, body, bytes } = await wireAnswer(server, headers);
    if (status !== 200 || body.toString() !== answer.body) {
      throw new Error(`${server.name} answers other bytes than serve`);
    }
    const load = { url: server.url, headers, answerBytes: bytes, serverPid: server.pid };
    variants.push({
      name: server.name,
      round: (seconds: number) => wrkRound({ ...load, seconds }),
    });
  }
  const samples = await interleave(context, variants);
  const cpu = (name: string) => (samples.get(name) ?? []).map((sample) => sample.cpuUsPerRequest);
  const rate = (name: string) => (samples.get(name) ?? []).map((s) => s.requestsPerSecond);
  const base = cpu(same.name);
  result.tables.push({
    title: "1,000,000 rows, 32 connections",
    columns: ["variant", "CPU-µs/request", "× raw + the same SQL", "requests/s"],
    rows: servers.all.map(({ name }) => [
      titles.get(name) ?? name,
      spread(cpu(name), 1),
      spread(ratios(cpu(name), base)),
      spread(rate(name), 0),
    ]),
  });
  const found = ratios(cpu(serve.name), base);
  const lean = ratios(cpu(bare.name), base);
  result.figures.push({
    name: "every poll a miss, CPU-µs a request, × raw Bun + the same SQL and headers",
    target: `≤ ${limit}`,
    measured: `bare route ${spread(lean)}, \`serve\` ${spread(found)}`,
    met: Math.max(median(found), median(lean)) <= limit,
  });
  result.notes.push(`Raw against itself: ${spread(ratios(cpu(twin.name), base), 3)}.`);
  return result;
}
