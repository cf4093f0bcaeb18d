/** Migrations: as written as generated, run at once by many, killed at any moment (R17). */
import { describe, expect, test } from "bun:test";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { migrations } from "../../db/alpine/migrations.ts";
import { type Database, migrate, type Queries } from "../../src/alpine/database.ts";
import { type Child, spawnChild } from "../harness/children.ts";
import { JWT_SECRET, serveAccounts } from "../harness/accounts.ts";
import { startServer, tempDir, until } from "../harness/process.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import { ownPostgres, postgres, type TestDatabase } from "../harness/servers.ts";
import { openDatabase } from "./migrating.ts";

const ROOT = join(import.meta.dir, "../..");
const FILES = join(ROOT, "db/alpine/migrations");
const SCHEMA = join(ROOT, "db/alpine/schema.ts");
const MIGRATING = join(import.meta.dir, "migrating.ts");
const MAIN = join(ROOT, "src/main.ts");
const ROUNDS = Number(process.env["MIGRATION_ROUNDS"] ?? 10);

const random = randomNumbers(SEED + 17);

/** Everything that a schema consists of, in a database. */
async function shapeOf(db: Queries): Promise<string[]> {
  const { rows } = await db.execute<{ line: string }>(sql`
    SELECT line FROM (
      SELECT format('column %s.%s %s default %s null %s', table_name, column_name,
        coalesce(udt_name, data_type) || coalesce(datetime_precision::text, ''),
        coalesce(column_default, '-'), is_nullable) AS line
      FROM information_schema.columns WHERE table_schema = 'public'
      UNION ALL
      SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
      UNION ALL
      SELECT format('constraint %s %s', conrelid::regclass, pg_get_constraintdef(oid))
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    ) AS everything ORDER BY line`);
  return rows.map(({ line }) => line);
}

async function kit(args: string[], cwd: string): Promise<string> {
  const program = join(ROOT, "node_modules/drizzle-kit/bin.cjs");
  await using child = spawnChild([process.execPath, program, ...args], { cwd });
  child.endInput();
  expect([await child.done, child.lines()]).toEqual([0, child.lines()]);
  return child.lines().join("\n");
}

describe("what is written down", () => {
  test("the list is exactly the files, in the order of the journal, word by word", () => {
    const journal = JSON.parse(readFileSync(join(FILES, "meta/_journal.json"), "utf8")) as {
      entries: { tag: string }[];
    };
    const names = migrations.map(({ name }) => name);
    expect(names).toEqual(journal.entries.map(({ tag }) => tag));
    const files = readdirSync(FILES).filter((name) => name.endsWith(".sql"));
    expect(names.map((name) => `${name}.sql`).toSorted()).toEqual(files.toSorted());
    for (const { name, sql: text } of migrations) {
      expect(text).toBe(readFileSync(join(FILES, `${name}.sql`), "utf8"));
    }
  });

  test("the schema says nothing that no migration does; the generator would tell", async () => {
    using dir = tempDir();
    cpSync(FILES, dir.file("out"), { recursive: true });
    const generate = (schema: string) =>
      kit(["generate", "--dialect", "postgresql", "--schema", schema, "--out", "out"], dir.path);
    const files = () => readdirSync(dir.file("out")).filter((name) => name.endsWith(".sql")).length;
    expect(await generate(SCHEMA)).toContain("No schema changes");
    expect(files()).toBe(migrations.length);
    expect(await kit(["check", "--dialect", "postgresql", "--out", "out"], dir.path)).toContain(
      "Everything's fine",
    );
    const imports = readFileSync(SCHEMA, "utf8").replaceAll(
      /from "(drizzle-orm[^"]*)"/g,
      (_all, name: string) => `from ${JSON.stringify(Bun.resolveSync(name, ROOT))}`,
    );
    writeFileSync(
      dir.file("changed.ts"),
      imports.replace('email: text("email")', 'more: text("more"), email: text("email")'),
    );
    await generate(dir.file("changed.ts"));
    expect(files()).toBe(migrations.length + 1);
  });

  test("migrations make what the schema says", async () => {
    using dir = tempDir();
    const server = await postgres();
    await using said = await server.createDatabase();
    await using made = await server.createDatabase();
    await using asSaid = openDatabase(said.url);
    await using asMade = openDatabase(made.url);
    await migrate(asMade.db);
    const statements = await kit(
      ["export", "--dialect", "postgresql", "--schema", SCHEMA],
      dir.path,
    );
    await asSaid.db.execute(sql.raw(statements));
    const shape = await shapeOf(asMade.db);
    expect(shape.length).toBeGreaterThan(90);
    expect(shape).toEqual(await shapeOf(asSaid.db));
  });
});

/** Does the first so many migrations, as earlier releases did. */
async function migrateTo(db: Database, count: number): Promise<void> {
  await db.execute(sql`CREATE SCHEMA argo_alpine`);
  await db.execute(
    sql`CREATE TABLE argo_alpine.migrations
        (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`,
  );
  for (const { name, sql: text } of migrations.slice(0, count)) {
    await db.execute(sql.raw(text));
    await db.execute(sql`INSERT INTO argo_alpine.migrations (name) VALUES (${name})`);
  }
}

const shapes = new Map<number, string[]>();
/** What the first so many migrations make. */
async function shapeAfter(count: number): Promise<string[]> {
  const known = shapes.get(count);
  if (known) return known;
  await using database = await (await postgres()).createDatabase();
  await using own = openDatabase(database.url);
  await migrateTo(own.db, count);
  const shape = await shapeOf(own.db);
  shapes.set(count, shape);
  return shape;
}

/** How many migrations a database has had. Fails unless it is what those make, and no more. */
async function countOf(url: string): Promise<number> {
  await using own = openDatabase(url);
  const shape = await shapeOf(own.db);
  const { rows } = await own.db.execute<{ there: boolean }>(
    sql`SELECT to_regnamespace('argo_alpine') IS NOT NULL AS there`,
  );
  if (rows[0]?.there === false) {
    expect(shape).toEqual([]);
    return 0;
  }
  const { rows: names } = await own.db.execute<{ name: string }>(
    sql`SELECT name FROM argo_alpine.migrations ORDER BY name`,
  );
  expect(names.map(({ name }) => name)).toEqual(
    migrations.slice(0, names.length).map(({ name }) => name),
  );
  expect(shape).toEqual(await shapeAfter(names.length));
  return names.length;
}
const all = migrations.length;

describe("at once, and killed", () => {
  test("eight at once: one does it, the others find it done", async () => {
    await using database = await (await postgres()).createDatabase();
    const done = await Promise.all(
      Array.from({ length: 8 }, async () => {
        await using own = openDatabase(database.url);
        return migrate(own.db);
      }),
    );
    expect(done.flat()).toEqual(migrations.map(({ name }) => name));
    expect(await countOf(database.url)).toBe(all);
  });

  /** Waits until one of them is at it, or has done it in the meantime. */
  async function begun({ superuserUrl, name }: TestDatabase, ...by: Child[]): Promise<void> {
    await using watcher = openDatabase(superuserUrl);
    await until(async () => {
      const { rows } = await watcher.db.execute(
        sql`SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = ${name} AND l.locktype = 'advisory' AND l.granted`,
      );
      return rows.length > 0 || by.some((child) => !child.running());
    }, "a migration");
  }
  /** Waits until the server has noticed that nobody is there any more. */
  async function left({ superuserUrl, name }: TestDatabase): Promise<void> {
    await using watcher = openDatabase(superuserUrl);
    await until(async () => {
      const { rows } = await watcher.db.execute(
        sql`SELECT 1 FROM pg_stat_activity WHERE datname = ${name} AND pid <> pg_backend_pid()`,
      );
      return rows.length === 0;
    }, "the end of all connections");
  }
  /** Takes the name of the first thing that a migration makes, until it is released. */
  async function hold(url: string) {
    const own = openDatabase(url);
    const taken = Promise.withResolvers<void>();
    const over = Promise.withResolvers<void>();
    const fault = new Error("nothing of it is to stay");
    const holding = own.transaction(async (tx) => {
      await tx.execute(sql`CREATE SCHEMA argo_alpine`);
      taken.resolve();
      await over.promise;
      throw fault;
    });
    holding.catch(taken.reject);
    await taken.promise;
    return async () => {
      over.resolve();
      expect(await holding.catch((error: unknown) => error)).toBe(fault);
      await own[Symbol.asyncDispose]();
    };
  }
  const migrating = (url: string): Child => spawnChild([process.execPath, MIGRATING, url]);

  test(
    `${ROUNDS} times two of which one or both are killed: the old schema or the new one`,
    async () => {
      tellSeed();
      const ended = { old: 0, new: 0, finished: 0 };
      for (let round = 0; round < ROUNDS; round += 1) {
        await using database = await (await postgres()).createDatabase();
        // From nothing, or from what the release before has made.
        const start = round % 2 === 0 ? 0 : all - 1;
        if (start > 0) {
          await using before = openDatabase(database.url);
          await migrateTo(before.db, start);
        }
        // Every fourth round it cannot get on before both are killed, so that neither outcome is left
        // to chance: that leaves the old schema, and a survivor makes the new one.
        const both = round % 4 < 2;
        const release = round % 4 === 0 ? await hold(database.url) : null;
        await using one = migrating(database.url);
        await using other = migrating(database.url);
        await begun(database, one, other);
        if (release === null) await Bun.sleep(random() * 80);
        const [victim, survivor] = random() < 0.5 ? [one, other] : [other, one];
        victim.kill();
        if (both) survivor.kill();
        await release?.();
        const code = await survivor.done;
        await victim.done;
        await left(database);
        const count = await countOf(database.url);
        expect([start, all]).toContain(count);
        ended[count === all ? "new" : "old"] += 1;
        if (!both) {
          expect([code, count]).toEqual([0, all]);
          ended.finished += 1;
        }
        await using again = migrating(database.url);
        expect([round, await again.done]).toEqual([round, 0]);
        expect(await countOf(database.url)).toBe(all);
      }
      console.log(`${ROUNDS} rounds: ${JSON.stringify(ended)}`);
      expect(ended.old).toBeGreaterThan(0);
      expect(ended.new).toBeGreaterThan(0);
    },
    ROUNDS * 12_000,
  );

  test("the database itself is killed: the old schema or the new one, and then the new one", async () => {
    await using server = await ownPostgres();
    await using database = await server.createDatabase();
    await using one = migrating(database.url);
    await begun(database, one);
    await Bun.sleep(random() * 30);
    await server.kill();
    await one.done;
    await server.start();
    expect([0, all]).toContain(await countOf(database.url));
    await using again = migrating(database.url);
    expect(await again.done).toBe(0);
    expect(await countOf(database.url)).toBe(all);
  });

  test("an embedded one, killed in its first start, comes up at the next", async () => {
    tellSeed();
    for (let round = 0; round < 2; round += 1) {
      using dir = tempDir();
      const env = { DATA_DIR: dir.file("data"), LOG_LEVEL: "info" };
      await using first = await startServer({ role: "all", cwd: dir.path, env });
      await Bun.sleep(random() * 1_500);
      first.kill();
      await first.exited;
      await using second = await startServer({ role: "all", cwd: dir.path, env });
      const ready = async () => (await fetch(`${second.url}/readyz`)).ok;
      await until(ready, "accounts after a kill");
      const signup = await fetch(`${second.url}/api/auth/signup`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ email: "a@example.com", password: "a password", full_name: "A" }),
      });
      expect([round, signup.status]).toEqual([round, 201]);
      expect(await second.stop()).toBe(0);
    }
  });
});

describe("a database that a later release has changed", () => {
  const later = "9999_from_the_future";

  test("is named and left as it is; signals are served all the same", async () => {
    using dir = tempDir();
    await using database = await (await postgres()).createDatabase();
    await using own = openDatabase(database.url);
    await migrate(own.db);
    await own.db.execute(sql`INSERT INTO argo_alpine.migrations (name) VALUES (${later})`);
    await own.db.execute(sql`ALTER TABLE users ADD COLUMN something_new text`);
    const shape = await shapeOf(own.db);
    const env = { DATABASE_URL: database.url, JWT_SECRET, DATA_DIR: dir.file("data"), PORT: "0" };
    const isNamed = (lines: string[]) => {
      const said = lines.join("\n");
      return (
        said.includes(`The database was changed by a later release: ${later}`) &&
        said.includes("Run that release, or restore the backup")
      );
    };
    await using command = spawnChild([process.execPath, MAIN, "migrate"], { cwd: dir.path, env });
    expect(await command.done).toBe(1);
    expect(isNamed(command.lines())).toBe(true);

    await using server = await startServer({ role: "all", cwd: dir.path, env });
    await until(() => isNamed(server.logs()), "it is named");
    const get = async (path: string) => (await fetch(server.url + path)).status;
    expect(await get("/api/signals/latest")).toBe(200);
    expect(await get("/readyz")).toBe(503);
    expect(await shapeOf(own.db)).toEqual(shape);
    // Once somebody has mended it, accounts start by themselves.
    await own.db.execute(sql`DELETE FROM argo_alpine.migrations WHERE name = ${later}`);
    await until(async () => (await get("/readyz")) === 200, "accounts have started");
  });

  test("while a server of this release runs, it goes on", async () => {
    await using at = await serveAccounts("source", "postgres");
    await at.db().execute(sql`INSERT INTO argo_alpine.migrations (name) VALUES (${later})`);
    expect((await at.member()).email).not.toBe("");
  });
});
