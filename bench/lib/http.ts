export type Captured = { body: string; headers: Record<string, string>; status: number };

/** One plain request, as a client of no special kind would send it. */
export async function get(url: string, headers: Record<string, string> = {}): Promise<Captured> {
  const answer = await fetch(url, {
    headers: { "accept-encoding": "identity", connection: "close", ...headers },
    signal: AbortSignal.timeout(10_000),
  });
  return {
    status: answer.status,
    body: await answer.text(),
    headers: Object.fromEntries(answer.headers),
  };
}

/** Waits until the URL answers 200; fails after `timeoutMs`, or once the server has `ended`. */
export async function untilReady(
  url: string,
  headers: Record<string, string>,
  ended: Promise<number>,
  timeoutMs = 60_000,
): Promise<void> {
  let code: number | undefined;
  void ended.then((exitCode) => (code = exitCode));
  const deadline = performance.now() + timeoutMs;
  let last = "no answer";
  while (performance.now() < deadline) {
    try {
      const { status } = await get(url, headers);
      if (status === 200) return;
      last = `status ${status}`;
    } catch (error) {
      last = String(error);
    }
    if (code !== undefined) {
      throw new Error(`the server ended with ${code}: bench/.cache/logs has its words`);
    }
    await Bun.sleep(50);
  }
  throw new Error(`${url} is not ready after ${timeoutMs} ms: ${last}`);
}

/** Headers that the HTTP library of each server sends by itself and that nobody may set twice. */
const ownHeaders = new Set([
  "date",
  "content-length",
  "connection",
  "keep-alive",
  "transfer-encoding",
]);

/** The headers of an answer that another server can be told to send as well. */
export function repeatableHeaders(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => !ownHeaders.has(name.toLowerCase())),
  );
}
