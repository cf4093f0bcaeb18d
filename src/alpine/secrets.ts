import { hkdfSync, randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { Config } from "../config";
import { SetupError } from "../errors";
import { makeDirectory } from "../platform/directory";

const fileName = "jwt.secret";

/** Where the secret is kept that nobody has configured. */
export const secretPath = ({ dataDir }: Pick<Config, "dataDir">): string => join(dataDir, fileName);

/** What the secrets of the operator are used for: each use has a key of its own. */
export type Use = "access token" | "refresh token" | "second factor" | "webhook" | "cursor";

/**
 * The secrets, the first of which is used and all of which are accepted: said in the
 * configuration, else made once and kept under the data directory, readable by this user alone.
 * @throws SetupError when the file cannot be made or read.
 */
export function jwtSecrets(config: Pick<Config, "dataDir" | "jwtSecrets">): readonly string[] {
  if (config.jwtSecrets.length > 0) return config.jwtSecrets;
  const path = secretPath(config);
  try {
    makeDirectory(config.dataDir);
    if (!existsSync(path)) makeSecret(path);
    const secret = readFileSync(path, "utf8").trim();
    if (secret.length >= 32) return [secret];
  } catch (cause) {
    throw new SetupError(
      `The secret of the accounts cannot be kept: ${path}`,
      "Make the data directory writable for this user, or set JWT_SECRET.",
      { cause },
    );
  }
  throw new SetupError(
    `The secret of the accounts is cut short: ${path}`,
    "Put the file back from a backup, or delete it: then everybody logs in anew.",
  );
}

/** 256 bits for one use, derived from a secret (HKDF, RFC 5869). */
export function deriveKey(secret: string, use: Use): Buffer {
  return Buffer.from(hkdfSync("sha256", secret, "argo-alpine", use, 32));
}

/** Appears whole or not at all; of two processes the first one wins. */
function makeSecret(path: string): void {
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  const file = openSync(draft, "wx", 0o600);
  try {
    writeSync(file, `${randomBytes(32).toString("hex")}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  try {
    linkSync(draft, path);
  } catch (error) {
    if (!existsSync(path)) throw error;
  } finally {
    unlinkSync(draft);
  }
}
