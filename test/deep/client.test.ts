import { expect, test } from "bun:test";
import { READ_TOKEN } from "../harness/app.ts";
import { until } from "../harness/process.ts";
import { tcpProxy } from "../harness/proxy.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";
import { bot, noPython } from "../client/bot.ts";
import { follow } from "../client/follow.ts";
import { range, reader, serve, signals, writer } from "../client/serve.ts";

const FAULTS = 120;

test("both clients' streams through random faults give every signal once and in order", async () => {
  tellSeed();
  const random = randomNumbers();
  await using at = await serve();
  await using way = await tcpProxy({ port: at.port });
  const url = `http://127.0.0.1:${way.port}`;
  const post = writer(at.url, { deadlineMs: 60_000, timeoutMs: 2_000 });
  await using ours = follow(reader(url, { muteMs: 1_000, timeoutMs: 1_000 }), {}, { sinceId: 0 });
  await using python = noPython ? null : bot("stream", url, READ_TOKEN, "0", "1");
  let written = 0;
  let writing = true;
  const producer = (async () => {
    for (;;) {
      if (!writing) return;
      const rows = await post.post(signals(1 + Math.floor(random() * 20)));
      written = rows.at(-1)?.id ?? written;
      await Bun.sleep(random() * 20);
    }
  })();

  const faults = [
    () => way.cut(),
    () => way.blackhole(),
    () => way.delay(random() * 300),
    async () => {
      at.server().kill();
      await at.again();
    },
    async () => {
      void at.server().stop();
      await at.again();
    },
    async () => {
      process.kill(at.server().pid, "SIGSTOP");
      await Bun.sleep(random() * 1_500);
      process.kill(at.server().pid, "SIGCONT");
    },
  ];
  for (let i = 0; i < FAULTS; i += 1) {
    await faults[Math.floor(random() ** 2 * faults.length)]?.();
    await Bun.sleep(random() * 400);
    way.restore();
    await Bun.sleep(random() * 400);
  }
  writing = false;
  await producer;
  await until(() => ours.ids.at(-1) === written, "the last", 60_000);
  expect(ours.ids).toEqual(range(1, written));
  if (python) {
    await python.has(written, "signal");
    expect(python.of("signal")).toEqual(ours.ids);
  }
  console.log(`${written} signals, ${FAULTS} faults, ${ours.drops().length} drops`);
}, 600_000);
