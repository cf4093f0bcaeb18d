import { OpenAPIHono, createRoute, z } from "@hono/zod-openapi";
import { AppError } from "../errors";
import type { Fetch } from "./edge";
import type { AppEnv, Exchange } from "./exchange";
import { NoQuery } from "./fields";
import { strictJson } from "./json";
import { json, jsonBody, problems } from "./openapi";
import { batchPath, pathOf } from "./path";
import { problem } from "./respond";
import { streamOf } from "./stream";
import { fieldErrors, namesOf, refuse, strictQuery } from "./validate";

const requestsMax = 20;
/** Of all bodies together. */
const bytesMax = 8 * 1024 * 1024;
/** A longer answer is made while it is sent. */
const wholeBytesMax = 256 * 1024;
/** Of all batches of the process; while they hold more, each asks for the next part when the last was taken. */
const heldBytesMax = 16 * 1024 * 1024;
/** What a part counts for until it is there. */
const awaitedBytes = 256 * 1024;
/** Requests inside a batch are nobody's that a name could lead to: who asks stands in the headers. */
const base = "http://batch";
/** What has no end, or is no read, or may be far larger than a batch. */
const apart = /\/(stream|ws|export|batch)\/*$|^\/api\/hooks(\/|$)/i;
/** A path in which there is nothing to resolve. */
const plain = /^([\w/-]+)(?:\?|$)/;
const shown = [
  "Content-Type",
  "ETag",
  "Signal-Head",
  "RateLimit",
  "RateLimit-Policy",
  "Retry-After",
];
/** Bytes of parts that are awaited or were not taken yet. */
let heldBytes = 0;
/** When the batch that came last has begun. */
let begun = Promise.resolve();

/** One batch begins in each turn of the event loop: many at once would keep polls waiting for all of them. */
function turn(): Promise<void> {
  const before = begun;
  begun = before.then(() => new Promise((resolve) => void setImmediate(resolve)));
  return before;
}

/** Headers of the batch that say nothing of the requests in it. */
const own = [
  "accept-encoding",
  "content-encoding",
  "content-length",
  "content-type",
  "expect",
  "if-none-match",
  "origin",
  "transfer-encoding",
];

/** Why an address cannot be in a batch; null when it can. */
function unfit(url: string): string | null {
  if (!/^\/api\/[^\s\\#]*$/.test(url)) return "must be a path below /api/ with its query";
  // As the router will read it, dots and escapes resolved.
  const path = plain.exec(url)?.[1] ?? pathOf(new Request(base + url));
  if (!path.startsWith("/api/")) return "must be a path below /api/ with its query";
  if (apart.test(path)) return "cannot be in a batch: ask for it by itself";
  // Spelt otherwise it is no parameter that polls know.
  return /[?&]wait(=|&|$)/.test(url) ? "must be without wait" : null;
}

const BatchIn = z
  .strictObject({
    requests: z
      .array(
        z.strictObject({
          url: z
            .string()
            .check((c) => {
              const message = unfit(c.value);
              if (message !== null) c.issues.push({ code: "custom", message, input: c.value });
            })
            .openapi({ example: "/api/signals/latest?limit=1" }),
          method: z.literal("GET", { error: "must be GET: a batch holds reads alone" }).optional(),
          headers: z
            .strictObject({
              "If-None-Match": z.string().regex(/^[\x20-\x7e]*$/, "must be printable ASCII"),
            })
            .partial()
            .optional(),
        }),
      )
      .min(1)
      .max(requestsMax),
  })
  .openapi("BatchIn");

const BatchOut = z
  .object({
    responses: z.array(
      z.object({
        status: z.int(),
        headers: z.record(z.string(), z.string()),
        body: z.any().openapi({ description: "As JSON; null where there is none, as of 304." }),
      }),
    ),
  })
  .openapi("BatchOut");

/**
 * Several reads in one round trip. Each is a request of its own in all but the connection: let in,
 * limited, counted and answered by the same application.
 */
export function batchRoutes(fetch: Fetch) {
  const app = new OpenAPIHono<AppEnv>({
    defaultHook: (result) => {
      if (result.success || result.target !== "json") return refuse(result);
      const errors = fieldErrors(result.error).map(({ field, detail }) => {
        return { field: field.replaceAll(/\.(\d+)(?=\.|$)/g, "[$1]"), detail };
      });
      throw new AppError("unprocessable", `The body is not valid: ${namesOf(errors)}.`, { errors });
    },
  });

  const batch = createRoute({
    method: "post",
    path: batchPath,
    tags: ["signals"],
    summary: `Up to ${requestsMax} reads in one round trip`,
    description:
      "Answers in the order of the requests, each with its own status. Each is asked with the credential and from the address of the batch, and takes its own share of the limit. Streams, sockets, exports, hooks and `wait` are asked for by themselves. An answer that does not fit into 8 MiB together with those before it is 413.",
    middleware: [strictQuery, ...strictJson],
    request: { query: NoQuery, body: jsonBody(BatchIn) },
    responses: {
      200: json(BatchOut, "All answers, whatever they are"),
      ...problems(400, 413, 415, 422),
    },
  });
  app.openapi(batch, async (c) => {
    const { requests } = c.req.valid("json");
    const inherited = new Headers(c.req.raw.headers);
    for (const name of own) inherited.delete(name);
    inherited.set("X-Request-Id", c.env.requestId);
    await turn();
    const pieces = piecesOf(requests.length, (at) => {
      const { url, headers } = requests[at] ?? { url: "" };
      const etag = headers?.["If-None-Match"];
      const given = etag === undefined ? inherited : withEtag(inherited, etag);
      return ask(fetch, new Request(base + url, { headers: given }), c.env);
    });
    let told = "";
    while (told.length <= wholeBytesMax) {
      const { done, value } = await pieces.next();
      if (done) return c.body(told, 200, asJson) as never;
      told += value;
    }
    c.env.streamed = true;
    return c.body(streamOf(pieces, told), 200, asJson) as never;
  });

  return app;
}

const asJson = { "Content-Type": "application/json" };

/**
 * The text of an answer, part by part in their order. All are asked for at once while there is room,
 * so that one wait is enough for all of them; without room each when the last was taken. Of answers
 * that are made while they are sent one part is told in each turn of the event loop.
 */
async function* piecesOf(
  parts: number,
  askFor: (at: number) => Promise<Part>,
): AsyncGenerator<string> {
  const fitting = { bytesLeft: bytesMax };
  const held: Held[] = [];
  try {
    for (let [asked, told] = [0, 0]; told < parts; told += 1) {
      if (bytesMax - fitting.bytesLeft > wholeBytesMax) await turn();
      while (asked < parts && (held.length === 0 || heldBytes < heldBytesMax)) {
        held.push(hold(askFor(asked)));
        asked += 1;
      }
      const one = held[0];
      if (!one) break;
      // One after the other: what fits is decided in their order.
      yield (told === 0 ? '{"responses":[' : ",") + (await tell(await one.part, fitting));
      one.release();
      held.shift();
    }
    yield "]}";
  } finally {
    for (const one of held) one.release();
  }
}

type Held = { part: Promise<Part>; release: () => void };

/** Counts a part for as long as it is held, or on its way. */
function hold(part: Promise<Part>): Held {
  let [bytes, there, released] = [awaitedBytes, false, false];
  heldBytes += bytes;
  const weigh = (now: number): void => {
    heldBytes += now - bytes;
    bytes = now;
  };
  const come = (length: number): void => {
    there = true;
    weigh(released ? 0 : length);
  };
  part.then(
    ({ text }) => come(text?.length ?? 0),
    () => come(0),
  );
  const release = (): void => {
    released = true;
    if (there) weigh(0);
  };
  return { part, release };
}

function withEtag(headers: Headers, etag: string): Headers {
  const given = new Headers(headers);
  given.set("If-None-Match", etag);
  return given;
}

/** `text` is null for what is no JSON; `deliver` counts the signals in it once it is sent. */
type Part = { request: Request; response: Response; text: string | null; deliver: () => void };

async function ask(
  fetch: Fetch,
  request: Request,
  { carrier, deliver, server }: Exchange,
): Promise<Part> {
  const delivered: Parameters<Exchange["deliver"]>[] = [];
  const note: Exchange["deliver"] = (...counted) => void delivered.push(counted);
  const response = await fetch(request, server, { carrier, deliver: note });
  const type = response.headers.get("content-type") ?? "";
  // What has no type has no body. To look at that itself would make a stream of it.
  const isJson = type === "" || /^application\/(problem\+)?json\b/.test(type);
  if (!isJson) await response.body?.cancel();
  return {
    request,
    response,
    text: isJson ? await response.text() : null,
    deliver: () => {
      for (const counted of delivered) deliver(...counted);
    },
  };
}

/** One answer as JSON, or why it is not there. */
async function tell(part: Part, fitting: { bytesLeft: number }): Promise<string> {
  const { response, text, deliver } = part;
  const bytes = text === null ? 0 : Buffer.byteLength(text);
  if (text !== null && bytes <= fitting.bytesLeft) {
    fitting.bytesLeft -= bytes;
    deliver();
    return written(response, response.headers, text);
  }
  const error =
    text === null
      ? new AppError("unprocessable", "This is answered in no JSON: ask for it by itself.")
      : new AppError("payload_too_large", "This is more than the batch can hold: ask by itself.");
  const refused = problem(error, pathOf(part.request));
  const headers = new Headers(response.headers);
  headers.delete("etag");
  headers.set("Content-Type", "application/problem+json");
  return written(refused, headers, await refused.text());
}

function written({ status }: Response, headers: Headers, text: string): string {
  const told: Record<string, string> = {};
  for (const name of shown) {
    const value = headers.get(name);
    if (value !== null) told[name] = value;
  }
  const body = text === "" ? "null" : text;
  return `{"status":${status},"headers":${JSON.stringify(told)},"body":${body}}`;
}
