/** Tickets: each is good once, wherever it is kept and whatever is away. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { OwnTickets, SharedTickets, Tickets } from "../../src/http/ticket.ts";
import { createLog } from "../../src/platform/log.ts";
import { Redis } from "../../src/platform/redis.ts";
import { until } from "../harness/process.ts";
import { tcpProxy, type TcpProxy } from "../harness/proxy.ts";
import { redis as startRedis, type TestRedis } from "../harness/servers.ts";

const BEARER = "Bearer a-token-0123456789";

let server: TestRedis;
let link: TcpProxy;
let redis: Redis;
/** Two processes, the first one behind the link. */
let first: Tickets;
let second: Tickets;
beforeAll(async () => {
  server = await startRedis();
  const at = new URL(server.url);
  link = await tcpProxy({ port: Number(at.port) });
  at.port = String(link.port);
  const log = createLog("silent");
  // Long enough for a machine that is busy: a ticket that is kept here instead is another case.
  redis = new Redis({ url: at.href, log, deadlineMs: 1_000 });
  const other = new Redis({ url: server.url, log, deadlineMs: 1_000 });
  await until(() => redis.up && other.up, "redis");
  const own = () => new OwnTickets(Date.now);
  first = new Tickets([new SharedTickets(redis), own()]);
  second = new Tickets([new SharedTickets(other), own()]);
});
afterAll(async () => {
  await redis[Symbol.asyncDispose]();
  await link[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

test("one is redeemed once, by whichever process comes first", async () => {
  const ticket = await first.issue(BEARER);
  const shown = await Promise.all(
    Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? first : second).redeem(ticket)),
  );
  expect(shown.filter((text) => text !== null)).toEqual([BEARER]);
  expect(await second.redeem(`${ticket}x`)).toBeNull();
  expect(await second.redeem("")).toBeNull();
});

test("while Redis is silent one is kept here, and one that is kept there cannot be told from none", async () => {
  const there = await first.issue(BEARER);
  link.blackhole();
  const here = await first.issue(BEARER);
  await expect(first.redeem(there)).rejects.toMatchObject({ code: "unavailable" });
  expect(await first.redeem(here)).toBe(BEARER);
  link.restore();
  await until(() => redis.up, "redis is back");
  expect(await second.redeem(here)).toBeNull();
  expect(await first.redeem(here)).toBeNull();
});

test("what is kept opens by its own ticket alone, and is bounded", async () => {
  const kept = new Map<string, string>();
  const store = {
    put: (key: string, sealed: string) => Promise.resolve(kept.set(key, sealed).size > 0),
    take: (key: string) => Promise.resolve(kept.get(key) ?? null),
  };
  const tickets = new Tickets([store]);
  const [one, two] = [await tickets.issue("Bearer one"), await tickets.issue("Bearer two")];
  const [oneKey = "", twoKey = ""] = [...kept.keys()];
  const [oneSealed = "", twoSealed = ""] = [...kept.values()];
  kept.set(oneKey, twoSealed).set(twoKey, "AAAA");
  expect([await tickets.redeem(one), await tickets.redeem(two)]).toEqual([null, null]);
  kept.set(oneKey, oneSealed);
  expect(await tickets.redeem(one)).toBe("Bearer one");

  const own = new OwnTickets(() => 0);
  for (let i = 0; i < 100_010; i += 1) await own.put(`${i}`, "sealed");
  expect([await own.take("9"), await own.take("10")]).toEqual([null, "sealed"]);
});
