import type { Config } from "../config";

const timeoutMs = 3_000;

/** Asks /readyz; 0 when traffic is welcome, 1 otherwise. For container health checks. */
export async function health(config: Config, url?: string): Promise<number> {
  const host = ["0.0.0.0", "::", "[::]"].includes(config.host) ? "127.0.0.1" : config.host;
  const given = url === undefined || url.includes("://") ? url : `http://${url}`;
  const base = given ?? `http://${host.includes(":") ? `[${host}]` : host}:${config.port}`;
  try {
    const response = await fetch(new URL("/readyz", base), {
      signal: AbortSignal.timeout(timeoutMs),
    });
    process.stdout.write(`${await response.text()}\n`);
    return response.ok ? 0 : 1;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    process.stderr.write(`argo-alpine: ${base} does not answer: ${reason}\n`);
    return 1;
  }
}
