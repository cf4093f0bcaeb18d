import { accessSync, constants, existsSync, statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { booksVersion } from "../argo/signals/adopt";
import { indexesFor, type Layout } from "../argo/signals/layout";
import { TIMESTAMP_AHEAD_SECONDS_MAX } from "../argo/signals/schema";
import type { SignalReader } from "../argo/signals/store";
import { type Config, isLoopback } from "../config";
import { SetupError } from "../errors";
import { openDatabase } from "../platform/sqlite";
import { type Check, fail, ok, warn } from "./check";
import { asSetupError, isSqlite, shortDamage, tryReader } from "./file";
import { lostCommits } from "../platform/wal";
import { grouped, type Output, seconds } from "./output";
import { mustFitWorkers } from "./workers";

export type DoctorOptions = { quick?: boolean };

const adoptFix = "Run `argo-alpine migrate`.";
const argoFix =
  "See that it runs, that ARGO_URL leads there, and that ARGO_SERVICE_TOKEN is one of its own.";
const restoreFix = "Stop the server and run `argo-alpine restore BACKUP`.";
const sqliteSound = "3.51.3";
const futureShownMax = 5;
const futureCountMax = 100;
const recentRows = 1_000;
const askMs = 1_500;
const freeBytesMin = 64 * 1024 * 1024;
const freeBytesWanted = 1024 * 1024 * 1024;

/** Looks at everything that serving needs and names each fault with its mend. 1 when one is fatal. */
export async function doctor(
  configOf: () => Promise<Config>,
  options: DoctorOptions,
  output: Output,
): Promise<number> {
  const checks = await examine(configOf, options);
  const failed = checks.some((check) => check.status === "fail");
  output.result({ ok: !failed, checks }, table(checks, output));
  return failed ? 1 : 0;
}

async function examine(configOf: () => Promise<Config>, options: DoctorOptions): Promise<Check[]> {
  let config: Config;
  try {
    config = await configOf();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    return [fail("configuration", error.message, error.fix)];
  }
  return [
    ...(config.argoUrl === null
      ? await signalsHere(config, options)
      : await signalsElsewhere(config, config.argoUrl)),
    await port(config),
    ...workers(config),
    ...access(config),
    ...(await accounts(config)),
  ];
}

const signalsHere = async (config: Config, options: DoctorOptions): Promise<Check[]> => [
  ok("configuration", `readable; the signal file is ${config.signalsDb}`),
  directory(config),
  ...file(config, options),
  ...(await origin(config)),
  ...(await sqlite()),
  space(config),
];

async function signalsElsewhere(config: Config, url: string): Promise<Check[]> {
  const { RemoteSignals } = await import("../alpine/signals/remote");
  using remote = new RemoteSignals({ url, token: config.serviceTokens[0] ?? "", cache: false });
  const fault = await remote.fault();
  return [
    ok("configuration", `readable; signals come from ${url}`),
    fault === null ? ok("argo", `${url} answers`) : fail("argo", `${url}: ${fault.cause}`, argoFix),
  ];
}

function workers(config: Config): Check[] {
  const name = "workers";
  if (config.workers === 1) return [];
  try {
    mustFitWorkers(config);
    return [ok(name, `${config.workers} processes serve the port together`)];
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    return [fail(name, error.message, error.fix)];
  }
}

async function origin(config: Config): Promise<Check[]> {
  const { originCheck } = await import("./doctor-origin");
  const check = await originCheck(config);
  return check ? [check] : [];
}

/** Loaded where they are looked at. */
async function accounts(config: Config): Promise<Check[]> {
  if (config.role === "argo" && config.redisUrl === null) return [];
  const { accountChecks, redis } = await import("./doctor-accounts");
  return config.role === "argo" ? [await redis(config)] : accountChecks(config);
}

function directory({ signalsDb }: Config): Check {
  const name = "data directory";
  const dir = dirname(signalsDb);
  if (!existsSync(dir)) {
    const above = nearest(dir);
    return may(above, constants.W_OK | constants.X_OK)
      ? ok(name, `${dir} will be made`)
      : fail(name, `${dir} cannot be made in ${above}`, "Make it, and give it to this user.");
  }
  if (!may(dir, constants.R_OK | constants.W_OK | constants.X_OK)) {
    return fail(name, `${dir} is not writable`, `Give this user write permission on ${dir}.`);
  }
  const mode = statSync(dir).mode;
  if (mode & 0o002) {
    const shown = (mode & 0o777).toString(8);
    return warn(name, `${dir} can be written by everybody (${shown})`, `Run: chmod o-w ${dir}`);
  }
  return ok(name, dir);
}

/** The nearest directory above that is there. */
const nearest = (dir: string): string => (existsSync(dir) ? dir : nearest(dirname(dir)));

function may(path: string, access: number): boolean {
  try {
    accessSync(path, access);
    return true;
  } catch {
    return false;
  }
}

function file({ signalsDb: path }: Config, options: DoctorOptions): Check[] {
  const name = "signal file";
  if (!existsSync(path)) {
    return [warn(name, `there is no ${path} yet; serve makes an empty one`, adoptFix)];
  }
  if (!may(path, constants.R_OK)) {
    return [fail(name, `${path} cannot be read`, "Give this user read permission on it.")];
  }
  // Looked at before it is opened: closing a descriptor afterwards would drop SQLite's locks.
  if (statSync(path).size > 0 && !isSqlite(path)) {
    return [fail(name, `${path} is no SQLite file`, restoreFix)];
  }
  const checks = [permissions(path)];
  const lost = lostCommits(path);
  if (lost !== null) {
    checks.push(fail("write-ahead log", `commits are lost: ${lost}`, restoreFix));
    return checks;
  }
  try {
    using reader = tryReader(path);
    checks.push(...content(reader, path, options));
  } catch (cause) {
    const error = asSetupError(cause, path);
    if (!(error instanceof SetupError)) throw error;
    checks.push(fail(name, error.message, error.fix));
  }
  return checks;
}

function permissions(path: string): Check {
  const name = "signal file";
  const { mode, size } = statSync(path);
  const shown = (mode & 0o777).toString(8);
  if (!may(path, constants.W_OK)) {
    return warn(
      name,
      `${path} is not writable for this user: it is served, but nothing is written`,
      "Give this user write permission on it.",
    );
  }
  const reachable = statSync(dirname(path)).mode & 0o001;
  if (reachable && mode & 0o006) {
    const what = mode & 0o002 ? "written" : "read";
    return warn(
      name,
      `${path} can be ${what} by every user of this machine (${shown})`,
      `Run: chmod o= ${path}`,
    );
  }
  return ok(name, `${path}, ${(size / 1e6).toFixed(1)} MB, mode ${shown}`);
}

function content(reader: SignalReader, path: string, options: DoctorOptions): Check[] {
  const checks = [integrity(reader, path, options)];
  const { layout } = reader;
  if (reader.fault) {
    checks.push(fail("table", reader.fault.message, reader.fault.fix));
    return checks;
  }
  if (!layout) {
    checks.push(warn("table", "there is no table of signals yet", adoptFix));
    return checks;
  }
  checks.push(
    ok("table", `highest id ${grouped(reader.head.maxId)}${absent(layout)}`),
    ...books(path, layout),
    ...indexes(layout),
    ...columns(layout),
    future(reader),
    timestamps(reader),
  );
  return checks;
}

function integrity(reader: SignalReader, path: string, { quick }: DoctorOptions): Check {
  const name = "integrity";
  if (quick) return ok(name, "not checked (--quick)");
  const begun = performance.now();
  const damage = reader.damage();
  const took = seconds(performance.now() - begun);
  const size = `${(statSync(path).size / 1e6).toFixed(1)} MB`;
  return damage.length === 0
    ? ok(name, `quick_check found nothing in ${size}, ${took}`)
    : fail(name, `quick_check: ${shortDamage(damage)}`, restoreFix);
}

function absent({ has }: Layout): string {
  const notes = [
    ...(has.sha256 ? [] : ["no column sha256: hashes of ingest are kept in a table of our own"]),
    ...(has.strategy ? [] : ["no column strategy: every row counts as weighted_consensus"]),
    ...(has.stop ? [] : ["no column stop_price"]),
    ...(has.target ? [] : ["no column target_price"]),
  ];
  return notes.map((note) => `; ${note}`).join("");
}

function books(path: string, layout: Layout): Check[] {
  const db = openDatabase(path, "reader");
  try {
    const mode = db.query<{ journal_mode: string }, []>("PRAGMA journal_mode").get();
    const version = booksVersion(db);
    const journal =
      mode?.journal_mode === "wal"
        ? ok("journal", "write-ahead log")
        : warn("journal", `mode ${mode?.journal_mode}: readers and writers wait`, adoptFix);
    return [
      journal,
      layout.tracked
        ? ok("adoption", `own tables of version ${version}, changes are counted`)
        : warn("adoption", "the file is not adopted: changes are not counted", adoptFix),
    ];
  } finally {
    db.close();
  }
}

function indexes(layout: Layout): Check[] {
  const wanted = indexesFor(layout);
  const missing = wanted.filter(({ name }) => !layout.indexes[name]);
  if (missing.length === 0) return [ok("indexes", `all ${wanted.length} are there`)];
  return missing.map(({ name, names }) =>
    warn("indexes", `${names[0]} is missing: reads by ${name} visit every row`, adoptFix),
  );
}

function columns(layout: Layout): Check[] {
  const checks: Check[] = [];
  if (layout.unfillable.length > 0) {
    checks.push(
      warn(
        "columns",
        `the table requires ${layout.unfillable.join(", ")}: ingest and import cannot write`,
        "Give these columns a default, or let only the engine write.",
      ),
    );
  }
  if (layout.id !== '"id"') {
    checks.push(
      warn(
        "ids",
        "the table has no integer primary key: a plain VACUUM may number its rows anew",
        "Never VACUUM the file in place; `argo-alpine backup` keeps the numbers.",
      ),
    );
  }
  return checks;
}

/** Bytes decide the order, so a date far ahead stays on top for ever. */
function future(reader: SignalReader): Check {
  const name = "future dates";
  const bound = new Date(Date.now() + TIMESTAMP_AHEAD_SECONDS_MAX * 1000).toISOString();
  const rows = reader.datedAfter(bound.slice(0, 19), futureCountMax);
  if (rows.length === 0) return ok(name, "no signal is dated ahead");
  const shown = rows.slice(0, futureShownMax).map((row) => `id ${row.id} (${row.timestamp})`);
  const more = rows.length - shown.length;
  const rest =
    more > 0 ? ` and ${rows.length === futureCountMax ? "at least " : ""}${more} more` : "";
  return warn(
    name,
    `pinned on top of every answer: ${shown.join(", ")}${rest}`,
    "Correct the clock of their producer, then the timestamps of these rows in the file.",
  );
}

/** How a timestamp is written, as far as that decides where it sorts. */
function shapeOf(timestamp: string): string {
  const parts =
    /^\d{4}-\d\d-\d\d(?:([T ])\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$/.exec(
      timestamp,
    );
  if (!parts) return /^\d+$/.test(timestamp) ? "a number" : "another form";
  const [, separator, zone] = parts;
  if (separator === undefined) return "date alone";
  const place = zone === undefined ? "no zone" : zone;
  return `date${separator === "T" ? "T" : " "}time ${place}`;
}

function timestamps(reader: SignalReader): Check {
  const name = "timestamps";
  const head = reader.head.maxId;
  const { rows } = reader.slice(Math.max(0, head - recentRows), head, recentRows, null);
  const examples = new Map<string, string>();
  for (const { timestamp } of rows) {
    const shape = shapeOf(timestamp ?? "");
    if (!examples.has(shape)) examples.set(shape, timestamp ?? "none");
  }
  if (examples.size === 0) return ok(name, "no rows yet");
  const odd = examples.has("another form");
  if (examples.size === 1 && !odd) return ok(name, `of one form: ${[...examples.values()].join()}`);
  const shown = [...examples.values()].slice(0, 5).map((text) => `"${text}"`);
  return warn(
    name,
    `the newest rows sort by bytes, not by time: ${shown.join(", ")}`,
    "Let every producer write one form, such as 2026-01-05T21:00:00+00:00.",
  );
}

async function sqlite(): Promise<Check[]> {
  const db = openDatabase(":memory:", "writer");
  const own = db.query<{ v: string }, []>("SELECT sqlite_version() AS v").get()?.v ?? "0";
  db.close();
  const bug = `SQLite 3.7.0 to 3.51.2 may damage a file that two processes write (fixed in ${sqliteSound})`;
  const checks = [
    isSound(own)
      ? ok("sqlite", `${own} here`)
      : fail("sqlite", `${own} here: ${bug}`, `Use a release with SQLite ${sqliteSound} or later.`),
  ];
  const python = await pythonSqlite();
  const seen =
    python === null ? "no python3 on PATH to ask" : `python3 on PATH has SQLite ${python}`;
  checks.push(
    python !== null && isSound(python)
      ? ok("writer's sqlite", `${seen}; the engine's own cannot be seen: ${bug}`)
      : warn(
          "writer's sqlite",
          `${seen}; the engine's own cannot be seen: ${bug}`,
          `Give the engine SQLite ${sqliteSound} or later, and keep backups.`,
        ),
  );
  return checks;
}

function isSound(version: string): boolean {
  const [a = 0, b = 0, c = 0] = version.split(".").map(Number);
  const [x = 0, y = 0, z = 0] = sqliteSound.split(".").map(Number);
  return a !== x ? a > x : b !== y ? b > y : c >= z;
}

async function pythonSqlite(): Promise<string | null> {
  const python = Bun.which("python3");
  if (python === null) return null;
  const child = Bun.spawn([python, "-c", "import sqlite3; print(sqlite3.sqlite_version)"], {
    stdin: "ignore",
    stderr: "ignore",
    timeout: 5_000,
  });
  const version = (await child.stdout.text()).trim();
  return (await child.exited) === 0 && /^\d+(\.\d+)+$/.test(version) ? version : null;
}

async function port({ host, port: number }: Config): Promise<Check> {
  const name = "port";
  if (number === 0) return ok(name, "a free one is taken");
  const place = `${host}:${number}`;
  try {
    const probe = Bun.listen({ hostname: host, port: number, socket: { data() {} } });
    probe.stop(true);
    return ok(name, `${place} is free`);
  } catch (error) {
    const running = await runningVersion(host, number);
    if (running !== null) return ok(name, `argo-alpine ${running} answers on ${place}`);
    const reason = error instanceof Error ? error.message : String(error);
    return fail(
      name,
      `${place} cannot be had: ${reason}`,
      "Stop what uses the port, or choose another with PORT or --port.",
    );
  }
}

/** The version of an argo-alpine that listens there; null when it is something else. */
async function runningVersion(host: string, number: number): Promise<string | null> {
  const name = ["0.0.0.0", "::", "[::]"].includes(host) ? "127.0.0.1" : host;
  const bare = name.replace(/^\[|\]$/g, "");
  const url = `http://${bare.includes(":") ? `[${bare}]` : bare}:${number}/version`;
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(askMs) });
    const body = (await response.json()) as { version?: unknown; bun?: unknown } | null;
    return typeof body?.version === "string" && typeof body.bun === "string" ? body.version : null;
  } catch {
    return null;
  }
}

function space({ signalsDb }: Config): Check {
  const name = "disk space";
  const { bavail, bsize } = statfsSync(nearest(dirname(signalsDb)));
  const free = bavail * bsize;
  const size = existsSync(signalsDb) ? statSync(signalsDb).size : 0;
  const shown = `${(free / 1e9).toFixed(1)} GB free`;
  const fix = "Free space on the disk of the signal file.";
  if (free < freeBytesMin) return fail(name, shown, fix);
  if (free < freeBytesWanted || free < size) return warn(name, `${shown}: too little to grow`, fix);
  return ok(name, shown);
}

function access(config: Config): Check[] {
  const { access: mode, argoUrl, host, readTokens, writeTokens } = config;
  const checks: Check[] = [];
  if (argoUrl !== null) checks.push(ok("writing", "producers post to argo"));
  else if (writeTokens.length > 0)
    checks.push(ok("writing", `${writeTokens.length} write token(s)`));
  else {
    checks.push(
      warn(
        "writing",
        "no write token: only the engine's file counts, and keys of administrators that may write",
        "Set ARGO_WRITE_TOKEN where producers post over HTTP.",
      ),
    );
  }
  if (mode === "open" && !isLoopback(host)) {
    checks.push(
      warn(
        "reading",
        `open on ${host}: everybody who reaches this server reads every signal`,
        "Set SIGNALS_ACCESS=key.",
      ),
    );
  } else if (mode === "key" && readTokens.length === 0) {
    checks.push(
      warn("reading", "a key is needed and there is no read token", "Set ARGO_READ_TOKEN."),
    );
  } else {
    checks.push(ok("reading", mode === "open" ? "open to this machine" : "with a key"));
  }
  return checks;
}

function table(checks: Check[], output: Output): string {
  const width = Math.max(...checks.map((check) => check.name.length));
  return checks
    .flatMap(({ name, status, detail, fix }) => [
      `${output.paint(status, status.padEnd(4))}  ${name.padEnd(width)}  ${detail}`,
      ...(fix === null ? [] : [`      ${" ".repeat(width)}  ${output.paint("dim", fix)}`]),
    ])
    .join("\n");
}
