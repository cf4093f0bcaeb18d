CREATE TABLE "former_prices" (
	"stripe_price_id" text PRIMARY KEY NOT NULL,
	"tier" text NOT NULL,
	CONSTRAINT "former_prices_tier" CHECK ("tier" IN ('starter', 'pro', 'elite'))
);
