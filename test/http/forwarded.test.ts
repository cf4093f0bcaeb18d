import { expect, test } from "bun:test";
import pino from "pino";
import { openApp } from "../harness/app.ts";

/** What the server says of proxies, after requests with this header. */
async function warned(trustProxy: string, forwardedFor: string | null): Promise<string[]> {
  const lines: string[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
  await using app = await openApp({ log, env: { TRUST_PROXY: trustProxy } });
  for (const path of ["/livez", "/nothing", "/livez"]) {
    await app.get(path, forwardedFor === null ? {} : { "X-Forwarded-For": forwardedFor });
  }
  return lines.filter((line) => line.includes("X-Forwarded-For"));
}

test("a proxy that nobody spoke of is warned of once, without the address it names", async () => {
  const lines = await warned("0", "203.0.113.9");
  expect(lines).toHaveLength(1);
  expect(lines[0]).toContain("TRUST_PROXY");
  expect(lines[0]).not.toContain("203.0.113.9");
});

test("nobody is warned of a proxy that is told of, or not there", async () => {
  expect(await warned("1", "203.0.113.9")).toEqual([]);
  expect(await warned("0", null)).toEqual([]);
});
