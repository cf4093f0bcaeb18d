import { readFileSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import type { z } from "@hono/zod-openapi";
import { createAdmin, type NewAdmin, promoteToAdmin } from "../alpine/admin/create";
import { Passwords } from "../alpine/auth/passwords";
import { Changes } from "../alpine/changes";
import { migrate } from "../alpine/database";
import { Email, FullName, NewPassword, type UserRow } from "../alpine/users/schema";
import type { Config } from "../config";
import { AppError, SetupError } from "../errors";
import { createLog } from "../platform/log";
import { withAccounts } from "./accounts";
import type { Output } from "./output";

export type AdminOptions = {
  email: string;
  fullName: string;
  passwordFile?: string;
  promote?: boolean;
};

const passwordBytesMax = 4_096;

/**
 * Makes an administrator, or with `promote` makes whoever has the address one, with a new password
 * where a file gives one. Running servers hear of it. @throws SetupError for input that will not do, a known address, no database.
 */
export async function adminCreate(
  config: Config,
  options: AdminOptions,
  output: Output,
): Promise<void> {
  const email = checked("--email", Email, options.email);
  const fullName = checked("--full-name", FullName, options.fullName);
  const keeps = options.promote === true && options.passwordFile === undefined;
  const passwordHash = keeps ? null : await hash(await readPassword(options));
  await withAccounts(config, async ({ db, embeddedIn }) => {
    await migrate(db);
    const log = createLog("silent");
    const changes = new Changes({ db: () => db, bus: null, now: Date.now, log });
    const ground = { changes, now: Date.now };
    const { admin, done } =
      passwordHash === null || options.promote
        ? await promote(ground, email, passwordHash)
        : await create(ground, { email, fullName, passwordHash });
    const where = embeddedIn === null ? "" : `, in ${embeddedIn}`;
    output.result(shown(admin), `${admin.email} ${done}${where}.`);
  });
}

type Ground = Parameters<typeof createAdmin>[0];
type Done = { admin: UserRow; done: string };

async function create(ground: Ground, given: NewAdmin): Promise<Done> {
  try {
    const admin = await createAdmin(ground, given, { origin: null, by: "command line" });
    return { admin, done: "is an administrator now" };
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== "conflict") throw error;
    throw new SetupError(
      `${given.email} has an account already.`,
      "Add --promote to make whoever has it an administrator; they keep their password.",
      { cause: error },
    );
  }
}

async function promote(ground: Ground, email: string, passwordHash: string | null): Promise<Done> {
  const found = await promoteToAdmin(ground, email, passwordHash).catch((error: unknown) => {
    const fix = error instanceof AppError ? fixes[error.code] : undefined;
    if (!(error instanceof AppError) || fix === undefined) throw error;
    throw new SetupError(error.detail, fix, { cause: error });
  });
  if (!found) {
    throw new SetupError(
      `Nobody has an account with ${email}.`,
      "Leave out --promote to make one.",
    );
  }
  const is = found.changed ? "is an administrator now" : "was one already";
  const password = passwordHash === null ? "the password as it was" : "the new password";
  return { admin: found.admin, done: `${is}, with ${password}` };
}

/** What to do about somebody who cannot be promoted. */
const fixes: Partial<Record<AppError["code"], string>> = {
  conflict:
    'Let them in first, as an administrator: PATCH /api/admin/users/{id} with {"is_active":true}.',
  unprocessable:
    "Somebody else may have made the account: let its owner verify the address, or add --password-file (/dev/stdin for standard input) with a new password, which ends its sessions, keys and second factor.",
};

const shown = ({ id, email, fullName, role }: UserRow) => ({
  id,
  email,
  full_name: fullName,
  role,
});

function checked(name: string, schema: z.ZodType<string>, text: string): string {
  const parsed = schema.safeParse(text);
  if (parsed.success) return parsed.data;
  throw new SetupError(
    `${name} ${JSON.stringify(text.slice(0, 300))}: ${parsed.error.issues[0]?.message}.`,
    `Correct ${name}.`,
  );
}

async function hash(password: string): Promise<string> {
  await using passwords = new Passwords(() => undefined);
  return passwords.hash(password);
}

/** From the file, from a terminal that does not show it, or from a pipe: never an argument. */
async function readPassword({ passwordFile }: AdminOptions): Promise<string> {
  const text =
    passwordFile !== undefined
      ? decoded(readFile(passwordFile))
      : process.stdin.isTTY
        ? await ask()
        : decoded(await readInput());
  const password = text.replace(/\r?\n$/, "");
  if (password === "") {
    throw new SetupError(
      "There is no password.",
      "Write one to standard input, or name a file with --password-file.",
    );
  }
  const parsed = NewPassword.safeParse(password);
  if (parsed.success) return parsed.data;
  throw new SetupError(
    `The password will not do: ${parsed.error.issues[0]?.message}.`,
    "Choose one of 8 to 256 characters; a few words that nobody else would choose are best.",
  );
}

function readFile(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new SetupError(`${path} cannot be read.`, "Name a file that this user can read.", {
      cause,
    });
  }
}

async function readInput(): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of Bun.stdin.stream()) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > passwordBytesMax) break;
  }
  return Buffer.concat(chunks);
}

function decoded(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new SetupError("The password is not valid UTF-8.", "Write it in UTF-8.", { cause });
  }
}

/** Twice, since nobody sees what they type. */
async function ask(): Promise<string> {
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: silent, terminal: true });
  const left = Promise.withResolvers<never>();
  left.promise.catch(() => undefined);
  const nothing = new SetupError("No password was given.", "Start again when you have one.");
  terminal.on("SIGINT", () => left.reject(nothing)).on("close", () => left.reject(nothing));
  const once = async (prompt: string): Promise<string> => {
    process.stderr.write(prompt);
    try {
      return await Promise.race([terminal.question(""), left.promise]);
    } finally {
      process.stderr.write("\n");
    }
  };
  try {
    const password = await once("Password: ");
    if ((await once("Once more: ")) === password) return password;
    throw new SetupError("The two are not the same.", "Start again.");
  } finally {
    terminal.close();
  }
}
