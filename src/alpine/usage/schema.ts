import { z } from "@hono/zod-openapi";
import { routeClasses } from "../../../db/alpine/schema";
import { ReceivedSignalOut } from "../../argo/signals/schema";
import { orNull, uuid } from "../../http/fields";
import { format } from "../csv";
import { pageQuery, pageShape } from "../page";
import type { DeliveryRow, UsageRecord } from "./store";

const count = z.int().min(0);

export const UsageDay = z
  .object({
    day: z.iso.date().openapi({ description: "UTC." }),
    route_class: z.enum(routeClasses),
    requests: count,
    errors: count.openapi({ description: "Answers of status 400 and above." }),
    delivered: count.openapi({ description: "Signals in answers of status 200 and in streams." }),
  })
  .openapi("UsageDay");
export type UsageDay = z.infer<typeof UsageDay>;

export const usageDayOf = ({ routeClass, ...row }: UsageRecord): UsageDay => ({
  day: row.day,
  route_class: routeClass,
  requests: row.requests,
  errors: row.errors,
  delivered: row.delivered,
});

export const intervalSeconds = z.int().openapi({
  description: "Counts are written down so often: what was counted since is not in here yet.",
});

export const UsageList = z
  .object({ usage: z.array(UsageDay), usage_interval_seconds: intervalSeconds, ...pageShape })
  .openapi("UsageList");

/** Before that there is nothing, and far before it no day that Postgres knows. */
const day = z.iso
  .date("must be a date like 2026-11-20")
  .refine((text) => text >= "1970-01-01", { message: "must be a date from 1970-01-01 on" });

export const usageQuery = (pageSizeMax: number) =>
  z.strictObject({
    ...pageQuery(pageSizeMax),
    since: day.optional().openapi({ description: "The first day." }),
    until: day.optional().openapi({ description: "The last day." }),
    format,
  });

export const adminUsageQuery = (pageSizeMax: number) =>
  usageQuery(pageSizeMax).extend({
    user_id: uuid.optional().openapi({ description: "Whose; else of everybody together." }),
  });

export const Delivery = z.object({
  signal_id: z.int(),
  delivered_at: z.iso.datetime().openapi({ description: "When it was given first." }),
});
export type Delivery = z.infer<typeof Delivery>;

export const deliveriesQuery = (pageSizeMax: number) => z.strictObject(pageQuery(pageSizeMax));
export const DeliveryList = z
  .object({
    deliveries: z.array(Delivery.extend({ signal: orNull(ReceivedSignalOut) }).openapi("Delivery")),
    usage_interval_seconds: intervalSeconds,
    ...pageShape,
  })
  .openapi("DeliveryList");

export const deliveryOf = ({ signalId, deliveredAt }: DeliveryRow): Delivery => ({
  signal_id: signalId,
  delivered_at: deliveredAt.toISOString(),
});
