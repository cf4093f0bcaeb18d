import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { AppEnv } from "../../http/exchange";
import { NoQuery } from "../../http/fields";
import { limitedBody } from "../../http/json";
import { json, problems } from "../../http/openapi";
import { refuse, strictQuery } from "../../http/validate";
import { fresh, type Plane } from "../plane";
import { takeEvent } from "./journal";

const bodyBytesMax = 1024 * 1024;

/** What Stripe tells. */
export function stripeRoutes(plane: Plane) {
  const app = new OpenAPIHono<AppEnv>({ defaultHook: (result) => refuse(result) });

  const webhook = createRoute({
    method: "post",
    path: "/api/webhooks/stripe",
    tags: ["payments"],
    summary: "Events of Stripe, signed by it",
    description: "Journaled before it is answered; without an answer of 200 Stripe sends it again.",
    middleware: [fresh(plane), strictQuery, limitedBody(bodyBytesMax)],
    request: { query: NoQuery },
    responses: {
      200: json(z.object({ received: z.literal(true) }), "It will not be lost"),
      ...problems(400, 404, 413, 503),
    },
  });
  app.openapi(webhook, async (c) => {
    // To the byte as it came: that is what was signed.
    await takeEvent(plane, await c.req.text(), c.req.header("stripe-signature"));
    return c.json({ received: true } as const, 200);
  });

  return app;
}
