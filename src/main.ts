#!/usr/bin/env bun
import { Command, Option } from "commander";
import { type Config, readConfig, type Role, roles, secretNames, Variables } from "./config";
import { SetupError } from "./errors";
import { version } from "./version";
import type { AdminOptions } from "./cli/admin";
import type { ExportOptions } from "./cli/export";
import type { ImportOptions } from "./cli/import";
import type { SeedOptions } from "./cli/seed";

// Signals are sold: what this program makes is not for every user of the machine.
process.umask(0o027);

type Flags = Record<string, string | undefined>;
type ForceOptions = { force?: boolean; json?: boolean };

/** Flags win over variables, variables over defaults; --env-file stands below the environment. */
async function configOf(flags: Flags, below: Flags = {}, above: Flags = {}): Promise<Config> {
  const file = flags["envFile"] ? await readEnvFile(flags["envFile"]) : {};
  const given = Object.fromEntries(
    Object.entries({
      HOST: flags["host"],
      PORT: flags["port"],
      DATA_DIR: flags["dataDir"],
      SIGNALS_DB: flags["db"],
      LOG_LEVEL: flags["logLevel"],
      EMBEDDED: flags["embedded"] && "true",
      ASYNC_WORKERS: flags["workers"],
    }).filter(([, value]) => value !== undefined),
  );
  return readConfig(
    { ...below, ...file, ...process.env, ...given, ...above },
    (flags["role"] ?? "all") as Role,
  );
}

const roleOption = new Option("--role <role>", "which part runs here")
  .choices([...roles])
  .default("all");

const program = new Command("argo-alpine")
  .description("Self-hosted trading-signal server. Nothing it says is financial advice.")
  .version(version)
  .showHelpAfterError("(--help shows what is possible)")
  .configureHelp({ showGlobalOptions: true })
  .option("--data-dir <dir>", "everything this process owns (DATA_DIR)")
  .option("--db <file>", "the signal file (SIGNALS_DB)")
  .option("--env-file <file>", "read variables from FILE where the environment has none");

program
  .command("serve")
  .description("serve signals")
  .option("--host <host>", "address to listen on (HOST)")
  .option("--port <port>", "port to listen on, 0 for a free one (PORT)")
  .option("--log-level <level>", "fatal, error, warn, info, debug, trace or silent (LOG_LEVEL)")
  .addOption(roleOption)
  .option("--embedded", "keep accounts in the embedded Postgres, reached from elsewhere (EMBEDDED)")
  .option("--workers <n>", "processes that serve the port together (ASYNC_WORKERS)")
  // Said by the supervisor of several workers to each of them.
  .addOption(new Option("--as-worker <slot>").hideHelp())
  .addOption(new Option("--joins").hideHelp())
  .addHelpText("after", `\nVariables: ${Object.keys(Variables.shape).join(", ")}`)
  .action(async (_options, command: Command) => {
    const flags: Flags = command.optsWithGlobals();
    const config = await configOf(flags);
    const slot = flags["asWorker"];
    if (slot === undefined && config.workers > 1) {
      const { superviseWorkers } = await import("./cli/workers");
      process.exitCode = await superviseWorkers(config, process.argv.slice(2));
    } else {
      const { serve } = await import("./cli/serve");
      await serve(config, slot ? { slot: Number(slot), joins: Boolean(flags["joins"]) } : null);
    }
  });

program
  .command("demo")
  .description("serve sample signals from a directory of its own, to look around")
  .option("--host <host>", "address to listen on (HOST)")
  .option("--port <port>", "port to listen on, 0 for a free one (PORT)")
  .action(async (_options, command: Command) => {
    const { demo } = await import("./cli/demo");
    const token = `demo-${crypto.randomUUID()}`;
    const flags: Flags = command.optsWithGlobals();
    const usual = { LOG_LEVEL: "warn", SHUTDOWN_DELAY_SECONDS: "0" };
    // Never beside real signals or accounts, whatever the environment says of those.
    const data = { DATA_DIR: flags["dataDir"] ?? "./data/demo", SIGNALS_DB: flags["db"] };
    const own = { ...data, ASYNC_WORKERS: "" };
    const real = [
      "DATABASE_URL",
      "LIBSQL_URL",
      "REDIS_URL",
      "REDIS_HOST",
      "JWT_SECRET",
      "SMTP_URL",
    ];
    const none = [...real.flatMap((name) => [name, `${name}_FILE`]), "REQUIRE_VERIFIED_EMAIL"];
    const config = await configOf(flags, usual, {
      ...own,
      ...Object.fromEntries(none.map((name) => [name, ""])),
      ARGO_WRITE_TOKEN: token,
      ARGO_WRITE_TOKEN_FILE: "",
    });
    await demo(config, token);
  });

const jsonFlag = "--json";
const jsonText = "print the result as JSON";

const outputFor = async ({ json }: { json?: boolean }) => {
  const { Output } = await import("./cli/output");
  return new Output({ json: json === true, plain: Boolean(process.env["NO_COLOR"]) });
};

program
  .command("migrate")
  .description(
    "bring the signal file and the accounts up to date; safe to repeat, also beside a server",
  )
  .addOption(roleOption)
  .option(jsonFlag, jsonText)
  .action(async (options: { json?: boolean }, command: Command) => {
    const { migrate } = await import("./cli/migrate");
    await migrate(await configOf(command.optsWithGlobals()), await outputFor(options));
  });

program
  .command("import")
  .description("take signals from NDJSON, CSV (each also as .gz) or an engine's SQLite file")
  .argument("<file>", "the file, or - for standard input")
  .option("--skip-bad", "pass over rows that cannot be read, and list the first ones")
  .option(jsonFlag, jsonText)
  .action(async (file: string, options: ImportOptions & { json?: boolean }, command: Command) => {
    const { importRows } = await import("./cli/import");
    const config = await configOf(command.optsWithGlobals());
    await importRows(config, file, options, await outputFor(options));
  });

program
  .command("seed")
  .description('write synthetic signals of the strategy "demo", the same ones for the same seed')
  .requiredOption("--rows <n>", "how many")
  .option("--seed <n>", "where the random numbers start", "1")
  .option("--symbols <n>", "how many symbols", "25")
  .option(jsonFlag, jsonText)
  .action(async (options: SeedOptions & { json?: boolean }, command: Command) => {
    const { seed } = await import("./cli/seed");
    await seed(await configOf(command.optsWithGlobals()), options, await outputFor(options));
  });

program
  .command("export")
  .description("write signals as NDJSON by ascending id, to standard output or a file")
  .option("--since-id <id>", "only those after this id", "0")
  .option("--out <file>", "write this file, which appears once it is whole")
  .option(jsonFlag, `${jsonText}, with --out`)
  .action(async (options: ExportOptions & { json?: boolean }, command: Command) => {
    const { exportRows } = await import("./cli/export");
    await exportRows(await configOf(command.optsWithGlobals()), options, await outputFor(options));
  });

program
  .command("backup")
  .description("copy the signal file as it is now, while others go on writing, and check the copy")
  .argument("<file>", "the copy")
  .option("--force", "take the place of a file of this name")
  .option(jsonFlag, jsonText)
  .action(async (file: string, options: ForceOptions, command: Command) => {
    const { backup } = await import("./cli/backup");
    const config = await configOf(command.optsWithGlobals());
    await backup(config, file, options, await outputFor(options));
  });

program
  .command("restore")
  .description("put a backup in the place of the signal file, and keep what was there")
  .argument("<file>", "the backup")
  .option("--force", "go ahead while the signal file is in use")
  .option(jsonFlag, jsonText)
  .addHelpText(
    "after",
    "\nA process that has a file without a write-ahead log open, and is idle, cannot be seen:\nstop the engine and the server first.",
  )
  .action(async (file: string, options: ForceOptions, command: Command) => {
    const { restore } = await import("./cli/restore");
    const config = await configOf(command.optsWithGlobals());
    await restore(config, file, options, await outputFor(options));
  });

program
  .command("init")
  .description("write a file of fresh secrets, for compose.yaml or --env-file")
  .option("--out <file>", "the file, which must not be there yet", ".env")
  .option(jsonFlag, jsonText)
  .action(async (options: { out: string; json?: boolean }) => {
    const { init } = await import("./cli/init");
    init(options.out, await outputFor(options));
  });

program
  .command("admin")
  .description("administrators of the accounts")
  .command("create")
  .description("make an administrator, also while the server runs")
  .requiredOption("--email <address>", "the address to log in with")
  .option("--full-name <name>", "how they are called", "Administrator")
  .option("--password-file <file>", "read the password from FILE instead of standard input")
  .option(
    "--promote",
    "make whoever has an account with the address one; the password stays theirs, unless --password-file gives another",
  )
  .option(jsonFlag, jsonText)
  .action(async (options: AdminOptions & { json?: boolean }, command: Command) => {
    const { adminCreate } = await import("./cli/admin");
    const config = await configOf(command.optsWithGlobals());
    await adminCreate(config, options, await outputFor(options));
  });

program
  .command("doctor")
  .description("look at everything that serving needs and name each fault with its mend")
  .addOption(roleOption)
  .option("--quick", "without the check of every page, which takes time on a large file")
  .option(jsonFlag, jsonText)
  .action(async (options: { quick?: boolean; json?: boolean }, command: Command) => {
    const { doctor } = await import("./cli/doctor");
    const config = () => configOf(command.optsWithGlobals());
    process.exitCode = await doctor(config, options, await outputFor(options));
  });

program
  .command("health")
  .description("ask a running server whether it is ready; exit code 0 when it is")
  .option("--url <url>", "where it listens; by default where `serve` would")
  .action(async (_options, command: Command) => {
    const flags: Flags = command.optsWithGlobals();
    const { health } = await import("./cli/health");
    process.exitCode = await health(await configOf(flags), flags["url"]);
  });

program
  .command("embedded-postgres", { hidden: true })
  .argument("<dir>")
  .argument("<socket>")
  .action(async (dir: string, socket: string) => {
    const { embedded } = await import("./cli/embedded");
    await embedded(dir, socket);
  });

function isSystemError(error: unknown): error is Error & { code: string } {
  return error instanceof Error && "syscall" in error && "code" in error;
}

async function readEnvFile(path: string): Promise<Record<string, string | undefined>> {
  const { parseEnv } = await import("node:util");
  let found: Record<string, string | undefined>;
  try {
    found = parseEnv(await Bun.file(path).text());
  } catch (cause) {
    throw new SetupError(`Cannot read ${path}.`, "Name a file that this user can read.", { cause });
  }
  // A file may serve others as well: only what looks like one of ours is worth a word.
  const { misspelt } = await import("./cli/misspelt");
  const known = [...Object.keys(Variables.shape), ...secretNames.map((name) => `${name}_FILE`)];
  for (const [name, meant] of misspelt(Object.keys(found), known)) {
    process.stderr.write(`argo-alpine: ${path}: ${name} is not known: is it ${meant}?\n`);
  }
  return found;
}

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = 1;
  if (error instanceof SetupError) {
    process.stderr.write(`argo-alpine: ${error.message}\n  ${error.fix}\n`);
  } else if (isSystemError(error)) {
    // A pipe that nobody reads any more is no fault of ours, and nobody would read of it.
    if (error.code !== "EPIPE") process.stderr.write(`argo-alpine: ${error.message}\n`);
  } else {
    process.stderr.write(`argo-alpine: ${error instanceof Error ? error.stack : String(error)}\n`);
  }
}
// A thread that has not ended by itself must not keep a stopped server alive.
process.exit();
