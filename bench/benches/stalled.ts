import { Audience, type TellReport } from "../lib/audience";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { rssBytes } from "../lib/process";
import { portOf, readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { Servers } from "../lib/servers";
import { fixed, median, spread } from "../lib/stats";

export const stalled: Bench = {
  name: "stalled",
  title: "1,000 streams, a tenth of them stalled",
  run,
};

const healthyAll = 900;
const stalledAll = 100;
const signalsPerSecond = 10;
/** What the stalled ones would be sent beside: more than the kernel holds for them. */
const heavyPerSecond = 20;
const heavyBytes = 16_384;
const phaseSeconds = 12;
const settleMs = 5_000;
const sampleEveryMs = 250;
/** Growth that remains and still counts as none: what the runtime has not given back of garbage. */
const returnedMb = 20;
/** "Unchanged": within the spread of the healthy ones against themselves and this. */
const unchangedUs = 500;

/**
 * The stalled ones ask for heavy signals, the healthy ones for light ones. Three phases of the same
 * load: all read, twice; then the stalled ones read nothing more.
 */
async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  const seconds = context.quick ? 4 : phaseSeconds;
  await using servers = new Servers();
  const db = workingCopy(1_000, "stalled");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startProduct({ kind: "serve", db, instance: "stalled" }));
  await using healthy = await Audience.start();
  await using others = await Audience.start();
  const given = { port: portOf(server), form: "sse", headers: readHeaders } as const;
  await healthy.open({ ...given, clients: healthyAll, filter: { strategy: "light" } });
  await others.open({ ...given, clients: stalledAll, filter: { strategy: "heavy" } });
  const megabytes = (): number => rssBytes(server.pid) / 1e6;

  let most = 0;
  const phase = async (): Promise<TellReport> => {
    const timer = setInterval(() => (most = Math.max(most, megabytes())), sampleEveryMs);
    const [report] = await Promise.all([
      healthy.tell({
        to: { db },
        signals: signalsPerSecond * seconds,
        perSecond: signalsPerSecond,
      }),
      others.tell({
        to: { db },
        signals: heavyPerSecond * seconds,
        perSecond: heavyPerSecond,
        strategy: "heavy",
        padding: heavyBytes,
        unheard: true,
      }),
    ]);
    clearInterval(timer);
    if (report.missing + report.lost > 0) {
      throw new Error(`healthy streams: ${report.missing} missing, ${report.lost} closed`);
    }
    return report;
  };
  await phase();
  context.say("  all read");
  const reading = [await phase(), await phase()];
  await Bun.sleep(settleMs);
  const before = megabytes();
  most = before;
  context.say("  a tenth reads nothing");
  await others.stall(stalledAll);
  const stalling = [await phase(), await phase()];
  await Bun.sleep(settleMs);
  const after = megabytes();
  const cut = await endedAsSlow(server.url);

  const p99 = (reports: TellReport[]): number => median(reports.map(({ p99Us }) => p99Us));
  result.tables.push({
    title: `${healthyAll} healthy streams, ${signalsPerSecond} signals/s to them and ${heavyPerSecond}/s of ${fixed(heavyBytes / 1024)} KiB to the other ${stalledAll}`,
    columns: ["", "p50, ms", "p99, ms", "to the last, ms"],
    rows: (
      [
        ["all read", reading],
        ["a tenth reads nothing", stalling],
      ] as const
    ).map(([name, reports]) => [
      name,
      spread(reports.map(({ p50Us }) => p50Us / 1_000)),
      spread(reports.map(({ p99Us }) => p99Us / 1_000)),
      spread(reports.map(({ lastUs }) => lastUs / 1_000)),
    ]),
  });
  const floorUs = Math.abs((reading[0]?.p99Us ?? 0) - (reading[1]?.p99Us ?? 0));
  const moved = p99(stalling) - p99(reading);
  result.figures.push(
    {
      name: "1,000 streams, 10 % stalled: memory",
      target: "returns to the start",
      measured: `${fixed(before)} MB before, ${fixed(most)} MB at most, ${fixed(after)} MB after; ${fixed(cut)} of ${stalledAll} cut off`,
      met: after <= before + returnedMb && cut >= stalledAll,
    },
    {
      name: "the same: p99 of the healthy",
      target: "unchanged",
      measured: `${fixed(p99(stalling) / 1_000, 2)} ms, before ${fixed(p99(reading) / 1_000, 2)} ms (spread ${fixed(floorUs / 1_000, 2)} ms)`,
      met: moved <= floorUs + unchangedUs,
    },
  );
  return result;
}

async function endedAsSlow(url: string): Promise<number> {
  const text = await (await fetch(new URL("/metrics", url))).text();
  return Number(/^argo_streams_ended_total\{reason="slow"\} (\d+)/m.exec(text)?.[1] ?? 0);
}
