import type { Transporter } from "nodemailer";
import { isLoopback } from "../config";
import { AppError, SetupError } from "../errors";
import type { Logger } from "./log";

export type Mail = {
  /** One address, as RFC 5321 writes it. */
  to: string;
  subject: string;
  /** Lines end in `\n`. */
  text: string;
  /** What the mail is for, where it is shown instead of sent. */
  link?: string;
};

export type OutboxOptions = {
  /** `smtp://` or `smtps://`, with the credentials; null: no mail is sent. */
  smtpUrl: string | null;
  from: string;
  /** Without a mail server, links are logged: for a server that is only tried out. */
  showLinks: boolean;
  log: Logger;
  /** For a whole mail, however slowly the server goes on. */
  timeoutMs?: number;
  /** How long an end waits for mails that are under way. */
  endMs?: number;
};

const atOnce = 4;
const waitingMax = 500;

/**
 * Sends mails after whoever caused them was answered: how long it takes tells nothing about an
 * address, and a mail server that fails is nobody's error. A mail is tried once.
 */
export class Outbox implements AsyncDisposable {
  readonly #options: OutboxOptions;
  readonly #server: Server | null;
  readonly #waiting: (() => Promise<Mail | null>)[] = [];
  readonly #working = new Set<Promise<void>>();
  readonly #ended = new AbortController();
  #transport: Promise<Transporter> | null = null;
  #warned = false;

  /** @throws SetupError for a URL with more in it than is understood. */
  constructor(options: OutboxOptions) {
    this.#options = options;
    this.#server = options.smtpUrl === null ? null : serverOf(options.smtpUrl);
  }

  /**
   * Runs the work soon and sends the mail that it makes, if any. What fails is logged.
   * @throws AppError 503 when too many wait.
   */
  post(make: () => Promise<Mail | null>): void {
    if (this.#waiting.length >= waitingMax) {
      throw new AppError("unavailable", "Too many mails wait to be sent. Try again.", {
        retryAfterSeconds: 60,
      });
    }
    this.#waiting.push(make);
    this.#next();
  }

  /** Whether there is a mail server to send to. */
  get sends(): boolean {
    return this.#server !== null;
  }

  /**
   * Sends one mail and says what became of it: `refused` is for good, `failed` may be tried again.
   * Never throws; what failed is logged.
   */
  deliver(mail: Mail): Promise<"sent" | "refused" | "failed"> {
    const work = this.#send(mail).then(
      () => "sent" as const,
      (error: unknown) => {
        this.#options.log.warn(reasonOf(error), "mail not sent");
        return isRefused(error) ? ("refused" as const) : ("failed" as const);
      },
    );
    const watched = work.then(() => {
      this.#working.delete(watched);
      this.#next();
    });
    this.#working.add(watched);
    return work;
  }

  /** Resolves once nothing waits any more. */
  async idle(): Promise<void> {
    while (this.#working.size > 0) await Promise.all(this.#working);
  }

  /** Waits for what is under way, for a few seconds. */
  async [Symbol.asyncDispose](): Promise<void> {
    const timer = setTimeout(() => {
      const mails = this.#working.size + this.#waiting.length;
      this.#options.log.warn({ mails }, "mails not sent: the server stops");
      this.#waiting.length = 0;
      this.#ended.abort();
    }, this.#options.endMs ?? 5_000);
    await this.idle();
    clearTimeout(timer);
  }

  #next(): void {
    if (this.#working.size >= atOnce) return;
    const make = this.#waiting.shift();
    if (!make) return;
    const work = this.#run(make).finally(() => {
      this.#working.delete(work);
      this.#next();
    });
    this.#working.add(work);
  }

  async #run(make: () => Promise<Mail | null>): Promise<void> {
    // The answer goes out first.
    await new Promise((resolve) => setImmediate(resolve));
    try {
      const mail = await make();
      if (mail) await this.#send(mail);
    } catch (error) {
      this.#options.log.warn(reasonOf(error), "mail not sent");
    }
  }

  async #send({ to, subject, text, link }: Mail): Promise<void> {
    const { from, log, showLinks, timeoutMs = 20_000 } = this.#options;
    if (!this.#server) {
      if (showLinks) log.warn({ subject, link }, "no mail can be sent: this is what it was for");
      else if (!this.#warned) log.warn("no mail can be sent: set SMTP_URL");
      this.#warned = true;
      return;
    }
    const transport = await (this.#transport ??= open(this.#server, timeoutMs));
    await transport.sendMail({
      from,
      // As an object it is one address, whatever is in it.
      to: { name: "", address: to },
      subject,
      text,
      headers: { "Auto-Submitted": "auto-generated" },
      signal: AbortSignal.any([this.#ended.signal, AbortSignal.timeout(timeoutMs)]),
    });
  }
}

type Server = {
  host: string;
  port: number;
  secure: boolean;
  auth: { user: string; pass: string } | undefined;
};

/** Where SMTP_URL leads. @throws SetupError for a URL with more in it than is understood. */
export function serverOf(text: string): Server {
  const url = new URL(text);
  if (url.search !== "" || url.hash !== "" || !["", "/"].includes(url.pathname)) {
    throw new SetupError(
      "SMTP_URL has more in it than a server and who logs in there.",
      "Write it as smtps://user:password@mail.example.com:465, percent-encoded where it must be.",
    );
  }
  const secure = url.protocol === "smtps:";
  const user = decodeURIComponent(url.username);
  return {
    host: url.hostname.replaceAll(/^\[|\]$/g, ""),
    port: Number(url.port) || (secure ? 465 : 587),
    secure,
    auth: user === "" ? undefined : { user, pass: decodeURIComponent(url.password) },
  };
}

/** The library is loaded when the first mail is sent. */
async function open({ host, port, secure, auth }: Server, timeoutMs: number) {
  const { createTransport } = await import("nodemailer");
  const local = isLoopback(host);
  const silenceMs = timeoutMs / 2;
  return createTransport({
    host,
    port,
    secure,
    auth,
    // Passwords and tokens leave this machine in no other way than encrypted for that server.
    requireTLS: !secure && !local,
    tls: { rejectUnauthorized: !local },
    connectionTimeout: silenceMs,
    greetingTimeout: silenceMs,
    socketTimeout: silenceMs,
    dnsTimeout: silenceMs,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
}

/** A server that will not have this mail, now or later: its recipient or what it says. */
function isRefused(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code, responseCode } = error as Error & Record<string, unknown>;
  const lasting = typeof responseCode === "number" && responseCode >= 500;
  return lasting && (code === "EENVELOPE" || code === "EMESSAGE");
}

/** What may be logged: what mail servers say names the address. */
function reasonOf(error: unknown): Record<string, unknown> {
  if (error instanceof AppError) return { reason: error.detail };
  if (!(error instanceof Error)) return {};
  const { name, code, command, responseCode } = error as Error & Record<string, unknown>;
  return { reason: name, code, command, response_code: responseCode };
}
