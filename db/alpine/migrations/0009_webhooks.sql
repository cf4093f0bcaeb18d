CREATE TABLE "webhook_messages" (
	"id" uuid PRIMARY KEY NOT NULL,
	"webhook_id" uuid NOT NULL,
	"type" text NOT NULL,
	"signal_id" bigint,
	"body" text NOT NULL,
	"status" text NOT NULL,
	"lane" smallint NOT NULL,
	"attempts" integer NOT NULL,
	"next_attempt_at" timestamp (3) with time zone,
	"last_status" integer,
	"last_error" text,
	"last_attempt_at" timestamp (3) with time zone,
	"duration_ms" integer,
	"created_at" timestamp (3) with time zone NOT NULL,
	"ended_at" timestamp (3) with time zone,
	CONSTRAINT "messages_type" CHECK ("type" IN ('signal.created', 'webhook.test')),
	CONSTRAINT "messages_status" CHECK ("status" IN ('waiting', 'delivered', 'failed'))
);
--> statement-breakpoint
CREATE TABLE "webhooks" (
	"id" uuid PRIMARY KEY NOT NULL,
	"user_id" uuid NOT NULL,
	"url" text NOT NULL,
	"description" text,
	"symbol" text,
	"strategy" text,
	"min_confidence" double precision,
	"premium_only" boolean NOT NULL,
	"secret" "bytea" NOT NULL,
	"old_secret" "bytea",
	"old_secret_until" timestamp (3) with time zone,
	"status" text NOT NULL,
	"reason" text,
	"place" bigint NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"updated_at" timestamp (3) with time zone NOT NULL,
	"failing_since" timestamp (3) with time zone,
	"not_before" timestamp (3) with time zone,
	"leased_until" timestamp (3) with time zone,
	CONSTRAINT "webhooks_status" CHECK ("status" IN ('enabled', 'paused', 'disabled')),
	CONSTRAINT "webhooks_reason" CHECK ("reason" IN ('owner', 'plan', 'account', 'gone', 'failing'))
);
--> statement-breakpoint
ALTER TABLE "notifications" DROP CONSTRAINT "notifications_kind";--> statement-breakpoint
ALTER TABLE "webhook_messages" ADD CONSTRAINT "webhook_messages_webhook_id_webhooks_id_fk" FOREIGN KEY ("webhook_id") REFERENCES "public"."webhooks"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhooks" ADD CONSTRAINT "webhooks_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "idx_message_once" ON "webhook_messages" USING btree ("webhook_id","signal_id");--> statement-breakpoint
CREATE INDEX "idx_message_created" ON "webhook_messages" USING btree ("webhook_id","created_at","id");--> statement-breakpoint
CREATE INDEX "idx_message_status" ON "webhook_messages" USING btree ("webhook_id","status","created_at","id");--> statement-breakpoint
CREATE INDEX "idx_message_due" ON "webhook_messages" USING btree ("webhook_id","lane","next_attempt_at","signal_id") WHERE "webhook_messages"."next_attempt_at" IS NOT NULL;--> statement-breakpoint
CREATE INDEX "idx_message_ended" ON "webhook_messages" USING btree ("ended_at") WHERE "webhook_messages"."ended_at" IS NOT NULL;--> statement-breakpoint
CREATE INDEX "idx_webhook_user" ON "webhooks" USING btree ("user_id","created_at","id");--> statement-breakpoint
CREATE INDEX "idx_webhook_place" ON "webhooks" USING btree ("place") WHERE "webhooks"."status" = 'enabled';--> statement-breakpoint
ALTER TABLE "notifications" ADD CONSTRAINT "notifications_kind" CHECK ("kind" IN ('premium_signal', 'payment_failed', 'key_expiring', 'new_login', 'webhook_disabled'));