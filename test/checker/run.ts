/**
 * The checker: `bun test/checker/run.ts --against one --seconds 60 [--seed N] [--signals-alone]
 * [--logs FILE]`.
 * Producers, pollers, streams and exports are at work while servers, links, locks and what stands
 * behind them are broken; then all that was seen is judged by what was sent and acknowledged. The
 * plan of faults and what each client asks for follow from the seed.
 */
import { parseArgs } from "node:util";
import type { Hooks } from "./hooks.ts";
import { judge, type Stored, type Verdict } from "./judge.ts";
import { isFor, Ledger } from "./ledger.ts";
import { openNodes } from "./nodes.ts";
import { produce, writeBeside } from "./producers.ts";
import { followExports, followLine, Poller, sitDeaf, walkLists } from "./readers.ts";
import { below, type Counts, numbersOf, type Stage } from "./stage.ts";
import { type Fault, openServer, type World } from "./world.ts";

export interface CheckerOptions {
  seed: number;
  seconds: number;
  against: Against;
  accounts: boolean;
  /** Told of each fault as it is done. */
  say?: (line: string) => void;
}

export const AGAINST = ["one", "workers", "nodes"] as const;
type Against = (typeof AGAINST)[number];

export interface Checked {
  verdict: Verdict;
  /** All of it in one line. */
  summary: string;
  sound: boolean;
  acknowledged: number;
  logs: string[];
}

const PRODUCERS = 3;
const POLLERS_OF_EACH = 2;
const LINES_OF_EACH = 4;
/** How long all may take to come to the end once nothing is broken any more. */
const CATCH_UP_MS = 60_000;
/** Without any webhook that comes. What a process had claimed that was killed is sent after 30 s. */
const HOOKS_QUIET_MS = 90_000;
const GAP_MS_MAX = 1_200;
const FAULT_MS_MAX = 1_500;

const worlds: Record<Against, (options: CheckerOptions) => Promise<World>> = {
  one: ({ accounts }) => openServer({ accounts, workers: 1 }),
  workers: ({ accounts }) => openServer({ accounts, workers: 4 }),
  nodes: openNodes,
};

const names: Record<Against, string> = {
  one: "one process",
  workers: "four workers",
  nodes: "three nodes",
};

export async function check(options: CheckerOptions): Promise<Checked> {
  const { seed, seconds, against } = options;
  await using world = await worlds[against](options);
  const ledger = new Ledger();
  const counts: Counts = { cuts: 0, polls: 0, unmodified: 0, lists: 0, retries: 0 };
  const endMs = performance.now() + seconds * 1_000;
  let lateMs = Number.POSITIVE_INFINITY;
  let rows: Stored[] | null = null;
  const stage: Stage = {
    ledger,
    counts,
    readers: world.readers,
    writeHeaders: world.writeHeaders,
    url: world.url,
    copies: world.copies,
    over: () => performance.now() >= endMs,
    late: () => performance.now() >= lateMs,
    target: ({ reader, filter, fromId }) => {
      const last = rows?.findLast(({ sent }) => sent !== null && isFor(reader, filter, sent));
      return rows === null ? null : (last?.id ?? fromId);
    },
  };
  const random = (actor: string): (() => number) => numbersOf(seed, actor);

  const done: Record<string, number> = {};
  const disturb = async (name: string, faults: Record<string, Fault>): Promise<void> => {
    const planned = plan(random(name), Object.keys(faults));
    while (!stage.over()) {
      const { kind, gapMs, forMs } = planned.next().value;
      await Bun.sleep(gapMs);
      if (stage.over()) return;
      options.say?.(
        `${((seconds * 1_000 - endMs + performance.now()) / 1_000).toFixed(1)} s: ${kind} ${forMs}`,
      );
      await faults[kind]?.(forMs);
      done[kind] = (done[kind] ?? 0) + 1;
    }
  };
  world.hooks?.attend(ledger, random("hooks"));
  const writing = [
    writeBeside(stage, world.beside, random("beside")),
    ...Array.from({ length: PRODUCERS }, (_, i) => {
      const name = `producer ${i + 1}`;
      const reader = world.readers[0];
      if (!reader) throw new Error("nobody may read");
      const own = random(name);
      return produce(stage, name, own, new Poller(stage, `${name}, poll`, reader, own));
    }),
  ];
  const reading = world.readers.flatMap((reader) => [
    ...Array.from({ length: POLLERS_OF_EACH }, (_, i) => {
      const name = `poller ${i + 1} of ${reader.name}`;
      return new Poller(stage, name, reader, random(name)).run();
    }),
    ...Array.from({ length: LINES_OF_EACH }, (_, i) => {
      const form = i % 2 === 0 ? "stream" : "socket";
      const name = `${form} ${i + 1} of ${reader.name}`;
      return followLine(stage, form, name, reader, random(name));
    }),
    sitDeaf(stage, reader, random(`deaf ${reader.name}`)),
    walkLists(stage, `list of ${reader.name}`, reader, random(`list of ${reader.name}`)),
    followExports(stage, `export of ${reader.name}`, reader, random(`export of ${reader.name}`)),
  ]);
  const all = Promise.all([...writing, ...reading]);
  await Promise.race([
    all,
    Promise.all([disturb("servers", world.serverFaults), disturb("around", world.otherFaults)]),
  ]);
  lateMs = performance.now() + CATCH_UP_MS;
  await Promise.all(writing);
  rows = await world.rows(ledger);
  lateMs = performance.now() + CATCH_UP_MS;
  await all;
  await caughtUp(world.hooks, rows);

  const verdict = judge(ledger, rows);
  const sound = Object.values(verdict).every((list) => list.length === 0);
  return {
    verdict,
    sound,
    acknowledged: ledger.sent.filter(({ id }) => id !== null).length,
    logs: world.logs(),
    summary: summaryOf(options, ledger, counts, done, verdict),
  };
}

/** Waits for webhooks as long as they come. */
async function caughtUp(hooks: Hooks | null, rows: readonly Stored[]): Promise<void> {
  if (hooks === null) return;
  let seen = hooks.came;
  let seenMs = performance.now();
  while (!hooks.complete(rows) && performance.now() - seenMs < HOOKS_QUIET_MS) {
    await Bun.sleep(50);
    if (hooks.came === seen) continue;
    seen = hooks.came;
    seenMs = performance.now();
  }
}

interface Planned {
  kind: string;
  gapMs: number;
  forMs: number;
}

/** What is broken, after which rest, for how long: by the seed alone. */
export function* plan(random: () => number, kinds: string[]): Generator<Planned, never> {
  for (;;) {
    yield {
      kind: kinds[below(random, kinds.length)] ?? "",
      gapMs: below(random, GAP_MS_MAX),
      forMs: 50 + below(random, FAULT_MS_MAX),
    };
  }
}

function summaryOf(
  { seed, seconds, against, accounts }: CheckerOptions,
  ledger: Ledger,
  counts: Counts,
  done: Record<string, number>,
  verdict: Verdict,
): string {
  const number = (value: number): string => value.toLocaleString("en-US");
  const read = (what: string): string => {
    const sequences = ledger.sequences.filter(({ name }) => name.startsWith(what));
    if (sequences.length === 0) return "";
    return `${number(sequences.reduce((sum, { shown }) => sum + shown.length, 0))} by ${sequences.length} ${what}s`;
  };
  const acknowledged = ledger.sent.filter(({ id }) => id !== null).length;
  const faults = Object.entries(done).map(([kind, times]) => `${kind} ${times}`);
  const found = Object.entries(verdict).map(
    ([kind, list]: [string, string[]]) =>
      `${kind.replace("wronglyShown", "wrongly shown")} ${list.length}`,
  );
  const parts = [
    `seed ${seed}`,
    `${names[against]}${accounts ? "" : ", signals alone"}`,
    `${seconds} s`,
    `${number(acknowledged)} signals acknowledged of ${number(ledger.sent.length)} (${number(counts.retries)} posts sent again)`,
    `read ${["stream", "socket", "export", "webhook"]
      .map(read)
      .filter((text) => text !== "")
      .join(", ")}`,
    `${number(counts.polls)} polls (${number(counts.unmodified)} × 304), ${number(counts.lists)} lists`,
    `${number(counts.cuts)} cuts by clients`,
    faults.join(", "),
    found.join(", "),
  ];
  return parts.join(" · ");
}

/** The first faults of each kind, for a message. */
export function faultsOf(verdict: Verdict): string[] {
  return Object.entries(verdict).flatMap(([kind, list]: [string, string[]]) =>
    list.slice(0, 10).map((fault) => `${kind}: ${fault}`),
  );
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      seconds: { type: "string", default: "30" },
      against: { type: "string", default: "one" },
      "signals-alone": { type: "boolean", default: false },
      logs: { type: "string" },
    },
  });
  const against = AGAINST.find((name) => name === values.against);
  if (!against) throw new Error(`--against is one of ${AGAINST.join(", ")}`);
  const seed = Number(values.seed ?? below(Math.random, 2 ** 31));
  console.log(`seed ${seed}`);
  const checked = await check({
    seed,
    seconds: Number(values.seconds),
    against,
    accounts: !values["signals-alone"],
    say: console.log,
  });
  if (values.logs !== undefined) await Bun.write(values.logs, checked.logs.join("\n"));
  for (const fault of faultsOf(checked.verdict)) console.log(fault);
  console.log(checked.summary);
  return checked.sound ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main();
