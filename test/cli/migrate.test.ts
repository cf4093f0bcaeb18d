import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { tempDir } from "../harness/process.ts";
import { ask, change, copyLegacy, countRows, json, LEGACY_ROWS, run, start } from "./run.ts";

type Migrated = { version: number; head: number; steps: { step: string; duration_ms: number }[] };

/** What adoption adds to a file, by type. */
function added(file: string): { indexes: number; triggers: number; tables: number } {
  const count = (type: string, like: string) =>
    ask(file, `SELECT 1 FROM sqlite_master WHERE type = '${type}' AND name LIKE '${like}'`).length;
  return {
    indexes: count("index", "idx_signal_%"),
    triggers: count("trigger", "argo_%"),
    tables: count("table", "argo_%"),
  };
}

test("adopts the old engine's file, says what it did, and has nothing to do twice", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  const before = ask(db, "SELECT * FROM signals ORDER BY id");

  const first = await run(["--db", db, "migrate"]);
  expect(first.err).toBe("");
  expect(first.out).toContain("table adopted");
  expect(first.out).toMatch(/index built, index idx_signal_created \(\d+ ms\)/);
  expect(first.out).toContain("highest id 3,489");

  const second = await json<Migrated>(["--db", db, "migrate"]);
  expect(second).toMatchObject({ head: LEGACY_ROWS, steps: [] });
  expect(ask(db, "SELECT * FROM signals ORDER BY id")).toEqual(before);
  expect(added(db).indexes).toBe(5);
});

test("makes a file, and its directory, where there is none", async () => {
  using dir = tempDir();
  const made = await json<Migrated>(["--data-dir", dir.file("new"), "migrate"]);
  expect(made.steps.map((step) => step.step)).toContain("made the table signals");
  expect(countRows(dir.file("new/signals.db"))).toBe(0);
});

test("eight at once end with one whole adoption", async () => {
  using dir = tempDir();
  const alone = copyLegacy(dir.file("alone.db"));
  await run(["--db", alone, "migrate"]);
  const db = copyLegacy(dir.file("signals.db"));
  const runs = await Promise.all(Array.from({ length: 8 }, () => run(["--db", db, "migrate"])));
  expect(runs.map(({ code, err }) => [code, err])).toEqual(runs.map(() => [0, ""]));
  expect(added(db)).toEqual(added(alone));
  expect(countRows(db)).toBe(LEGACY_ROWS);
  const versions = "SELECT version FROM argo_migrations ORDER BY version";
  expect(ask(db, versions)).toEqual(ask(alone, versions));
});

test("killed at any moment it leaves a sound file, which the next run completes", async () => {
  using dir = tempDir();
  const begun = performance.now();
  const alone = copyLegacy(dir.file("alone.db"));
  await run(["--db", alone, "migrate"]);
  const wholeMs = performance.now() - begun;
  const whole = added(alone);
  for (let round = 0; round < 8; round += 1) {
    const db = copyLegacy(dir.file(`signals${round}.db`));
    const child = start(["--db", db, "migrate"]);
    await Bun.sleep(wholeMs * (0.4 + 0.07 * round));
    child.kill("SIGKILL");
    await child.exited;
    expect(ask(db, "PRAGMA quick_check")).toEqual([{ quick_check: "ok" }]);
    // Own tables come all together with each version of them, and so do the triggers.
    const found = added(db);
    expect([0, whole.tables - 2, whole.tables - 1, whole.tables]).toContain(found.tables);
    expect([0, whole.triggers]).toContain(found.triggers);
    const after = await json<Migrated>(["--db", db, "migrate"]);
    expect(after.head).toBe(LEGACY_ROWS);
    expect(added(db)).toEqual(whole);
  }
});

test("what is no signal file is refused with the fix, and left as it is", async () => {
  using dir = tempDir();
  const text = dir.file("text.db");
  await Bun.write(text, "no database at all, but long enough to be looked at ".repeat(50));
  const bytes = readFileSync(text);
  const refused = await run(["--db", text, "migrate"]);
  expect(refused).toMatchObject({ code: 1, out: "" });
  expect(refused.err).toMatch(/^argo-alpine: .*no SQLite file.*\n {2}.*restore.*\n$/);
  expect(readFileSync(text).equals(bytes)).toBe(true);

  const other = dir.file("other.db");
  change(other, "CREATE TABLE signals (a, b)");
  const foreign = await run(["--db", other, "migrate"]);
  expect(foreign.code).toBe(1);
  expect(foreign.err).toContain("no column symbol");
});
