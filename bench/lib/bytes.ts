import { type Answer, Connection, requestBytes } from "./connection";
import { portOf } from "./product";
import type { Server } from "./peers";

/** One answer of a server as it comes over the wire. */
export async function wireAnswer(
  server: Server,
  headers: Record<string, string>,
  path = pathOf(server),
): Promise<Answer> {
  const connection = await Connection.open(portOf(server));
  try {
    return await connection.ask(requestBytes("GET", path, headers));
  } finally {
    connection.close();
  }
}

function pathOf(server: Server): string {
  const { pathname, search } = new URL(server.url);
  return pathname + search;
}
