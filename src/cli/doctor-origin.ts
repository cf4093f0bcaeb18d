import { existsSync } from "node:fs";
import { Origin } from "../argo/origin/origin";
import { mustStand, type Place, standing } from "../argo/origin/rows";
import type { Config } from "../config";
import { AppError, SetupError } from "../errors";
import { type Check, fail, ok, warn } from "./check";
import { tryReader } from "./file";
import { grouped } from "./output";

const name = "libSQL server";
const askMs = 3_000;
const reachFix =
  "See that it runs, that LIBSQL_URL leads there, and that LIBSQL_AUTH_TOKEN is good.";
const noPlace: Place = { origin: "", id: 0, rowSha256: "", whole: false };

/** A plan's delay counts from the server's clock and ends by this one. */
const clockMs = 1_000;
const clockSql = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS now";

/** How the signal file stands to the libSQL server that it is to be a copy of. */
export async function originCheck(
  { libsql, signalsDb }: Config,
  now: () => number = Date.now,
): Promise<Check | null> {
  const place = existsSync(signalsDb) ? placeOf(signalsDb) : null;
  if (!libsql) {
    if (place === null) return null;
    const copy = `${signalsDb} is a copy of the signals at one, and LIBSQL_URL is not set`;
    return fail(name, copy, "Set LIBSQL_URL.");
  }
  using origin = new Origin(libsql, askMs);
  try {
    const askedMs = now();
    const results = await origin.read([...standing(place ?? noPlace), clockSql]);
    const answeredMs = now();
    const serverMs = Date.parse(String(results.at(-1)?.rows[0]?.["now"]));
    const apartMs = Math.max(askedMs - serverMs, serverMs - answeredMs);
    // Whether it is the right server comes first.
    const headId = place && mustStand(place, results).headId;
    if (apartMs > clockMs) {
      return warn(
        name,
        `${libsql.url}: its clock and this machine's are ${Math.round(apartMs / 1_000)} s apart`,
        "Have both set by NTP: plans see signals too early or too late, and beyond five minutes streams pass over some.",
      );
    }
    if (place === null || headId === null) {
      return ok(name, `${libsql.url} answers; the file is still to be filled`);
    }
    const behind = Math.max(0, headId - place.id);
    if (behind === 0) return ok(name, `${libsql.url} answers, and nothing is missing here`);
    return warn(
      name,
      `${libsql.url} has ${grouped(behind)} ids more`,
      "A node that runs copies them.",
    );
  } catch (error) {
    if (error instanceof SetupError) {
      if (place !== null) return fail(name, error.message, error.fix);
      return ok(name, `${libsql.url} answers and is empty; the first node makes its tables`);
    }
    const reason = error instanceof AppError ? error.detail : String(error);
    return fail(name, `${libsql.url}: ${reason}`, reachFix);
  }
}

function placeOf(path: string): Place | null {
  try {
    using reader = tryReader(path);
    return reader.copyOf();
  } catch {
    // What is wrong with the file is told by its own checks.
    return null;
  }
}
