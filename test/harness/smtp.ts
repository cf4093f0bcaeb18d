/** A mail server that keeps what it is given, and fails on demand. */
import type { AddressInfo } from "node:net";
import PostalMime from "postal-mime";
import { SMTPServer, type SMTPServerOptions } from "smtp-server";
import { until } from "./process.ts";

export interface Mail {
  /** The envelope: who it was sent by and for, whatever its headers say. */
  from: string;
  to: string[];
  subject: string;
  /** Decoded; empty when there is none. */
  text: string;
  html: string;
  /** As it came. */
  raw: string;
}

/**
 * What the server does with a mail: takes it, answers a code such as 451 (later) or 550 (never),
 * says nothing at all, or hangs up.
 */
export type SmtpFault = null | number | "silent" | "hangup";

export interface SmtpSink extends AsyncDisposable {
  /** `smtp://127.0.0.1:…`, with the credentials it asks for. */
  url: string;
  host: string;
  port: number;
  /** The mails taken so far, the oldest first. */
  mails(): Mail[];
  /** The newest mail for an address, which may still be under way. */
  mailFor(address: string, waitMsMax?: number): Promise<Mail>;
  clear(): void;
  /** From now on. */
  fail(fault: SmtpFault): void;
}

export interface SmtpOptions {
  /** Credentials that it asks for; without them it takes mail of anybody. */
  auth?: { user: string; pass: string };
}

/** Listens on a free port of 127.0.0.1, without TLS. */
export async function smtp({ auth }: SmtpOptions = {}): Promise<SmtpSink> {
  const mails: Mail[] = [];
  let fault: SmtpFault = null;

  const take: SMTPServerOptions["onData"] = (stream, session, callback) => {
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      const raw = Buffer.concat(chunks);
      PostalMime.parse(raw).then((mail) => {
        mails.push({
          from: session.envelope.mailFrom === false ? "" : session.envelope.mailFrom.address,
          to: session.envelope.rcptTo.map((rcpt) => rcpt.address),
          subject: mail.subject ?? "",
          text: mail.text ?? "",
          html: mail.html ?? "",
          raw: raw.toString(),
        });
        callback();
      }, callback);
    });
  };
  const server = new SMTPServer({
    disabledCommands: auth === undefined ? ["STARTTLS", "AUTH"] : ["STARTTLS"],
    authMethods: ["PLAIN", "LOGIN"],
    allowInsecureAuth: true,
    authOptional: auth === undefined,
    disableReverseLookup: true,
    closeTimeout: 100,
    logger: false,
    onAuth({ username, password }, _session, callback) {
      const known = username === auth?.user && password === auth?.pass;
      callback(known ? null : new Error("Invalid credentials"), { user: username });
    },
    onMailFrom(_address, session, callback) {
      if (fault === null) return callback();
      if (typeof fault === "number") return callback(answer(fault));
      if (fault === "hangup") {
        for (const each of server.connections) if (each.session === session) each.close();
      }
    },
    onData: take,
  });
  // A client that is gone is no fault of the test's server.
  server.on("error", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));

  const { port } = server.server.address() as AddressInfo;
  const user =
    auth === undefined ? "" : `${encodeURIComponent(auth.user)}:${encodeURIComponent(auth.pass)}@`;
  const newest = (address: string): Mail | undefined =>
    mails.findLast((mail) => mail.to.includes(address));
  return {
    url: `smtp://${user}127.0.0.1:${port}`,
    host: "127.0.0.1",
    port,
    mails: () => [...mails],
    async mailFor(address, waitMsMax) {
      await until(() => newest(address) !== undefined, `a mail for ${address}`, waitMsMax);
      return newest(address)!;
    },
    clear: () => void (mails.length = 0),
    fail: (next) => void (fault = next),
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

function answer(responseCode: number): Error {
  return Object.assign(new Error("The test wants it so"), { responseCode });
}
