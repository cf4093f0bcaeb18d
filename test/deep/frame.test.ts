import { expect, test } from "bun:test";
import { READ_TOKEN } from "../harness/app.ts";
import { tail } from "../harness/children.ts";
import { pythonWith } from "../client/python.ts";
import { serve, signals, writer } from "../client/serve.ts";

const start = await pythonWith(["httpx==0.28.1", "pandas==2.3.3"]);
if (typeof start === "string") console.warn(`the table of signals was not tried: ${start}`);

test.skipIf(typeof start === "string")(
  "signals become a table of pandas",
  async () => {
    if (typeof start === "string") return;
    await using at = await serve();
    await writer(at.url).post(signals(50));
    await using bot = start(["frame", at.url, READ_TOKEN]);
    expect([await bot.done, tail(bot.lines())]).toEqual([0, expect.anything()]);
    const [table, newest, none] = bot.lines().map((line) => JSON.parse(line) as unknown);
    expect(table).toMatchObject({
      rows: 50,
      dtypes: {
        confidence: "float64",
        // All of them whole numbers, or none of them there.
        entry_price: "float64",
        stop_loss: "float64",
        timestamp: "datetime64[us, UTC]",
        received_at: "datetime64[us, UTC]",
        supersedes: "Int64",
      },
    });
    expect(newest).toEqual({ newest: 50, year: 2026 });
    expect(none).toEqual({ none: 0, alike: true });
  },
  120_000,
);
