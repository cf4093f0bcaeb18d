CREATE TABLE "deliveries" (
	"user_id" uuid NOT NULL,
	"signal_id" bigint NOT NULL,
	"delivered_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "deliveries_user_id_signal_id_pk" PRIMARY KEY("user_id","signal_id")
);
--> statement-breakpoint
CREATE TABLE "invoices" (
	"id" uuid PRIMARY KEY NOT NULL,
	"subscription_id" uuid NOT NULL,
	"user_id" uuid NOT NULL,
	"reason" text NOT NULL,
	"tier" text NOT NULL,
	"amount_minor" integer NOT NULL,
	"currency" char(3) NOT NULL,
	"period_start" timestamp (3) with time zone NOT NULL,
	"period_end" timestamp (3) with time zone NOT NULL,
	"status" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"paid_at" timestamp (3) with time zone,
	"provider_invoice" text,
	CONSTRAINT "invoices_provider_invoice_unique" UNIQUE("provider_invoice"),
	CONSTRAINT "invoices_reason" CHECK ("reason" IN ('start', 'renewal', 'upgrade')),
	CONSTRAINT "invoices_status" CHECK ("status" IN ('open', 'paid', 'void'))
);
--> statement-breakpoint
CREATE TABLE "job_places" (
	"name" text PRIMARY KEY NOT NULL,
	"place" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "notification_preferences" (
	"user_id" uuid NOT NULL,
	"kind" text NOT NULL,
	"in_app" boolean NOT NULL,
	"email" boolean NOT NULL,
	CONSTRAINT "notification_preferences_user_id_kind_pk" PRIMARY KEY("user_id","kind")
);
--> statement-breakpoint
CREATE TABLE "notifications" (
	"id" uuid PRIMARY KEY NOT NULL,
	"user_id" uuid NOT NULL,
	"kind" text NOT NULL,
	"reference" text NOT NULL,
	"title" text NOT NULL,
	"body" text NOT NULL,
	"details" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"is_read" boolean DEFAULT false NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"read_at" timestamp (3) with time zone,
	CONSTRAINT "notifications_kind" CHECK ("kind" IN ('premium_signal', 'payment_failed', 'key_expiring', 'new_login'))
);
--> statement-breakpoint
CREATE TABLE "payments" (
	"id" uuid PRIMARY KEY NOT NULL,
	"kind" text NOT NULL,
	"user_id" uuid NOT NULL,
	"subscription_id" uuid,
	"invoice_id" uuid,
	"provider" text NOT NULL,
	"reference" text NOT NULL,
	"amount_minor" integer NOT NULL,
	"currency" char(3) NOT NULL,
	"at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "payments_kind" CHECK ("kind" IN ('charge', 'refund', 'failure')),
	CONSTRAINT "payments_amount" CHECK ("amount_minor" >= 0)
);
--> statement-breakpoint
CREATE TABLE "plans" (
	"tier" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"price_minor" integer NOT NULL,
	"currency" char(3) NOT NULL,
	"interval" text NOT NULL,
	"trial_days" integer DEFAULT 0 NOT NULL,
	"premium" boolean NOT NULL,
	"delay_seconds" integer NOT NULL,
	"requests_per_minute" integer NOT NULL,
	"streams_max" integer NOT NULL,
	"webhooks_max" integer NOT NULL,
	"history_days" integer,
	"export" boolean NOT NULL,
	"stripe_price_id" text,
	"updated_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "plans_stripe_price_id_unique" UNIQUE("stripe_price_id"),
	CONSTRAINT "plans_tier" CHECK ("tier" IN ('starter', 'pro', 'elite')),
	CONSTRAINT "plans_interval" CHECK ("interval" IN ('month', 'year'))
);
--> statement-breakpoint
CREATE TABLE "provider_events" (
	"provider" text NOT NULL,
	"id" text NOT NULL,
	"type" text NOT NULL,
	"subject" text,
	"created_at" timestamp (3) with time zone NOT NULL,
	"received_at" timestamp (3) with time zone NOT NULL,
	"applied_at" timestamp (3) with time zone,
	"fault" text,
	"body" jsonb NOT NULL,
	CONSTRAINT "provider_events_provider_id_pk" PRIMARY KEY("provider","id")
);
--> statement-breakpoint
CREATE TABLE "revenue_movements" (
	"id" uuid PRIMARY KEY NOT NULL,
	"at" timestamp (3) with time zone NOT NULL,
	"user_id" uuid NOT NULL,
	"subscription_id" uuid NOT NULL,
	"kind" text NOT NULL,
	"tier" text NOT NULL,
	"delta_minor" integer NOT NULL,
	"currency" char(3) NOT NULL,
	CONSTRAINT "movements_kind" CHECK ("kind" IN ('new', 'expansion', 'contraction', 'churn', 'reactivation'))
);
--> statement-breakpoint
CREATE TABLE "subscriptions" (
	"id" uuid PRIMARY KEY NOT NULL,
	"user_id" uuid NOT NULL,
	"tier" text NOT NULL,
	"provider" text NOT NULL,
	"status" text NOT NULL,
	"price_minor" integer NOT NULL,
	"currency" char(3) NOT NULL,
	"interval" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"period_start" timestamp (3) with time zone NOT NULL,
	"period_end" timestamp (3) with time zone NOT NULL,
	"anchor_at" timestamp (3) with time zone NOT NULL,
	"trial_end" timestamp (3) with time zone,
	"cancel_at_period_end" boolean DEFAULT false NOT NULL,
	"next_tier" text,
	"grace_until" timestamp (3) with time zone,
	"ended_at" timestamp (3) with time zone,
	"provider_customer" text,
	"provider_subscription" text,
	CONSTRAINT "subscriptions_provider_subscription_unique" UNIQUE("provider_subscription"),
	CONSTRAINT "subscriptions_tier" CHECK ("tier" IN ('starter', 'pro', 'elite')),
	CONSTRAINT "subscriptions_status" CHECK ("status" IN ('incomplete', 'trialing', 'active', 'past_due', 'ended')),
	CONSTRAINT "subscriptions_provider" CHECK ("provider" IN ('manual', 'stripe'))
);
--> statement-breakpoint
CREATE TABLE "usage_days" (
	"day" date NOT NULL,
	"route_class" text NOT NULL,
	"requests" bigint DEFAULT 0 NOT NULL,
	"errors" bigint DEFAULT 0 NOT NULL,
	"delivered" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "usage_days_day_route_class_pk" PRIMARY KEY("day","route_class")
);
--> statement-breakpoint
ALTER TABLE "usage" DROP CONSTRAINT "usage_user_id_day_pk";--> statement-breakpoint
ALTER TABLE "usage" ADD COLUMN "route_class" text DEFAULT 'signals' NOT NULL;--> statement-breakpoint
ALTER TABLE "usage" ADD CONSTRAINT "usage_user_id_day_route_class_pk" PRIMARY KEY("user_id","day","route_class");--> statement-breakpoint
ALTER TABLE "usage" ADD COLUMN "errors" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "usage" ADD COLUMN "delivered" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "users" ADD COLUMN "tier_grant" text;--> statement-breakpoint
ALTER TABLE "deliveries" ADD CONSTRAINT "deliveries_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "notification_preferences" ADD CONSTRAINT "notification_preferences_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "notifications" ADD CONSTRAINT "notifications_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "idx_delivery_at" ON "deliveries" USING btree ("user_id","delivered_at");--> statement-breakpoint
CREATE INDEX "idx_invoice_user" ON "invoices" USING btree ("user_id","created_at","id");--> statement-breakpoint
CREATE INDEX "idx_invoice_subscription" ON "invoices" USING btree ("subscription_id","created_at");--> statement-breakpoint
CREATE UNIQUE INDEX "idx_notif_once" ON "notifications" USING btree ("user_id","kind","reference");--> statement-breakpoint
CREATE INDEX "idx_notif_user_read_created" ON "notifications" USING btree ("user_id","is_read","created_at" DESC NULLS FIRST,"id" DESC NULLS FIRST);--> statement-breakpoint
CREATE INDEX "idx_notif_created" ON "notifications" USING btree ("created_at");--> statement-breakpoint
CREATE UNIQUE INDEX "idx_payment_reference" ON "payments" USING btree ("provider","kind","reference");--> statement-breakpoint
CREATE INDEX "idx_payment_user" ON "payments" USING btree ("user_id","at","id");--> statement-breakpoint
CREATE INDEX "idx_payment_at" ON "payments" USING btree ("at");--> statement-breakpoint
CREATE INDEX "idx_provider_event_subject" ON "provider_events" USING btree ("provider","subject","created_at");--> statement-breakpoint
CREATE INDEX "idx_provider_event_waiting" ON "provider_events" USING btree ("received_at") WHERE "provider_events"."applied_at" IS NULL;--> statement-breakpoint
CREATE INDEX "idx_movement_at" ON "revenue_movements" USING btree ("at");--> statement-breakpoint
CREATE INDEX "idx_movement_subscription" ON "revenue_movements" USING btree ("subscription_id","at");--> statement-breakpoint
CREATE UNIQUE INDEX "idx_subscription_user_live" ON "subscriptions" USING btree ("user_id") WHERE "subscriptions"."status" <> 'ended';--> statement-breakpoint
CREATE INDEX "idx_subscription_user" ON "subscriptions" USING btree ("user_id","created_at");--> statement-breakpoint
CREATE INDEX "idx_subscription_due" ON "subscriptions" USING btree ("period_end") WHERE "subscriptions"."status" <> 'ended';--> statement-breakpoint
ALTER TABLE "users" ADD CONSTRAINT "users_tier_grant" CHECK ("tier_grant" IN ('starter', 'pro', 'elite'));--> statement-breakpoint
-- By hand: what was set before there were subscriptions was a grant.
UPDATE "users" SET "tier_grant" = "tier" WHERE "tier" <> 'starter';--> statement-breakpoint
-- By hand: the plans that a new installation sells.
INSERT INTO "plans" ("tier", "name", "price_minor", "currency", "interval", "premium", "delay_seconds", "requests_per_minute", "streams_max", "webhooks_max", "history_days", "export", "updated_at") VALUES
	('starter', 'Starter', 4900, 'USD', 'month', false, 900, 60, 1, 0, 30, false, now()),
	('pro', 'Pro', 14900, 'USD', 'month', true, 0, 600, 5, 3, 365, false, now()),
	('elite', 'Elite', 49900, 'USD', 'month', true, 0, 6000, 20, 10, NULL, true, now());
