import { isIP } from "node:net";
import { type Config, isLoopback } from "../config";
import { AppError } from "../errors";
import type { Exchange } from "./exchange";

/** Headers of every full answer. Browsers ignore HSTS over plain HTTP (RFC 6797 §8.1). */
export const secureHeaders: Readonly<Record<string, string>> = {
  "Strict-Transport-Security": "max-age=31536000",
  "X-Content-Type-Options": "nosniff",
  "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/**
 * Lets pass who is no browser, this server's own pages, and those of the allowlist: a WebSocket is
 * opened by any page, whatever CORS says (H4). @throws AppError 403.
 */
export function mustBeOwnOrigin({ corsOrigins }: Config, headers: Headers): void {
  const origin = headers.get("origin");
  if (origin === null || corsOrigins.has(origin)) return;
  if (URL.canParse(origin) && new URL(origin).host === headers.get("host")) return;
  throw new AppError("forbidden", "Pages of this origin may not open a WebSocket here.");
}

const exposed = [
  "ETag",
  "Signal-Head",
  "Signal-Gap",
  "RateLimit",
  "RateLimit-Policy",
  "X-RateLimit-Limit",
  "X-RateLimit-Remaining",
  "X-RateLimit-Reset",
  "Retry-After",
  "X-Request-Id",
  "Idempotency-Replayed",
  "Content-Disposition",
].join(", ");

const allowed = [
  "Authorization",
  "Content-Type",
  "If-None-Match",
  "Idempotency-Key",
  "Last-Event-ID",
  "X-Request-Id",
  "X-Requested-With",
].join(", ");

/** Lets a listed origin read the answer; does nothing for any other. */
export function allowOrigin(config: Config, origin: string | null, headers: Headers): void {
  if (origin === null || !config.corsOrigins.has(origin)) return;
  headers.set("Access-Control-Allow-Origin", origin);
  headers.set("Access-Control-Expose-Headers", exposed);
}

/** Answers a preflight; without the allowing headers for an origin that is not listed. */
export function preflight(config: Config, request: Request): Response {
  const headers = new Headers({ Vary: "Origin", "Cache-Control": "no-store" });
  const origin = request.headers.get("origin");
  if (origin !== null && config.corsOrigins.has(origin)) {
    headers.set("Access-Control-Allow-Origin", origin);
    headers.set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE");
    headers.set("Access-Control-Allow-Headers", allowed);
    headers.set("Access-Control-Max-Age", "600");
  }
  return new Response(null, { status: 204, headers });
}

/** True when the client takes gzip (RFC 9110 §12.5.3; a weight of zero refuses it). */
export function acceptsGzip(acceptEncoding: string | null): boolean {
  if (acceptEncoding === null) return false;
  if (acceptEncoding === "gzip") return true;
  const weights = new Map<string, number>();
  for (const item of acceptEncoding.toLowerCase().split(",")) {
    const [coding = "", ...parameters] = item.split(";").map((part) => part.trim());
    const weight = parameters.find((parameter) => parameter.startsWith("q="));
    weights.set(coding, weight === undefined ? 1 : Number(weight.slice(2)));
  }
  return (weights.get("gzip") ?? weights.get("x-gzip") ?? weights.get("*") ?? 0) > 0;
}

/**
 * The client's address: the socket's, or the one that the nearest `trustProxyHops` proxies
 * vouch for, counted from the right of X-Forwarded-For. What stands further left is hearsay.
 */
export function clientAddress(config: Config, request: Request, exchange: Exchange): string {
  const socket = exchange.server?.requestIP(exchange.carrier)?.address ?? "127.0.0.1";
  const hops = config.trustProxyHops;
  if (hops === 0) return socket;
  const chain = (request.headers.get("x-forwarded-for") ?? "")
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "");
  const claimed = chain[Math.max(0, chain.length - hops)];
  return claimed !== undefined && isIP(claimed) !== 0 ? claimed : socket;
}

/** The part of an address that one client controls: IPv4 whole, IPv6 by /64. */
export function addressKey(address: string): string {
  const plain = address.split("%", 1)[0] ?? "";
  if (!plain.includes(":") || isIP(plain) !== 6) return plain;
  // The URL parser writes an address in one way alone: lower case, no leading zeros, no dots.
  const [head = "", tail] = new URL(`http://[${plain}]`).hostname.slice(1, -1).split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? 0 : 8 - left.length - right.length;
  const groups = [...left, ...Array<string>(zeros).fill("0"), ...right];
  if (groups.slice(0, 6).join(":") === "0:0:0:0:0:ffff") return mapped(groups.slice(6));
  return `${groups.slice(0, 4).join(":")}::/64`;
}

/** An IPv4 address inside an IPv6 one. */
function mapped(groups: string[]): string {
  const bytes = groups.flatMap((group) => {
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 255];
  });
  return bytes.join(".");
}

const forwarding = new Set([
  "forwarded",
  "via",
  "x-real-ip",
  "x-client-ip",
  "x-original-forwarded-for",
  "x-envoy-external-address",
  "true-client-ip",
  "cf-connecting-ip",
  "fly-client-ip",
]);

/**
 * True when the request was made by this machine for this machine: through no proxy, and under a
 * name that leads here. A page elsewhere may have its own name lead here (DNS rebinding).
 */
export function isLocal(config: Pick<Config, "trustProxyHops">, headers: Headers): boolean {
  const host = (headers.get("host") ?? "localhost").replace(/:\d+$/, "");
  return config.trustProxyHops === 0 && isLoopback(host) && !wasForwarded(headers);
}

/** True when the request came through a proxy, whatever the proxy calls itself. */
function wasForwarded(headers: Headers): boolean {
  for (const name of headers.keys()) {
    if (forwarding.has(name) || name.startsWith("x-forwarded-")) return true;
  }
  return false;
}
