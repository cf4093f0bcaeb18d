import { Audience, type TellReport } from "../lib/audience";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { fixedRateRound } from "../lib/generator";
import { type Server, startPeer } from "../lib/peers";
import { cpuUs, rssBytes } from "../lib/process";
import { latestPath, portOf, readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { interleave } from "../lib/rounds";
import { Servers } from "../lib/servers";
import { fixed, median, ratios, spread } from "../lib/stats";
import { movedUs, p99MovedText, pushLatencies, spreadUs } from "../lib/tails";

export const sockets: Bench = { name: "sockets", title: "10,000 WebSockets on one process", run };

const subscribersAll = 10_000;
/** Signals in each second while what one costs is taken, and while polls go on beside. */
const signalsPerSecond = 4;
const besidePollsPerSecond = 1;
const pollsPerSecond = 2_000;
const publishLimit = 1.5;
const memoryLimitKb = 15;
const p99AllowanceUs = 2_000;
const settleMs = 3_000;

type Told = TellReport & { cpuUsPerSignal: number; idleShare: number };

async function run(context: Context): Promise<Result> {
  const result = emptyResult();
  const subscribers = context.quick ? subscribersAll / 10 : subscribersAll;
  await using servers = new Servers();
  const db = workingCopy(1_000, "sockets");
  servers.afterwards(() => discard(db));
  const ours = servers.add(await startProduct({ kind: "serve", db, instance: "sockets" }));
  const bare = await startPeer("raw-publish", { body: "", headers: {}, db: "", sql: "" });
  if ("missing" in bare) throw new Error(bare.missing);
  servers.add(bare);
  await using listening = await Audience.start();
  await using listeningBare = await Audience.start();
  const opened = async (server: Server, audience: Audience, form: "ws" | "bare") => {
    const before = rssBytes(server.pid);
    const port = portOf(server);
    await audience.open({ port, form, headers: readHeaders, clients: subscribers });
    await Bun.sleep(settleMs);
    return (rssBytes(server.pid) - before) / subscribers / 1_000;
  };
  context.say(`  ${subscribers} subscribers of each`);
  const oursKb = await opened(ours, listening, "ws");
  const bareKb = await opened(bare, listeningBare, "bare");

  const told = async (
    server: Server,
    audience: Audience,
    to: { db: string } | { barePort: number },
    seconds: number,
  ): Promise<Told> => {
    const idleFrom = cpuUs(server.pid);
    const idleMs = performance.now();
    await Bun.sleep(seconds * 1_000);
    const idleUsPerMs = (cpuUs(server.pid) - idleFrom) / (performance.now() - idleMs);
    const from = cpuUs(server.pid);
    const fromMs = performance.now();
    const signals = signalsPerSecond * seconds;
    const report = await audience.tell({ to, signals, perSecond: signalsPerSecond });
    if (report.missing + report.lost > 0) {
      throw new Error(`${server.name}: ${report.missing} missing, ${report.lost} closed`);
    }
    const idleUs = idleUsPerMs * (performance.now() - fromMs);
    const cpuUsPerSignal = (cpuUs(server.pid) - from - idleUs) / signals;
    return { ...report, cpuUsPerSignal, idleShare: idleUsPerMs / 1_000 };
  };
  const samples = await interleave(context, [
    { name: "ours", round: (s) => told(ours, listening, { db }, s) },
    {
      name: "bare `server.publish`",
      round: (s) => told(bare, listeningBare, { barePort: portOf(bare) }, s),
    },
  ]);
  await listeningBare.close();
  const [oursTold = [], bareTold = []] = [...samples.values()];
  const cost = ratios(
    oursTold.map((each) => each.cpuUsPerSignal),
    bareTold.map((each) => each.cpuUsPerSignal),
  );
  const kb = [oursKb, bareKb];
  result.tables.push({
    title: `One signal to ${fixed(subscribers)} subscribers`,
    columns: [
      "",
      "CPU-ms a signal",
      "to half of them, ms",
      "to the last, ms",
      "KB each",
      "busy while nothing comes, %",
    ],
    rows: [...samples].map(([name, taken], i) => [
      name,
      spread(
        taken.map((each) => each.cpuUsPerSignal / 1_000),
        1,
      ),
      spread(
        taken.map((each) => each.p50Us / 1_000),
        1,
      ),
      spread(
        taken.map((each) => each.lastUs / 1_000),
        1,
      ),
      fixed(kb[i] ?? Number.NaN, 1),
      fixed(median(taken.map((each) => each.idleShare)) * 100, 1),
    ]),
  });
  result.figures.push(
    {
      name: `${fixed(subscribers)} WebSocket subscribers, one signal to all, CPU × bare \`server.publish\` of the same bytes`,
      target: `≤ ${publishLimit}`,
      measured: `${spread(cost, 2)} ×`,
      met: median(cost) <= publishLimit,
    },
    {
      name: "the same: memory for each",
      target: `≤ ${memoryLimitKb} KB`,
      measured: `${fixed(oursKb, 1)} KB (bare ${fixed(bareKb, 1)} KB)`,
      met: oursKb <= memoryLimitKb,
    },
  );

  context.say("  polls beside");
  const poll = (seconds: number) =>
    fixedRateRound(
      {
        port: portOf(ours),
        path: latestPath,
        headers: readHeaders,
        requestsPerSecond: pollsPerSecond,
        seconds,
        connections: 64,
      },
      ours.pid,
    );
  const polled = await interleave(context, [
    { name: "quiet", round: poll },
    { name: "quiet, again", round: poll },
    {
      name: `a signal to all each ${fixed(1 / besidePollsPerSecond)} s`,
      round: async (seconds) => {
        const signals = besidePollsPerSecond * seconds;
        const telling = listening.tell({ to: { db }, signals, perSecond: besidePollsPerSecond });
        const [sample] = await Promise.all([poll(seconds), telling]);
        return sample;
      },
    },
  ]);
  pushLatencies(
    result,
    `Polls, ${fixed(pollsPerSecond)} a second, beside ${fixed(subscribers)} WebSockets`,
    polled,
  );
  const [quiet = [], again = [], busy = []] = [...polled.values()];
  result.figures.push({
    name: `2,000 polls/s while signals go to ${fixed(subscribers)} WebSockets: p99`,
    target: "≤ quiet + 2 ms beyond the spread",
    measured: p99MovedText(quiet, again, busy),
    met: movedUs(quiet, busy) <= p99AllowanceUs + spreadUs(quiet, again),
  });
  result.notes.push(
    `Subscribers are raw sockets of a program on the other core. CPU is that of the server less what it uses in as long a rest; a signal comes ${signalsPerSecond} times a second. Memory is resident memory, which the kernel's own buffers are no part of.`,
  );
  return result;
}
