import type { Config } from "../config";
import { booksVersion } from "../argo/signals/adopt";
import { asSetupError, makeReady, openReader, openWriter } from "./file";
import { grouped, type Output, seconds } from "./output";

type Step = { step: string; duration_ms: number } & Record<string, unknown>;

/** Brings the signal file and the accounts up to date, and says what that took. Safe to repeat. */
export async function migrate(config: Config, output: Output): Promise<void> {
  if (config.role === "alpine") {
    const accounts = await migrateAccounts(config);
    return output.result({ migrations: accounts?.migrations }, `accounts: ${accounts?.said}`);
  }
  const { signalsDb } = config;
  const begun = performance.now();
  const steps: Step[] = [];
  const db = openWriter(signalsDb);
  let version: number;
  try {
    let at = begun;
    await makeReady(db, signalsDb, (step, data) => {
      const now = performance.now();
      steps.push({ step, ...data, duration_ms: Math.round(now - at) });
      at = now;
    });
    version = booksVersion(db);
  } catch (error) {
    throw asSetupError(error, signalsDb);
  } finally {
    db.close();
  }
  using reader = openReader(signalsDb);
  const head = reader.head.maxId;
  const durationMs = Math.round(performance.now() - begun);
  const lines = steps.map((step) => `  ${describe(step)} (${seconds(step.duration_ms)})`);
  const done = steps.length === 0 ? "nothing to do" : `done in ${seconds(durationMs)}`;
  lines.push(`${signalsDb}: ${done}, version ${version}, highest id ${grouped(head)}`);
  const accounts = await migrateAccounts(config);
  if (accounts) lines.push(`accounts: ${accounts.said}`);
  const migrations = accounts?.migrations ?? null;
  output.result(
    { file: signalsDb, version, head, steps, duration_ms: durationMs, migrations },
    lines.join("\n"),
  );
}

/** Null where there are none; `migrations` is null for those that only a start brings up to date. */
async function migrateAccounts(
  config: Config,
): Promise<{ migrations: string[] | null; said: string } | null> {
  if (config.role === "argo") return null;
  if (config.databaseUrl === null) {
    return { migrations: null, said: "the next start brings the embedded database up to date" };
  }
  const [{ withAccounts }, database] = await Promise.all([
    import("./accounts"),
    import("../alpine/database"),
  ]);
  const migrations = await withAccounts(config, ({ db }) => database.migrate(db));
  return { migrations, said: migrations.length === 0 ? "nothing to do" : migrations.join(", ") };
}

function describe({ step, ...data }: Step): string {
  const details = Object.entries(data).filter(([name]) => name !== "duration_ms");
  return [step, ...details.map(([name, value]) => `${name} ${String(value)}`)].join(", ");
}
