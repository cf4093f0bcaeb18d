/** Brings a database up to date, in a process that may be killed: `bun migrating.ts URL`. */
import * as schema from "../../db/alpine/schema.ts";
import { migrate } from "../../src/alpine/database.ts";
import { createLog } from "../../src/platform/log.ts";
import { Postgres } from "../../src/platform/postgres.ts";

/** The database through a pool of one connection. */
export function openDatabase(url: string): Postgres<typeof schema> {
  const log = createLog("silent");
  return Postgres.open(
    { at: { url }, poolSize: 1, maxOverflow: 0, recycleSeconds: 0, log },
    schema,
  );
}

if (import.meta.main) {
  await using postgres = openDatabase(process.argv[2] ?? "");
  console.log(JSON.stringify(await migrate(postgres.db)));
}
