import { AppError } from "../../errors";
import type { Found } from "../../platform/cache";
import type { Alpine } from "../alpine";
import type { Plane } from "../plane";
import { type User, userOf } from "./schema";
import { userById } from "./store";

/** How long it is remembered that there is no such user, seconds. */
export const absentSeconds = 10;

/**
 * A user, from the cache where it may be: at once where it is held in process.
 * @throws AppError 404, 503.
 */
export function lookUpUser({ alpine }: Plane, id: string): Found<User> | Promise<Found<User>> {
  const value = alpine.users.peek(id);
  return value ? { value, hit: true } : readUser(alpine, id);
}

async function readUser(alpine: Alpine, id: string): Promise<Found<User>> {
  const { value, hit } = await alpine.users.get(id, async () => {
    const row = await userById(alpine.db(), id);
    return row ? userOf(row) : null;
  });
  if (value) return { value, hit };
  throw new AppError("not_found", "There is no such account.");
}
