CREATE INDEX "idx_invoice_status" ON "invoices" USING btree ("status","created_at","id");--> statement-breakpoint
CREATE INDEX "idx_payment_kind" ON "payments" USING btree ("kind","at","id");