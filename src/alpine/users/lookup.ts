import { AppError } from "../../errors";
import type { Found } from "../../platform/cache";
import type { Plane } from "../plane";
import { type User, userOf } from "./schema";
import { userById } from "./store";

/** How long it is remembered that there is no such user, seconds. */
export const absentSeconds = 10;

/** A user, from the cache where it may be. @throws AppError 404, 503. */
export async function lookUpUser({ alpine }: Plane, id: string): Promise<Found<User>> {
  const found = await alpine.users.get(id, async () => {
    const row = await userById(alpine.db(), id);
    return row ? userOf(row) : null;
  });
  if (found.value) return { value: found.value, hit: found.hit };
  throw new AppError("not_found", "There is no such account.");
}
