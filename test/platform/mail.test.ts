import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import type { AddressInfo } from "node:net";
import pino from "pino";
import { SMTPServer } from "smtp-server";
import { Outbox, type Mail, type OutboxOptions } from "../../src/platform/mail.ts";
import { freePort } from "../harness/process.ts";
import { smtp, type SmtpSink } from "../harness/smtp.ts";

const credentials = { user: "us@er", pass: "CANARY p:/ss" };
let sink: SmtpSink;
beforeAll(async () => {
  sink = await smtp({ auth: credentials });
});
afterAll(() => sink[Symbol.asyncDispose]());
beforeEach(() => {
  sink.fail(null);
  sink.clear();
});

type Line = { level: number; msg: string } & Record<string, unknown>;

function outbox(options: Partial<OutboxOptions> = {}) {
  const lines: Line[] = [];
  const log = pino(
    { level: "trace", base: undefined },
    {
      write: (line: string) => void lines.push(JSON.parse(line) as Line),
    },
  );
  const common = { smtpUrl: sink.url, from: "Argo <argo@example.com>", showLinks: false };
  const box = new Outbox({ ...common, log, timeoutMs: 2_000, ...options });
  return { box, lines };
}

const mail = (more: Partial<Mail> = {}): Mail => ({
  to: "ada@example.com",
  subject: "Hello",
  text: "A line.\n",
  ...more,
});
const post = (box: Outbox, more: Partial<Mail> = {}): void =>
  box.post(() => Promise.resolve(mail(more)));

test("a mail arrives as it was written, long lines and all letters", async () => {
  const { box, lines } = outbox();
  await using _ = box;
  const text = `Grüße, 株!\n\nhttps://example.com/#verify-email=${"x".repeat(200)}\n.\nFrom here\n`;
  post(box, { text, subject: "Grüße" });
  const got = await sink.mailFor("ada@example.com");
  expect(got).toMatchObject({
    from: "argo@example.com",
    to: ["ada@example.com"],
    subject: "Grüße",
    html: "",
  });
  expect(got.text.trimEnd()).toBe(text.trimEnd());
  expect(got.raw).toContain("Auto-Submitted: auto-generated");
  expect(lines).toEqual([]);
});

test("nothing that is put into an address or a subject becomes a header or a recipient", async () => {
  const { box, lines } = outbox();
  await using _ = box;
  const subject = "Hello\r\nBcc: eve@example.com\r\n\r\nInjected";
  post(box, { subject });
  await box.idle();
  for (const to of [
    "ada@example.com\r\nRCPT TO:<eve@example.com>",
    "ada@example.com, eve@example.com",
    "ada@example.com>\r\nBcc: eve@example.com",
    '"eve@example.com, x"@example.com',
  ]) {
    post(box, { to });
  }
  await box.idle();
  for (const got of sink.mails()) {
    expect(got.to.length).toBe(1);
    expect(got.to).not.toContain("eve@example.com");
    expect(got.raw.split("\r\n\r\n")[0]).not.toMatch(/^(bcc|cc): /im);
  }
  expect(sink.mails().length + lines.length).toBe(5);
});

test("work that makes no mail sends none; work that fails is logged", async () => {
  const { box, lines } = outbox();
  await using _ = box;
  box.post(() => Promise.resolve(null));
  box.post(() => Promise.reject(new Error("CANARY")));
  await box.idle();
  expect(sink.mails()).toEqual([]);
  expect(lines).toMatchObject([{ msg: "mail not sent", reason: "Error" }]);
  expect(JSON.stringify(lines)).not.toContain("CANARY");
});

test.each([451, 550, "silent", "hangup"] as const)(
  "a server that answers %p costs a mail and a line without the address",
  async (fault) => {
    const { box, lines } = outbox({ timeoutMs: fault === "silent" ? 1_500 : 30_000 });
    await using _ = box;
    sink.fail(fault);
    const begun = performance.now();
    post(box);
    await box.idle();
    expect(performance.now() - begun).toBeLessThan(10_000);
    expect(lines.length).toBe(1);
    expect(lines[0]).toMatchObject({ level: 40, msg: "mail not sent" });
    const text = JSON.stringify(lines);
    for (const secret of ["ada@", "CANARY", "us@er"]) expect(text).not.toContain(secret);
    sink.fail(null);
    post(box);
    await sink.mailFor("ada@example.com");
  },
);

test("a server that is not there, and one that refuses the password, are told apart", async () => {
  const away = outbox({ smtpUrl: `smtp://127.0.0.1:${freePort()}` });
  await using _away = away.box;
  const stranger = outbox({ smtpUrl: `smtp://eve:CANARY@127.0.0.1:${sink.port}` });
  await using _stranger = stranger.box;
  post(away.box);
  post(stranger.box);
  await Promise.all([away.box.idle(), stranger.box.idle()]);
  expect(away.lines).toMatchObject([{ msg: "mail not sent", command: "CONN" }]);
  expect(stranger.lines).toMatchObject([{ msg: "mail not sent", code: "EAUTH" }]);
  expect(JSON.stringify(stranger.lines)).not.toContain("CANARY");
});

/** To this program 0.0.0.0 is another machine; to Linux it is this one. */
const remote = "0.0.0.0";

test("another machine gets nothing without TLS", async () => {
  const { box, lines } = outbox({ smtpUrl: sink.url.replace("127.0.0.1", remote) });
  await using _ = box;
  post(box);
  await box.idle();
  expect(sink.mails()).toEqual([]);
  expect(lines).toMatchObject([{ msg: "mail not sent", code: "ETLS" }]);
});

test.each(["smtps", "smtp"])(
  "%s: nor with a certificate that nobody vouches for",
  async (scheme) => {
    let taken = 0;
    let logins = 0;
    const server = new SMTPServer({
      secure: scheme === "smtps",
      logger: false,
      closeTimeout: 100,
      onAuth: (_auth, _session, callback) => {
        logins += 1;
        callback(null, { user: "user" });
      },
      onData: (stream, _session, callback) => {
        stream.resume();
        stream.on("end", () => {
          taken += 1;
          callback();
        });
      },
    });
    server.on("error", () => undefined);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
    const { port } = server.server.address() as AddressInfo;
    try {
      const far = outbox({ smtpUrl: `${scheme}://user:secret@${remote}:${port}` });
      await using _far = far.box;
      post(far.box);
      await far.box.idle();
      expect([taken, logins]).toEqual([0, 0]);
      expect(far.lines).toMatchObject([{ msg: "mail not sent" }]);
      // The same server on this machine needs no certificate.
      const near = outbox({ smtpUrl: `${scheme}://user:secret@127.0.0.1:${port}` });
      await using _near = near.box;
      post(near.box);
      await near.box.idle();
      expect(near.lines).toEqual([]);
      expect([taken, logins]).toEqual([1, 1]);
    } finally {
      await new Promise<void>((resolve) => server.close(() => resolve()));
    }
  },
);

test("without a server one line says so; in a demo each says what it would lead to", async () => {
  const link = "https://example.com/#verify-email=token";
  const none = outbox({ smtpUrl: null });
  await using _none = none.box;
  const demo = outbox({ smtpUrl: null, showLinks: true });
  await using _demo = demo.box;
  for (const { box } of [none, none, demo]) post(box, { link });
  await Promise.all([none.box.idle(), demo.box.idle()]);
  expect(none.lines).toMatchObject([{ level: 40, msg: "no mail can be sent: set SMTP_URL" }]);
  expect(JSON.stringify(none.lines)).not.toContain(link);
  // Demos log nothing below warnings.
  expect(demo.lines).toMatchObject([{ level: 40, link }]);
});

test("no more than a few hundred wait; at the end those under way are waited for, briefly", async () => {
  const { box, lines } = outbox({ endMs: 100, timeoutMs: 60_000 });
  sink.fail("silent");
  let posted = 0;
  const fill = () => {
    for (; posted < 1_000; posted += 1) post(box);
  };
  expect(fill).toThrow("Too many mails");
  expect(posted).toBe(504);
  const begun = performance.now();
  await box[Symbol.asyncDispose]();
  expect(performance.now() - begun).toBeLessThan(10_000);
  expect(lines[0]).toMatchObject({ mails: 504, msg: "mails not sent: the server stops" });
});

test("an end waits for what is under way", async () => {
  const { box, lines } = outbox();
  post(box);
  await box[Symbol.asyncDispose]();
  expect(sink.mails().length).toBe(1);
  expect(lines).toEqual([]);
});

test.each(["?tls.rejectUnauthorized=false", "?pool=true", "/path", "#x"])(
  "a URL with %p is refused, without saying what is in it",
  (more) => {
    const make = () => outbox({ smtpUrl: `smtp://user:CANARY@mail.example.com${more}` });
    expect(make).toThrow("SMTP_URL has more in it");
    expect(make).not.toThrow("CANARY");
  },
);
