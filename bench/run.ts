import { parseArgs } from "node:util";
import { analytics } from "./benches/analytics";
import { delivery } from "./benches/delivery";
import { due } from "./benches/due";
import { fanout } from "./benches/fanout";
import { ingest } from "./benches/ingest";
import { keyed } from "./benches/keyed";
import { logins } from "./benches/logins";
import { lookups } from "./benches/lookups";
import { memory, variety } from "./benches/memory";
import { miss } from "./benches/miss";
import { nodes } from "./benches/nodes";
import { overshoot } from "./benches/overshoot";
import { revoked } from "./benches/revoked";
import { scale } from "./benches/scale";
import { sockets } from "./benches/sockets";
import { stale } from "./benches/stale";
import { stalled } from "./benches/stalled";
import { startup } from "./benches/startup";
import { subscribed } from "./benches/subscribed";
import { tail } from "./benches/tail";
import { throughput } from "./benches/throughput";
import { usage as accounting } from "./benches/usage";
import { wire } from "./benches/wire";
import { workers } from "./benches/workers";
import type { Bench, Context } from "./lib/context";
import { makeSignalFiles } from "./lib/dataset";
import { machine, versions } from "./lib/machine";
import { generatorCore, pinSelf } from "./lib/process";
import { readReport, tableLines, verdict, writeReport } from "./lib/report";
import { emptyResult, type Result } from "./lib/result";

const benches: readonly Bench[] = [
  throughput,
  miss,
  stale,
  tail,
  scale,
  memory,
  variety,
  startup,
  ingest,
  wire,
  keyed,
  logins,
  lookups,
  revoked,
  overshoot,
  subscribed,
  due,
  delivery,
  sockets,
  stalled,
  fanout,
  accounting,
  analytics,
  workers,
  nodes,
];
const names = benches.map(({ name }) => name);

const usage = `bun bench/run.ts [--only NAME,…] [--rounds 7] [--seconds 3] [--quick]

  --only     only these: ${names.join(", ")}
  --rounds   rounds of each variant (default 7)
  --seconds  seconds of each round (default 3)
  --quick    2 rounds of 1 s and few polls: shows that everything works`;

const say = (line: string) => process.stdout.write(`${line}\n`);

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    rounds: { type: "string" },
    seconds: { type: "string" },
    quick: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  say(usage);
  process.exit(0);
}

const wanted = values.only?.split(",") ?? names;
const unknown = wanted.filter((name) => !names.includes(name));
const context: Context = {
  quick: values.quick,
  rounds: Number(values.rounds ?? (values.quick ? 2 : 7)),
  secondsPerRound: Number(values.seconds ?? (values.quick ? 1 : 3)),
  say,
};
if (unknown.length > 0 || !(context.rounds >= 1) || !(context.secondsPerRound >= 1)) {
  say(usage);
  process.exit(2);
}

// Whatever drives the servers stays off their core, this process included.
pinSelf(generatorCore);
say("making the signal files");
await makeSignalFiles();

const report = readReport();
report.machine = machine();
report.versions = await versions();
let failed = 0;
for (const bench of benches.filter(({ name }) => wanted.includes(name))) {
  say(`\n${bench.name}: ${bench.title}`);
  const result = await attempt(bench);
  print(result);
  report.sections[bench.name] = {
    title: bench.title,
    at: new Date().toISOString().slice(0, 16).replace("T", " ") + " UTC",
    rounds: context.rounds,
    secondsPerRound: context.secondsPerRound,
    quick: context.quick,
    result,
  };
  writeReport(report, names);
}
say("\nwritten: bench/RESULTS.md");
process.exit(failed > 0 ? 1 : 0);

/** A benchmark that breaks says so in its section and does not end the others. */
async function attempt(bench: Bench): Promise<Result> {
  try {
    return await bench.run(context);
  } catch (error) {
    failed += 1;
    const words = error instanceof Error ? (error.stack ?? error.message) : String(error);
    say(words);
    const fault = error instanceof Error ? error.message : String(error);
    return {
      ...emptyResult(),
      figures: [{ name: bench.title, target: "–", measured: `failed: ${fault}`, met: false }],
    };
  }
}

function print(result: Result): void {
  for (const table of result.tables) {
    say(`\n${table.title}`);
    for (const line of tableLines(table)) say(line);
  }
  for (const note of result.notes) say(note);
  for (const line of result.missing) say(`missing: ${line}`);
  say("");
  for (const figure of result.figures) {
    say(
      `${verdict(figure).padEnd(6)} ${figure.name}: ${figure.measured} (target ${figure.target})`,
    );
  }
}
