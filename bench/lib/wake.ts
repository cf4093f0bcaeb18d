import { Connection, requestBytes } from "./connection";

const connectionsCount = 8;
const wakeMs = 250;

/**
 * Sends a little load before a round is timed. Between its rounds a server lies idle while the
 * others have theirs, and a machine may take its pages and its clock speed away meanwhile.
 */
export async function wake(url: string, headers: Record<string, string>): Promise<void> {
  const { port, pathname, search } = new URL(url);
  const request = requestBytes("GET", pathname + search, headers);
  const end = performance.now() + wakeMs;
  const lane = async () => {
    const connection = await Connection.open(Number(port));
    do {
      await connection.ask(request);
    } while (performance.now() < end);
    connection.close();
  };
  await Promise.all(Array.from({ length: connectionsCount }, lane));
}
