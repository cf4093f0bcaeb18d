#!/usr/bin/env bun
import { Command, Option } from "commander";
import { type Config, readConfig, type Role, roles } from "./config";
import { SetupError } from "./errors";
import { version } from "./version";

type Flags = Record<string, string | undefined>;

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
    }).filter(([, value]) => value !== undefined),
  );
  return readConfig(
    { ...below, ...file, ...process.env, ...given, ...above },
    (flags["role"] ?? "all") as Role,
  );
}

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
  .addOption(new Option("--role <role>", "which part runs here").choices([...roles]).default("all"))
  .action(async (_options, command: Command) => {
    const { serve } = await import("./cli/serve");
    await serve(await configOf(command.optsWithGlobals()));
  });

program
  .command("demo")
  .description("serve sample signals from a directory of its own, to look around")
  .option("--host <host>", "address to listen on (HOST)")
  .option("--port <port>", "port to listen on, 0 for a free one (PORT)")
  .action(async (_options, command: Command) => {
    const { demo } = await import("./cli/demo");
    const token = process.env["ARGO_WRITE_TOKEN"] || `demo-${crypto.randomUUID()}`;
    const own = { DATA_DIR: "./data/demo", LOG_LEVEL: "warn", SHUTDOWN_DELAY_SECONDS: "0" };
    const config = await configOf(command.optsWithGlobals(), own, { ARGO_WRITE_TOKEN: token });
    await demo(config, token);
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

async function readEnvFile(path: string): Promise<Record<string, string | undefined>> {
  const { parseEnv } = await import("node:util");
  try {
    return parseEnv(await Bun.file(path).text()) as Record<string, string | undefined>;
  } catch (cause) {
    throw new SetupError(`Cannot read ${path}.`, "Name a file that this user can read.", { cause });
  }
}

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = 1;
  if (error instanceof SetupError) {
    process.stderr.write(`argo-alpine: ${error.message}\n  ${error.fix}\n`);
  } else {
    process.stderr.write(`argo-alpine: ${error instanceof Error ? error.stack : String(error)}\n`);
  }
}
// A thread that has not ended by itself must not keep a stopped server alive.
process.exit();
