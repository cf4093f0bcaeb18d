import { stringify } from "csv-stringify/sync";
import { z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { AppEnv } from "../http/exchange";
import { streamOf } from "../http/stream";

/** How something is answered: a field of its query. */
export const formatOf = (description: string) =>
  z.enum(["json", "csv"]).default("json").openapi({ description });

/** The same of a list. */
export const format = formatOf("As csv all rows from the cursor on are sent, whatever the limit.");

/** The response of a route that is JSON or CSV, as `format` asks. */
export const jsonOrCsv = <T extends z.ZodType>(schema: T, description: string) => ({
  description,
  content: { "application/json": { schema }, "text/csv": { schema: z.string() } },
});

/**
 * A file of rows (RFC 4180) that is made while it is sent, however many there are. What a
 * spreadsheet would take for a formula is escaped. @throws what the first page throws.
 */
export async function csvAnswer<Row extends object>(
  c: Context<AppEnv>,
  name: string,
  columns: readonly (keyof Row & string)[],
  pages: AsyncGenerator<Row[]>,
): Promise<never> {
  // Before the status is sent, so that what cannot be read is told by it.
  const first = await pages.next();
  async function* texts(): AsyncGenerator<string> {
    yield linesOf([columns]);
    for (let page = first; !page.done; page = await pages.next()) {
      yield linesOf(page.value.map((row) => columns.map((column) => row[column])));
    }
  }
  c.env.streamed = true;
  return c.body(streamOf(texts()), 200, {
    "Content-Type": "text/csv; charset=utf-8",
    "Content-Disposition": `attachment; filename="${name}.csv"`,
  }) as never;
}

/** Nulls are empty; what is no single value is JSON. */
const linesOf = (rows: readonly (readonly unknown[])[]): string =>
  stringify([...rows], {
    escape_formulas: true,
    record_delimiter: "windows",
    cast: { boolean: String, object: (value) => JSON.stringify(value) },
  });
