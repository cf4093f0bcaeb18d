import { z } from "@hono/zod-openapi";
import { whole, word } from "../../http/fields";

export const ACTIONS = ["BUY", "SELL", "HOLD"] as const;
export const SIGNALS_PER_POST_MAX = 1_000;
/** Seconds that a producer's clock may run ahead. */
export const TIMESTAMP_AHEAD_SECONDS_MAX = 300;

/** Printable text, without lone surrogates and without what turns its direction: what a symbol or strategy may be. */
const label = (name: string) =>
  z
    .string()
    .min(1)
    .max(64)
    .refine((text) => text.isWellFormed() && !/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(text), {
      message: "must be printable text",
    })
    .openapi({ description: name, example: name === "Symbol" ? "SPX" : "weighted_consensus" });

const price = z.number().positive().max(1e12);

export const SignalIn = z
  .strictObject({
    symbol: label("Symbol"),
    action: z.enum(ACTIONS),
    confidence: z.number().min(0).max(100),
    entry_price: price,
    stop_price: price.nullish(),
    target_price: price.nullish(),
    timestamp: z.string().max(40).optional().openapi({
      description:
        "RFC 3339 in UTC, given back as written; the server's time where it is absent. At most 300 s ahead.",
      example: "2026-01-05T21:00:00+00:00",
    }),
    strategy: label("Strategy").optional(),
    sha256: z.string().max(64).optional().openapi({
      description: "The canonical hash, to have it checked.",
    }),
    supersedes: z.int().positive().optional().openapi({
      description: "Id of the signal that this one corrects.",
    }),
  })
  .openapi("SignalIn");
export type SignalIn = z.infer<typeof SignalIn>;

const nullableNumber = z.number().nullable();
const signalShape = {
  id: z
    .int()
    .openapi({ example: 3489, description: "Strictly increasing: the delivery sequence." }),
  symbol: z.string().openapi({ example: "SPX" }),
  action: z.string().openapi({ example: "SELL" }),
  confidence: nullableNumber.openapi({ example: 99.9, description: "0 to 100; premium from 95." }),
  price: nullableNumber.openapi({ example: 2874.5601, description: "Repeats entry_price." }),
  entry_price: nullableNumber.openapi({ example: 2874.5601 }),
  stop_loss: nullableNumber.openapi({ example: 2960.7969 }),
  take_profit: nullableNumber.openapi({ example: 2730.8321, description: "Repeats target_price." }),
  target_price: nullableNumber.openapi({ example: 2730.8321 }),
  timestamp: z.string().nullable().openapi({ example: "2020-04-17T21:00:00+00:00" }),
  strategy: z.string().openapi({ example: "weighted_consensus" }),
  sha256: z.string().openapi({ description: "Lower-case hex, or empty." }),
  supersedes: z.int().nullable().openapi({ description: "The signal that this one corrects." }),
};
export const SignalOut = z.object(signalShape).openapi("Signal");
export const ReceivedSignalOut = z
  .object({ ...signalShape, received_at: z.string().nullable() })
  .openapi("ReceivedSignal");

const confidence = z
  .string()
  .regex(/^\d{1,3}(\.\d{1,12})?$/, "must be a number from 0 to 100")
  .transform(Number)
  .pipe(z.number().min(0).max(100, "must be a number from 0 to 100"))
  .openapi({ type: "number", minimum: 0, maximum: 100 });

/** As Alpine's clients send it: a fraction of one, or percent. */
const shareOrPercent = confidence
  // 0.55 times 100 is a little more than 55, and 55 percent must be found.
  .transform((value) => (value <= 1 ? Number((value * 100).toPrecision(12)) : value))
  .openapi({
    type: "number",
    minimum: 0,
    maximum: 100,
    description: "Up to and including 1 a fraction of one (0.95 is 95 percent), above it percent.",
    example: 0.95,
  });

const bound = z
  .string()
  .min(1)
  .max(64)
  // In a query "+" is a space: "…T00:00:00 00:00" would be compared as something nobody wrote.
  .refine((text) => !/ \d\d:\d\d$/.test(text) || !text.includes("T"), 'write "+" as %2B')
  .openapi({ example: "2020-01-01" });

const LatestFilters = {
  symbol: label("Symbol").optional(),
  strategy: label("Strategy").optional(),
  min_confidence: confidence.optional(),
};

export const latestQuery = (pageSizeMax: number) =>
  z.strictObject({
    limit: whole(1, pageSizeMax).default(Math.min(10, pageSizeMax)),
    offset: whole(0, 10_000).default(0).openapi({ deprecated: true }),
    premium_only: word.default(false),
    ...LatestFilters,
  });
export type LatestQuery = z.infer<ReturnType<typeof latestQuery>>;

export const listQuery = (pageSizeMax: number) =>
  z.strictObject({
    // As long as the longest timestamp that an engine may have written.
    cursor: z.string().min(1).max(8_192).optional(),
    limit: whole(1, pageSizeMax).default(Math.min(20, pageSizeMax)),
    ...LatestFilters,
    action: z.enum(ACTIONS).optional(),
    since: bound.optional().openapi({ description: "Inclusive, compared by bytes." }),
    until: bound.optional().openapi({ description: "Exclusive, compared by bytes." }),
    order: z.enum(["desc", "asc"]).default("desc"),
  });
export type ListQuery = z.infer<ReturnType<typeof listQuery>>;

export const subscribedQuery = (pageSizeMax: number) =>
  z.strictObject({
    cursor: z.string().min(1).max(8_192).optional(),
    limit: whole(1, pageSizeMax).default(Math.min(20, pageSizeMax)),
    ...LatestFilters,
    min_confidence: shareOrPercent.optional(),
    action: z.enum(ACTIONS).optional(),
  });

const idText = (min: number) =>
  z
    .string()
    .regex(/^\d{1,16}$/, "must be a whole number")
    .transform(Number)
    .pipe(z.int().min(min))
    .openapi({ type: "integer", minimum: min });

export const IdParam = z.object({ id: idText(1) });
export const HashParam = z.object({
  sha256: z.string().regex(/^[0-9a-f]{64}$/, "must be 64 lower-case hex digits"),
});
/** What a client has heard of from another node. */
export const minId = idText(0).openapi({
  description:
    "An id that the answer must know of, such as the Signal-Head that a post was answered with: waited for up to 2 s, then 503. It may come from another node.",
});
const known = { min_id: minId.optional() };
/** Of reads that take nothing else. */
export const KnownQuery = z.strictObject(known);
export const ExportQuery = z.strictObject({ since_id: idText(0).default(0), ...known });

/** How long a poll may wait for a change, seconds. */
export const waitSeconds = whole(0, 60).openapi({
  description:
    "With an If-None-Match that matches: seconds to wait for something that is shown to change. Where too many wait it is answered at once.",
  example: 25,
});

export const StreamQuery = z.strictObject({
  since_id: idText(0).optional().openapi({
    description: "Everything after this id first. The header Last-Event-ID wins.",
  }),
  premium_only: word.default(false),
  ...LatestFilters,
});

/** What a client says over a WebSocket. */
export const SocketMessage = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("subscribe"),
    resume_from: z.int().min(0).optional(),
    symbol: label("Symbol").optional(),
    strategy: label("Strategy").optional(),
    min_confidence: z.number().min(0).max(100).optional(),
    premium_only: z.boolean().default(false),
  }),
  z.strictObject({ type: z.literal("unsubscribe") }),
  z.strictObject({ type: z.literal("ping") }),
]);

export const SocketQuery = z.strictObject({
  ticket: z.string().max(100).optional().openapi({
    description: "From POST /api/signals/ws-ticket, for who cannot send an Authorization header.",
  }),
});

export const Ticket = z
  .object({ ticket: z.string(), expires_in: z.int().openapi({ example: 60 }) })
  .openapi("Ticket");

/** Where an interrupted stream goes on. */
export const LastEventId = idText(0);

export const SignalList = z
  .object({
    signals: z.array(ReceivedSignalOut),
    next_cursor: z.string().nullable(),
    has_more: z.boolean(),
  })
  .openapi("SignalList");

export const Accepted = z
  .object({
    signals: z.array(z.object({ id: z.int(), sha256: z.string(), duplicate: z.boolean() })),
  })
  .openapi("Accepted");
export type Accepted = z.infer<typeof Accepted>;

const counts = z.record(z.string(), z.int());
export const Stats = z
  .object({
    total: z.int(),
    by_symbol: counts,
    by_strategy: counts,
    by_action: counts,
    by_day: counts,
  })
  .openapi("Stats");
export type Stats = z.infer<typeof Stats>;
