import type { Config } from "../config";
import { booksVersion } from "../argo/signals/adopt";
import { asSetupError, makeReady, openReader, openWriter } from "./file";
import { grouped, type Output, seconds } from "./output";

type Step = { step: string; duration_ms: number } & Record<string, unknown>;

/** Makes the signal file ready to be served, and says what that took. Safe to repeat. */
export async function migrate({ signalsDb }: Config, output: Output): Promise<void> {
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
  output.result(
    { file: signalsDb, version, head, steps, duration_ms: durationMs },
    lines.join("\n"),
  );
}

function describe({ step, ...data }: Step): string {
  const details = Object.entries(data).filter(([name]) => name !== "duration_ms");
  return [step, ...details.map(([name, value]) => `${name} ${String(value)}`)].join(", ");
}
