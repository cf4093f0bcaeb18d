import { z } from "@hono/zod-openapi";
import { AppError, type ErrorCode } from "../errors";

/** RFC 9457, with our code and the fields at fault. */
export const Problem = z
  .object({
    type: z.string().openapi({ example: "urn:argo-alpine:problem:bad_request" }),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    instance: z.string(),
    code: z.string(),
    errors: z
      .array(z.object({ field: z.string(), detail: z.string(), index: z.int().optional() }))
      .optional(),
  })
  .openapi("Problem");

const codes: ErrorCode[] = [
  "bad_request",
  "unauthorized",
  "forbidden",
  "not_found",
  "conflict",
  "payload_too_large",
  "unsupported_media_type",
  "unprocessable",
  "rate_limited",
  "unavailable",
];
const titles = new Map(codes.map((code) => new AppError(code, "")).map((e) => [e.status, e.title]));

type Answer = {
  description: string;
  content: { "application/problem+json": { schema: typeof Problem } };
};

/** Responses of a route for these statuses. */
export function problems<S extends number>(...statuses: S[]): Record<S, Answer> {
  return Object.fromEntries(
    statuses.map((status) => [
      status,
      {
        description: titles.get(status as never) ?? "Error",
        content: { "application/problem+json": { schema: Problem } },
      },
    ]),
  ) as Record<S, Answer>;
}

/** What every limited reading route may answer besides its own. */
export const limitedProblems = problems(400, 401, 403, 429, 503);

/** A response of a route that is JSON of this shape. */
export const json = <T extends z.ZodType>(schema: T, description: string) => ({
  description,
  content: { "application/json": { schema } },
});

/** A body that a route takes. */
export const jsonBody = <T extends z.ZodType>(schema: T) => ({
  required: true,
  content: { "application/json": { schema } },
});
