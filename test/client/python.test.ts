import { describe, expect, test } from "bun:test";
import { READ_TOKEN, WRITE_TOKEN } from "../harness/app.ts";
import { brokenOff, fakeArgo } from "../harness/fake-argo.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { bot, noPython } from "./bot.ts";
import { range, reader, serve, signals, writer } from "./serve.ts";

// Side by side: they wait by the clock, and for Python to begin.
describe.skipIf(noPython)("the Python client", () => {
  test.concurrent(
    "asks only for what has changed, waits for it, and names what was wrong",
    async () => {
      await using at = await serve();
      await writer(at.url).post(signals(3));
      await using calling = bot("calls", at.url, READ_TOKEN);
      await calling.has(1, "polled");
      const [written] = await writer(at.url).post(signals(1));
      await calling.has(2, "polled");
      expect(calling.told).toEqual([
        { ids: [3, 2], head: 3 },
        { same: true },
        { batch: [2, 0], same: true },
        { waited: true },
        { status: 400, code: "bad_request", fields: ["limit"] },
        { status: 400, code: "bad_request", fields: ["nonsense"] },
        { status: 400, code: "bad_request", fields: ["limit"] },
        { polled: 3 },
        { polled: written?.id },
      ]);
      const { "304": unchanged } = await at.requests("/api/signals/latest");
      expect(unchanged).toBeGreaterThanOrEqual(2);
    },
  );

  test.concurrent(
    "streams over cut connections, kill -9, silence and restarts, each signal once and in order",
    async () => {
      await using at = await serve();
      await using way = await tcpProxy({ port: at.port });
      const post = writer(at.url);
      await post.post(signals(5));
      await using streaming = bot("stream", `http://127.0.0.1:${way.port}`, READ_TOKEN, "2", "0.5");
      await streaming.has(3, "signal");
      const faults = [
        () => way.cut(),
        () => at.server().kill(),
        () => void at.server().stop(),
        () => process.kill(at.server().pid, "SIGSTOP"),
        () => way.blackhole(),
      ];
      for (const [i, fault] of faults.entries()) {
        const drops = streaming.of("pause").length;
        fault();
        await streaming.has(drops + 1, "pause");
        if (i === 1 || i === 2) await at.again();
        if (i === 3) process.kill(at.server().pid, "SIGCONT");
        way.restore();
        await post.post(signals(2));
        await streaming.has(5 + 2 * i, "signal");
      }
      expect(streaming.of("signal")).toEqual(range(3, 15));
      const reasons = streaming.of("reason").join("\n");
      for (const reason of ["draining", "ReadTimeout"]) expect(reasons).toContain(reason);
      for (const { signal, cursor } of streaming.told) {
        if (signal !== undefined) expect(cursor).toBe(signal as number);
      }
    },
  );

  test.concurrent("takes up an export that was cut, and a post whose answer was lost", async () => {
    await using at = await serve();
    for (let i = 0; i < 4; i += 1) await writer(at.url).post(signals(1_000));
    await using way = await tcpProxy({ port: at.port });
    way.delay(20);
    await using exporting = bot("export", `http://127.0.0.1:${way.port}`, READ_TOKEN);
    await exporting.has(500, "id");
    way.cut();
    way.restore();
    expect([await exporting.done, ...exporting.of("id")]).toEqual([0, ...range(11, 4_000)]);

    let sent = 0;
    using front = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      development: false,
      async fetch({ url, method, headers, body }) {
        const path = new URL(url).pathname;
        const init = { method, headers, body: await new Response(body).text() };
        const answer = await fetch(at.url + path, init);
        sent += 1;
        return sent < 3 ? brokenOff((await answer.text()).slice(0, 10)) : answer;
      },
    });
    await using posting = bot("post", front.url.href, WRITE_TOKEN);
    await posting.has(1, "posted");
    expect([sent, ...posting.told]).toEqual([3, { posted: [4_001, 4_002] }]);
    expect((await reader(at.url).latest()).headId).toBe(4_002);
  });

  test.concurrent("waits as long as a 429 says", async () => {
    using fake = fakeArgo(3);
    fake.next.push(() => new Response(null, { status: 429, headers: { "Retry-After": "1" } }));
    await using calling = bot("calls", fake.url, READ_TOKEN);
    await calling.has(1, "head");
    const [first = 0, second = 0] = fake.requests.map(({ atMs }) => atMs);
    expect(second - first).toBeGreaterThanOrEqual(995);
  });

  test.concurrent("what is no answer of this server's is told as that", async () => {
    const fetch = () => Response.json({ something: "else" });
    using other = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch });
    await using calling = bot("foreign", other.url.href, READ_TOKEN);
    await calling.has(4, "error");
    for (const said of calling.of("error")) expect(said).toContain("answered by something else");
  });

  test.concurrent("an answer that trickles is given up at the deadline", async () => {
    using slow = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: () =>
        new Response(
          new ReadableStream({
            async pull(controller) {
              await Bun.sleep(50);
              controller.enqueue(new TextEncoder().encode(" "));
            },
          }),
        ),
    });
    await using calling = bot("trickle", slow.url.href, READ_TOKEN);
    await calling.has(1, "after");
    expect(Number(calling.of("after")[0])).toBeLessThan(3);
    await slow.stop(true);
  });
});
