/** Fields of queries, which are text: read strictly, where coercion would take anything. */
import { z } from "@hono/zod-openapi";

/** A boolean as queries write it. */
export const word = z
  .string()
  .regex(/^(true|false|1|0|yes|no|on|off)$/i, "must be true or false")
  .transform((text) => /^(true|1|yes|on)$/i.test(text))
  .openapi({ type: "boolean" });

export const whole = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,16}$/, "must be a whole number")
    .transform(Number)
    .pipe(z.int().min(min, `must be ${min} to ${max}`).max(max, `must be ${min} to ${max}`))
    .openapi({ type: "integer", minimum: min, maximum: max });

/** A named shape or null: `nullable()` is described as a shape that is never null, or changes the name's. */
export const orNull = <T extends z.ZodType>(shape: T) => z.union([shape, z.null()]);

/** For routes that take no query: an unknown parameter is a mistake of the client. */
export const NoQuery = z.strictObject({});

/** An id that the server made, as the server writes it: it is looked up in memory as well. */
export const uuid = z.uuid("must be a UUID").toLowerCase();

export const UuidParam = z.object({ id: uuid });
