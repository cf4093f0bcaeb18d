import { logIn, makeKey, signUp, startAccounts, startBackend } from "./accounts";
import { discard, workingCopy } from "./dataset";
import { fixedRateRound } from "./generator";
import { latestPath, portOf } from "./product";
import { Servers } from "./servers";

export const pollsPerSecond = 2_000;

/**
 * A server with accounts on a million signals, and rounds of polls with an API key at a fixed rate:
 * for what must not be felt by them. The stack ends it.
 */
export async function startPolled(stack: AsyncDisposableStack, name: string, embedded: boolean) {
  const backend = embedded ? null : stack.use(await startBackend());
  const servers = stack.use(new Servers());
  const instance = embedded ? `${name}-embedded` : name;
  const db = workingCopy(1_000_000, instance);
  servers.afterwards(() => discard(db));
  const server = servers.add(await startAccounts({ db, instance, backend }));
  const headers = await makeKey(server, await logIn(server, await signUp(server)));
  const port = portOf(server);
  const rate = { requestsPerSecond: pollsPerSecond, connections: 64 };
  const poll = (seconds: number) =>
    fixedRateRound({ port, path: latestPath, headers, seconds, ...rate }, server.pid);
  return { databaseUrl: backend?.databaseUrl ?? null, instance, db, server, poll };
}
