import { wireAnswer } from "../lib/bytes";
import { headerOf } from "../lib/connection";
import type { Bench, Context } from "../lib/context";
import { discard, workingCopy } from "../lib/dataset";
import { readHeaders, startProduct } from "../lib/product";
import { emptyResult, type Result } from "../lib/result";
import { Servers } from "../lib/servers";

export const wire: Bench = { name: "wire", title: "Bytes on the wire", run };

const bytesMax = 480;

async function run(_context: Context): Promise<Result> {
  const result = emptyResult();
  await using servers = new Servers();
  const db = workingCopy(1_000, "wire");
  servers.afterwards(() => discard(db));
  const server = servers.add(await startProduct({ kind: "serve", db, instance: "wire" }));
  const whole = await wireAnswer(server, readHeaders);
  const gzip = await wireAnswer(server, { ...readHeaders, "accept-encoding": "gzip" });
  const tag = headerOf(whole.head, "etag") ?? "";
  const unmodified = await wireAnswer(server, { ...readHeaders, "if-none-match": tag });
  const answers = [
    { name: "200, plain", answer: whole },
    { name: "200, gzip", answer: gzip },
    { name: "304", answer: unmodified },
  ];
  result.tables.push({
    title: "GET /api/signals/latest?limit=10, read from a raw socket",
    columns: ["answer", "head, bytes", "body, bytes", "all"],
    rows: answers.map(({ name, answer }) => [
      name,
      String(answer.bytes - answer.body.length),
      String(answer.body.length),
      String(answer.bytes),
    ]),
  });
  result.figures.push({
    name: "a 304 on the wire",
    target: `≤ ${bytesMax} bytes`,
    measured: `${unmodified.bytes} bytes`,
    met: unmodified.status === 304 && unmodified.bytes <= bytesMax,
  });
  if (unmodified.status !== 304) result.notes.push(`The status was ${unmodified.status}.`);
  result.notes.push(
    `The head of the 304:\n\n\`\`\`\n${unmodified.head.replaceAll("\r", "")}\n\`\`\``,
  );
  return result;
}
