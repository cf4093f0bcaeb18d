import { existsSync } from "node:fs";
import { expect, test } from "bun:test";
import { tempDir } from "../harness/process.ts";
import { ask, change, copyLegacy, countRows, json, LEGACY_ROWS, run } from "./run.ts";

const content =
  "SELECT symbol, action, entry_price, stop_price, target_price, confidence, strategy FROM signals ORDER BY id";

test("writes the same rows for the same seed, ascending and ending now", async () => {
  using dir = tempDir();
  const [a, b, c] = [dir.file("a.db"), dir.file("b.db"), dir.file("c.db")];
  const rows = ["--rows", "2500"];
  const begun = Date.now();
  const done = await json(["--db", a, "seed", ...rows, "--seed", "7", "--symbols", "5"]);
  expect(done).toMatchObject({ written: 2500, strategy: "demo", seed: 7, symbols: 5 });
  await run(["--db", b, "seed", ...rows, "--seed", "7", "--symbols", "5"]);
  await run(["--db", c, "seed", ...rows, "--seed", "8", "--symbols", "5"]);
  expect(ask(b, content)).toEqual(ask(a, content));
  expect(ask(c, content)).not.toEqual(ask(a, content));

  type Row = { timestamp: string; symbol: string; strategy: string; confidence: number };
  const written = ask<Row>(a, "SELECT * FROM signals ORDER BY id");
  const times = written.map((row) => row.timestamp);
  expect(times).toEqual(times.toSorted());
  expect(new Set(times).size).toBe(2500);
  expect(Math.abs(Date.parse(times.at(-1) ?? "") - begun)).toBeLessThan(120_000);
  expect(new Set(written.map((row) => row.symbol)).size).toBe(5);
  expect(new Set(written.map((row) => row.strategy))).toEqual(new Set(["demo"]));
  const premium = written.filter((row) => row.confidence >= 95).length / 2500;
  expect(premium).toBeGreaterThan(0.06);
  expect(premium).toBeLessThan(0.1);
  const wrong = `SELECT 1 FROM signals WHERE (action = 'BUY' AND NOT stop_price < entry_price)
    OR (action = 'SELL' AND NOT target_price < entry_price) OR entry_price <= 0 OR confidence > 100`;
  expect(ask(a, wrong)).toEqual([]);
});

test("adds to what is there, and refuses where its rows would pass for real ones", async () => {
  using dir = tempDir();
  const db = copyLegacy(dir.file("signals.db"));
  expect((await run(["--db", db, "seed", "--rows", "10"])).out).toContain("10 synthetic rows");
  expect(countRows(db)).toBe(LEGACY_ROWS + 10);

  const plain = dir.file("plain.db");
  change(plain, "CREATE TABLE signals (symbol, action, entry_price, confidence, timestamp)");
  const refused = await run(["--db", plain, "seed", "--rows", "1"]);
  expect(refused.code).toBe(1);
  expect(refused.err).toContain("would pass for real ones");

  // A node's file, also before it is there, takes nothing but copies.
  const node = dir.file("node.db");
  const env = { LIBSQL_URL: "http://127.0.0.1:1" };
  const kept = await run(["--db", node, "seed", "--rows", "1"], { env });
  expect(kept.code).toBe(1);
  expect(kept.err).toContain("leave LIBSQL_URL out");
  expect(existsSync(node)).toBe(false);

  for (const rows of ["0", "-1", "1e3", "abc"]) {
    const wrong = await run(["--db", db, "seed", `--rows=${rows}`]);
    expect([wrong.code, wrong.out]).toEqual([1, ""]);
    expect(wrong.err).toContain("not a whole number from 1");
  }
  expect((await run(["--db", db, "seed"])).code).toBe(1);
});
