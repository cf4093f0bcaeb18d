import type { z } from "@hono/zod-openapi";
import { AppError } from "../../errors";
import type { Origin } from "../audit";
import { limitTo } from "../auth/limits";
import { issueToken, mustCount, useToken } from "../auth/one-time";
import { lockAdmins } from "../database";
import type { Plane } from "../plane";
import { type User, userOf } from "../users/schema";
import { createAdmin } from "./create";
import type { SetUp } from "./schema";
import { hasAdmin } from "./store";

/**
 * While there is no administrator: a token that makes the first one, good once and for 30 minutes.
 * Those before it are void, whichever server gave them. Null when there is one.
 */
export async function offerSetup({ alpine, now }: Pick<Plane, "alpine" | "now">) {
  return alpine.changes.write(async (tx) => {
    await lockAdmins(tx);
    return (await hasAdmin(tx)) ? null : issueToken(tx, "setup_admin", null, now());
  });
}

/**
 * Makes the first administrator for whoever has the token; of many at once one.
 * @throws AppError 409 once there is an administrator, or for a known address; 422, 429, 503.
 */
export async function setUp(
  plane: Plane,
  { token, email, password, full_name: fullName }: z.infer<typeof SetUp>,
  origin: Origin,
): Promise<User> {
  const { alpine, now } = plane;
  await limitTo(plane, "tokenAddress", origin.address, origin);
  const mustBeFirst = async (): Promise<void> => {
    if (await hasAdmin(alpine.db())) throw madeAlready();
  };
  await mustBeFirst();
  await mustCount(alpine.db(), "setup_admin", token, now()).catch(async (error: unknown) => {
    // Whoever was quicker has used it between the two looks.
    await mustBeFirst();
    throw error;
  });
  const passwordHash = await alpine.passwords.hash(password);
  const admin = await createAdmin(
    { changes: alpine.changes, now },
    { email, fullName, passwordHash },
    {
      origin,
      by: "setup link",
      first: async (tx, nowMs) => {
        if (await hasAdmin(tx)) throw madeAlready();
        await useToken(tx, "setup_admin", token, nowMs);
      },
    },
  );
  return userOf(admin);
}

const madeAlready = (): AppError =>
  new AppError("conflict", "There is an administrator already: more are made by them.");
