import { defineConfig } from "drizzle-kit";

export default defineConfig({
  dialect: "postgresql",
  schema: "./db/alpine/schema.ts",
  out: "./db/alpine/migrations",
});
