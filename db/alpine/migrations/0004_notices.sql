ALTER TABLE "notifications" ADD COLUMN "in_app" boolean DEFAULT true NOT NULL;--> statement-breakpoint
ALTER TABLE "notifications" ADD COLUMN "mail_due_at" timestamp (3) with time zone;--> statement-breakpoint
CREATE INDEX "idx_key_expires" ON "api_keys" USING btree ("expires_at") WHERE "api_keys"."expires_at" IS NOT NULL AND "api_keys"."revoked_at" IS NULL;--> statement-breakpoint
CREATE INDEX "idx_notif_read_at" ON "notifications" USING btree ("read_at") WHERE "notifications"."read_at" IS NOT NULL;--> statement-breakpoint
CREATE INDEX "idx_notif_mail_due" ON "notifications" USING btree ("mail_due_at") WHERE "notifications"."mail_due_at" IS NOT NULL;--> statement-breakpoint
CREATE INDEX "idx_provider_event_applied" ON "provider_events" USING btree ("applied_at") WHERE "provider_events"."applied_at" IS NOT NULL;