import { Audience, type TellReport } from "../lib/audience";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { portOf, readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, spread } from "../lib/stats";

export const delivery: Bench = {
  name: "delivery",
  title: "From a commit of another process to a client's socket",
  run,
};

const clients = 100;
const signalsPerSecond = 100;
const p50LimitUs = 1_000;
const p99LimitUs = 5_000;
const forms = [
  ["sse", "server-sent events"],
  ["ws", "WebSocket"],
] as const;

/** A server for each form, so that only one of them is followed at a time. */
async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  await using servers = new Servers();
  await using audiences = new AsyncDisposableStack();
  const variants: { name: string; round: (seconds: number) => Promise<TellReport> }[] = [];
  for (const [form, name] of forms) {
    const instance = `delivery-${form}`;
    const db = workingCopy(1_000_000, instance);
    servers.afterwards(() => discard(db));
    const server = servers.add(await startProduct({ kind: "serve", db, instance }));
    const audience = audiences.use(await Audience.start());
    await audience.open({ port: portOf(server), form, headers: readHeaders, clients });
    variants.push({
      name,
      round: async (seconds) => {
        const signals = signalsPerSecond * seconds;
        const report = await audience.tell({ to: { db }, signals, perSecond: signalsPerSecond });
        if (report.missing + report.lost > 0) {
          throw new Error(`${name}: ${report.missing} missing, ${report.lost} closed`);
        }
        return report;
      },
    });
  }
  const samples = await interleave(context, variants);
  result.tables.push({
    title: `${clients} clients, ${signalsPerSecond} signals/s, at any moment`,
    columns: ["", "p50, ms", "p99, ms", "max, ms", "to the last client, ms"],
    rows: [...samples].map(([name, taken]) => [
      name,
      spread(taken.map(({ p50Us }) => p50Us / 1_000)),
      spread(taken.map(({ p99Us }) => p99Us / 1_000)),
      fixed(Math.max(...taken.map(({ maxUs }) => maxUs)) / 1_000, 1),
      fixed(median(taken.map(({ lastUs }) => lastUs)) / 1_000, 2),
    ]),
  });
  for (const [name, taken] of samples) {
    const p50 = median(taken.map(({ p50Us }) => p50Us));
    const p99 = median(taken.map(({ p99Us }) => p99Us));
    result.figures.push({
      name: `commit by another process → client's socket, ${name}, ${clients} clients, ${signalsPerSecond} signals/s`,
      target: "p50 ≤ 1 ms, p99 ≤ 5 ms",
      measured: `p50 ${fixed(p50 / 1_000, 2)} ms, p99 ${fixed(p99 / 1_000, 2)} ms`,
      met: p50 <= p50LimitUs && p99 <= p99LimitUs,
    });
  }
  result.notes.push(
    "Timed from just before the commit of a writer that does not wait for the disk, to when its bytes are read from each client's socket. Writer and clients are one process, which needs some 5 µs for each client.",
  );
  return result;
}
