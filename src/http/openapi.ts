import { z } from "@hono/zod-openapi";
import { AppError, type ErrorCode } from "../errors";
import type { Right } from "./rights";

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

const bearer = (description: string, bearerFormat?: string) =>
  ({ type: "http", scheme: "bearer", ...(bearerFormat && { bearerFormat }), description }) as const;

/** What a Bearer token may be. Without accounts there is the operator's alone. */
export const securitySchemes = {
  session: bearer("The access token of a session, from POST /api/auth/login: 15 minutes.", "JWT"),
  key: bearer("An API key of an account, from POST /api/keys.", "argo_live_…"),
  operator: bearer("A static token of the operator: ARGO_READ_TOKEN or ARGO_WRITE_TOKEN."),
};

/** Who holds a right, by what they send; what stands in the list is their role or scope. */
const holders: Record<Right, Partial<Record<keyof typeof securitySchemes, string[]>>> = {
  "signals:read": { session: [], key: ["signals:read"], operator: ["ARGO_READ_TOKEN"] },
  "signals:write": { key: ["signals:write"], operator: ["ARGO_WRITE_TOKEN"] },
  plan: { session: [], key: ["signals:read"], operator: ["ARGO_SERVICE_TOKEN"] },
  account: { session: [] },
  "admin:read": { session: ["admin"], key: ["admin:read"] },
  "admin:write": { session: ["admin"] },
};

/** The security of a route that asks for this right. */
export function securityOf(
  right: Right,
  { open, accounts }: { open: boolean; accounts: boolean },
): Record<string, string[]>[] {
  const ways = Object.entries(holders[right]).filter(([name]) => accounts || name === "operator");
  const guests = right === "signals:read" && open ? [{}] : [];
  return [...guests, ...ways.map(([name, needed]) => ({ [name]: needed }))];
}
