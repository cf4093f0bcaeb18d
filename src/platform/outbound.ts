import { dns } from "bun";
import { type IncomingMessage, type RequestOptions, request as plainRequest } from "node:http";
import { request as tlsRequest } from "node:https";
import type { LookupFunction } from "node:net";
import ipaddr from "ipaddr.js";

export type OutboundOptions = {
  /** Lets this machine and private networks be asked, and plain http; never what clouds keep apart. */
  allowPrivate: boolean;
  /** All addresses of a name; the system's resolver unless said otherwise. */
  resolve?: (name: string) => Promise<string[]>;
  /** Certificates to trust instead of those of the system, PEM. */
  ca?: string;
};

export type Posted = {
  url: string;
  headers: Readonly<Record<string, string>>;
  body: string;
  timeoutMs: number;
  /** Gives it up. */
  signal?: AbortSignal;
};
export type Answer = { status: number; retryAfter: string | null };

/** Nothing came back, or nothing was sent. The message is for whoever named the address. */
export class Unanswered extends Error {
  override readonly name = "Unanswered";
}

const resolveMsMax = 5_000;
/** Of a body so much is read, for so long: it is of no interest, but a cut connection is rude. */
const bodyBytesMax = 4_096;
const bodyMsMax = 1_000;
/** What may come before a status that counts: interim answers without end would keep all else waiting. */
const headBytesMax = 65_536;
/** What is routed publicly of version 6; all else is reserved, or leads into version 4. */
const routed = ipaddr.IPv6.parseCIDR("2000::/3");

/** What is private and nothing else: not link-local, where clouds give out their credentials. */
const inside = new Set<string>(["loopback", "private", "uniqueLocal", "carrierGradeNat"]);
/** Of some clouds they are among the private ones, of one among the public. */
const metadata = new Set<string>([
  "fd00:ec2:0:0:0:0:0:254",
  "fd20:ce:0:0:0:0:0:254",
  "100.100.100.200",
  "168.63.129.16",
]);

/** True for an address that anybody on the internet could ask, or that is private where that is allowed. */
export function isAllowed(address: string, allowPrivate: boolean): boolean {
  if (!ipaddr.isValid(address)) return false;
  // One of version 4 that is written as version 6 counts as what it is.
  const parsed = ipaddr.process(address);
  if (metadata.has(parsed.toNormalizedString())) return false;
  const range = parsed.range();
  if (range !== "unicast") return allowPrivate && inside.has(range);
  return parsed instanceof ipaddr.IPv6 ? parsed.match(routed) : true;
}

/**
 * Posts to addresses that strangers name. What a name resolves to is checked when the connection is
 * made, and the connection goes to what was checked: a name that changes meanwhile leads nowhere
 * else. Redirects are answers like others, proxies of the environment are not asked.
 */
export class Outbound {
  constructor(private readonly options: OutboundOptions) {}

  /** Why nothing is sent to this URL, for whoever named it; null when it may be. */
  async fault(url: string): Promise<string | null> {
    try {
      const { host } = this.#target(url);
      if (ipaddr.isValid(host)) return null;
      const late = Promise.withResolvers<never>();
      const timer = setTimeout(() => late.reject(unresolved), resolveMsMax);
      await Promise.race([this.#addresses(host), late.promise]).finally(() => clearTimeout(timer));
      return null;
    } catch (error) {
      return reasonOf(error);
    }
  }

  /**
   * Resolves with the status that came back, whichever it is.
   * @throws Unanswered when none did in time, or nothing may be sent there.
   */
  post({ url, headers, body, timeoutMs, signal }: Posted): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    const late = AbortSignal.timeout(timeoutMs);
    const fail = (error: unknown): void => {
      const reason = late.aborted ? `no answer within ${timeoutMs / 1_000} s` : reasonOf(error);
      reject(new Unanswered(reason));
    };
    try {
      const { protocol, host, port, path } = this.#target(url);
      const options: RequestOptions & { ca?: string | undefined } = {
        method: "POST",
        host,
        port,
        path,
        // Each connection is made for this request, so that its address is checked.
        agent: false,
        lookup: this.#lookup,
        headers: { ...headers, "Content-Length": Buffer.byteLength(body), Connection: "close" },
        signal: signal ? AbortSignal.any([late, signal]) : late,
        ca: this.options.ca,
      };
      const request = protocol === "https:" ? tlsRequest(options) : plainRequest(options);
      request.on("error", fail);
      let bytes = 0;
      const count = (piece: Uint8Array): void => {
        bytes += piece.length;
        if (bytes > headBytesMax) request.destroy(new Unanswered("too much came before an answer"));
      };
      request.on("socket", (socket) => socket.on("data", count));
      request.on("response", (response) => {
        const retryAfter = response.headers["retry-after"] ?? null;
        resolve({ status: response.statusCode ?? 0, retryAfter });
        drop(response);
      });
      request.on("upgrade", (response, socket) => {
        resolve({ status: response.statusCode ?? 101, retryAfter: null });
        socket.destroy();
      });
      request.end(body);
    } catch (error) {
      fail(error);
    }
    return promise;
  }

  readonly #lookup: LookupFunction = (name, { all }, done) => {
    this.#addresses(name).then(
      (addresses) => {
        const [first] = addresses;
        if (all) done(null, addresses);
        else done(null, first?.address ?? "", first?.family);
      },
      (error: Error) => done(error, []),
    );
  };

  async #addresses(name: string): Promise<{ address: string; family: number }[]> {
    const found = await (this.options.resolve ?? resolveName)(name);
    if (found.length === 0) throw unresolved;
    // One bad address is enough: nobody has such a name by mistake alone.
    for (const address of found) this.#mustBeAllowed(address);
    return found.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
  }

  /** What to connect to, as URLs are read: an address in any spelling is one. @throws Unanswered. */
  #target(url: string): { protocol: string; host: string; port: number; path: string } {
    const { allowPrivate } = this.options;
    const parsed = URL.parse(url);
    if (!parsed) throw new Unanswered("must be a URL");
    const { protocol, pathname, search } = parsed;
    const secure = protocol === "https:";
    if (!secure && protocol !== "http:") throw new Unanswered("must begin with https://");
    if (!secure && !allowPrivate) throw new Unanswered("must begin with https://");
    if (parsed.username !== "" || parsed.password !== "") {
      throw new Unanswered("must hold no name and no password");
    }
    const host = parsed.hostname.replace(/^\[|\]$/g, "").replace(/\.$/, "");
    if (host === "") throw new Unanswered("must name a host");
    if (ipaddr.isValid(host)) this.#mustBeAllowed(host);
    else if (!allowPrivate && /(^|\.)localhost$/i.test(host)) throw notPublic;
    const port = Number(parsed.port) || (secure ? 443 : 80);
    return { protocol, host, port, path: pathname + search };
  }

  #mustBeAllowed(address: string): void {
    if (!isAllowed(address, this.options.allowPrivate)) throw notPublic;
  }
}

const notPublic = new Unanswered("must not lead to an address that is not public");
const unresolved = new Unanswered("the name of the host cannot be resolved");

/** By c-ares: the C library would keep one of few threads, which files need too, for each name that nobody answers for. */
async function resolveName(name: string): Promise<string[]> {
  try {
    return (await dns.lookup(name, { backend: "c-ares" })).map(({ address }) => address);
  } catch {
    throw unresolved;
  }
}

/** Of an error of the system the code alone: its text may name what is in here. */
function reasonOf(error: unknown): string {
  if (error instanceof Unanswered) return error.message;
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return typeof code === "string" && /^\w{1,64}$/.test(code)
    ? `cannot be reached: ${code}`
    : "cannot be reached";
}

/** Reads a little of a body and lets go of it. */
function drop(response: IncomingMessage): void {
  let bytes = 0;
  const end = (): void => {
    clearTimeout(timer);
    response.destroy();
  };
  const timer = setTimeout(end, bodyMsMax);
  timer.unref();
  response.on("data", (piece: Uint8Array) => {
    bytes += piece.length;
    if (bytes > bodyBytesMax) end();
  });
  response.on("end", end);
  response.on("error", end);
}
