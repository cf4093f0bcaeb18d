import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, openSync, rmSync, writeSync } from "node:fs";
import { resolve } from "node:path";
import { SetupError } from "../errors";
import type { Output } from "./output";

/** Each with its length and what it is for. Hexadecimal needs no encoding in a URL. */
const secrets: [name: string, bytes: number, use: string][] = [
  [
    "JWT_SECRET",
    32,
    "Signs access tokens, seals second factors and secrets of webhooks: keep a copy with the backups.",
  ],
  ["ARGO_WRITE_TOKEN", 24, "For the strategies that post signals."],
  ["ARGO_READ_TOKEN", 24, "For bots of your own; customers have keys."],
  ["ARGO_SERVICE_TOKEN", 24, "For servers of the role alpine, which say it to their argo."],
  ["METRICS_TOKEN", 24, "For Prometheus on another machine."],
  [
    "POSTGRES_PASSWORD",
    24,
    "Of the Postgres in compose.yaml, which keeps the one that it began with.",
  ],
  ["REDIS_PASSWORD", 24, "Of the Redis in compose.yaml."],
];

/**
 * Writes a file of fresh secrets that only this user can read.
 * @throws SetupError when it is there already, or cannot be written.
 */
export function init(out: string, output: Output): void {
  const path = resolve(out);
  const lines = secrets.map(
    ([name, bytes, use]) => `# ${use}\n${name}=${randomBytes(bytes).toString("hex")}\n`,
  );
  const head =
    "# Made by `argo-alpine init`. Everything else that can be set is in .env.example.\n\n";
  write(path, head + lines.join("\n"));
  const names = secrets.map(([name]) => name);
  output.result(
    { file: path, names },
    `${path} has ${names.length} fresh secrets and is readable for you alone. Keep a copy in a safe place.

With Docker, beside compose.yaml:

  docker compose up -d --build
  docker compose exec argo argo-alpine admin create --email you@example.com

Without:

  argo-alpine --env-file ${out} serve
  argo-alpine --env-file ${out} admin create --email you@example.com`,
  );
}

/** Never over another one: secrets that are in use would be lost. */
function write(path: string, text: string): void {
  let file: number;
  try {
    file = openSync(path, "wx", 0o600);
  } catch (cause) {
    const there = cause instanceof Error && "code" in cause && cause.code === "EEXIST";
    throw there
      ? new SetupError(
          `${path} is there already, and is left as it is.`,
          "Name another file with --out, or move that one away if nothing uses its secrets.",
          { cause },
        )
      : new SetupError(
          `${path} cannot be made.`,
          "Name a file with --out in a directory that is there and writable for this user.",
          { cause },
        );
  }
  try {
    writeSync(file, text);
    fsyncSync(file);
  } catch (cause) {
    rmSync(path);
    throw new SetupError(`${path} cannot be written.`, "Free space on its disk.", { cause });
  } finally {
    closeSync(file);
  }
}
