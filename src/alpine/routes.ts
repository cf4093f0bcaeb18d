import type { OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../http/exchange";
import { reportRoutes } from "./admin/reports.routes";
import { adminRoutes } from "./admin/routes";
import { setupRoutes } from "./admin/setup.routes";
import { recoveryRoutes } from "./auth/recovery.routes";
import { authRoutes } from "./auth/routes";
import { keyRoutes } from "./keys/routes";
import { notificationRoutes } from "./notifications/routes";
import { paymentRoutes } from "./payments/routes";
import type { Plane, SignalsById } from "./plane";
import { planRoutes } from "./plans/routes";
import { revenueRoutes } from "./revenue/routes";
import { stripeRoutes } from "./stripe/webhook.routes";
import { soldRoutes } from "./subscriptions/admin.routes";
import { subscriptionRoutes } from "./subscriptions/routes";
import { usageRoutes } from "./usage/routes";
import { userRoutes } from "./users/routes";
import { webhookRoutes } from "./webhooks/routes";
import type { SignalSource } from "./webhooks/source";

/** Mounts every route of the control plane. */
export function mountAlpine(
  app: OpenAPIHono<AppEnv>,
  plane: Plane & { signalsById: SignalsById; source: SignalSource },
): void {
  const modules = [
    authRoutes,
    recoveryRoutes,
    setupRoutes,
    keyRoutes,
    userRoutes,
    planRoutes,
    notificationRoutes,
    adminRoutes,
    reportRoutes,
    usageRoutes,
    subscriptionRoutes,
    soldRoutes,
    paymentRoutes,
    stripeRoutes,
    revenueRoutes,
    webhookRoutes,
  ];
  for (const routes of modules) app.route("/", routes(plane));
}
