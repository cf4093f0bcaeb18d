import { type Answer, Connection, headerOf, requestBytes } from "./connection";
import { Engine } from "./engine";

/**
 * Races an outside writer, as a program: `bun stale-client.ts JSON`. Before each poll it notes the
 * highest id that the writer's ledger calls committed; an answer that shows less, in its body or in
 * its Signal-Head, is stale. Prints one line of JSON.
 */
export type StaleOptions = {
  port: number;
  path: string;
  headers: Record<string, string>;
  db: string;
  commitsPerSecond: number;
  /** At least so many polls, and for at least so long. */
  polls: number;
  secondsMin: number;
  /** Connections that poll without a pause; every fourth sends If-None-Match. */
  connections: number;
  /** Connections that wait for the ledger and poll at once when it grows. */
  promptConnections: number;
  /** Open a connection of its own for a poll each time the ledger grows, as bots without keep-alive do. */
  fresh: boolean;
  /** Kill -9 the writer this many times on the way, and start it again. */
  kills: number;
};

export type StaleReport = {
  polls: number;
  stale: number;
  notModified: number;
  failures: number;
  /** Of the polls and of the stale answers: the first request of a connection. */
  freshPolls: number;
  freshStale: number;
  commits: number;
  kills: number;
  seconds: number;
  /** The first stale answers, in words. */
  examples: string[];
};

const examplesMax = 5;
/** Connections that may be opening at once. */
const freshMax = 16;
const firstIdAt = '[{"id":'.length;

class Poller {
  #polls = 0;
  #etag: string | null = null;
  #seenId = 0;
  readonly #plain: Buffer;

  constructor(
    readonly connection: Connection,
    readonly options: StaleOptions,
    readonly conditional: boolean,
    readonly race: Race,
  ) {
    this.#plain = requestBytes("GET", options.path, options.headers);
  }

  poll(done: () => void): void {
    const noted = this.race.engine.committedId;
    this.race.started += 1;
    this.connection.send(this.#request(), (answer) => {
      this.#judge(answer, noted);
      done();
    });
  }

  #request(): Buffer {
    if (!this.conditional || this.#etag === null) return this.#plain;
    const headers = { ...this.options.headers, "if-none-match": this.#etag };
    return requestBytes("GET", this.options.path, headers);
  }

  #judge(answer: Answer, noted: number): void {
    const { report } = this.race;
    report.polls += 1;
    const first = this.#polls === 0;
    this.#polls += 1;
    if (first) report.freshPolls += 1;
    if (answer.status === 304) {
      report.notModified += 1;
    } else if (answer.status === 200) {
      this.#etag = headerOf(answer.head, "etag");
      this.#seenId = Number.parseInt(answer.body.toString("latin1", firstIdAt, firstIdAt + 16), 10);
    } else {
      report.failures += 1;
      return;
    }
    const head = Number(headerOf(answer.head, "signal-head") ?? Number.NaN);
    if (this.#seenId >= noted && !(head < noted)) return;
    report.stale += 1;
    if (first) report.freshStale += 1;
    if (report.examples.length < examplesMax) {
      report.examples.push(
        `${first ? "new connection, " : ""}committed ${noted}, status ${answer.status}, first id ${this.#seenId}, Signal-Head ${head}`,
      );
    }
  }
}

/** What the pollers of one race share. */
class Race {
  started = 0;
  readonly report: StaleReport = {
    polls: 0,
    stale: 0,
    notModified: 0,
    failures: 0,
    freshPolls: 0,
    freshStale: 0,
    commits: 0,
    kills: 0,
    seconds: 0,
    examples: [],
  };

  readonly #startedMs = performance.now();

  constructor(
    readonly engine: Engine,
    readonly options: StaleOptions,
  ) {}

  get seconds(): number {
    return (performance.now() - this.#startedMs) / 1_000;
  }

  get goesOn(): boolean {
    return this.started < this.options.polls || this.seconds < this.options.secondsMin;
  }
}

async function run(options: StaleOptions): Promise<StaleReport> {
  const waiting: Poller[] = [];
  const onLost = () => {
    race.report.failures += 1;
  };
  const promptPoll = (poller: Poller) =>
    poller.poll(() => {
      waiting.push(poller);
    });
  let opening = 0;
  const freshPoll = async () => {
    opening += 1;
    const connection = await Connection.open(options.port, onLost);
    opening -= 1;
    const poller = new Poller(connection, options, false, race);
    poller.poll(() => connection.close());
  };
  const engine = new Engine(options.db, options.commitsPerSecond, () => {
    if (options.fresh && opening < freshMax && race.goesOn) void freshPoll();
    while (race.goesOn) {
      const poller = waiting.pop();
      if (!poller) return;
      promptPoll(poller);
    }
  });
  const race = new Race(engine, options);
  await engine.start();
  for (let i = 0; i < options.promptConnections; i += 1) {
    const connection = await Connection.open(options.port, onLost);
    waiting.push(new Poller(connection, options, false, race));
  }
  const steady = Array.from({ length: options.connections }, async (_, i) => {
    const connection = await Connection.open(options.port, onLost);
    const poller = new Poller(connection, options, i % 4 === 3, race);
    await new Promise<void>((resolve) => {
      const next = () => (race.goesOn ? poller.poll(next) : resolve());
      next();
    });
  });
  const killer = (async () => {
    for (let kill = 1; kill <= options.kills; kill += 1) {
      const at = (options.polls * kill) / (options.kills + 1);
      while (race.started < at) await Bun.sleep(2);
      await engine.kill();
      race.report.kills += 1;
      await engine.start();
    }
  })();
  await Promise.all([...steady, killer]);
  race.report.seconds = race.seconds;
  while (race.report.polls + race.report.failures < race.started) await Bun.sleep(5);
  race.report.commits = engine.commits;
  await engine.kill();
  return race.report;
}

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] ?? "{}") as StaleOptions;
  process.stdout.write(`${JSON.stringify(await run(options))}\n`);
  process.exit(0);
}
