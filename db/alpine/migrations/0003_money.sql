ALTER TABLE "invoices" ADD COLUMN "price_minor" integer NOT NULL;--> statement-breakpoint
CREATE INDEX "idx_invoice_created" ON "invoices" USING btree ("created_at","id");--> statement-breakpoint
CREATE INDEX "idx_movement_user" ON "revenue_movements" USING btree ("user_id","at");--> statement-breakpoint
CREATE INDEX "idx_subscription_grace" ON "subscriptions" USING btree ("grace_until") WHERE "subscriptions"."status" = 'past_due';