import type { Server } from "bun";
import { createApp } from "../app";
import { type Config, isLoopback } from "../config";
import { type Deps, openDeps, type Overrides } from "../deps";
import { SetupError } from "../errors";
import { endLog } from "../platform/log";
import { version } from "../version";
import type { Peers } from "../workers/peers";
import { mustBeFree, portTaken, urlOf } from "./port";
import { untilSignal } from "./until-signal";

/** With the delay before it well under the 10 s after which Docker kills. */
const drainMs = 7_000;
/** How long accounts are waited for by one that joins others. */
const joinMs = 30_000;
/** For so long a listener stays that new connections are led past: their handshakes end with it. */
const handshakeMs = 1_000;

export type Running = AsyncDisposable & {
  url: string;
  deps: Deps;
  /** Rejects with a SetupError when what starts behind the listener never can. */
  failed: Promise<never>;
};

/**
 * Opens everything and listens.
 * @throws SetupError when the port is taken or the signal file cannot be served.
 */
export async function start(config: Config, overrides: Overrides = {}): Promise<Running> {
  // The port of workers has been looked at by their supervisor.
  const beforeWriting = () => (overrides.peers ? undefined : mustBeFree(config));
  const deps = await openDeps(config, { beforeWriting, ...overrides });
  const { log, state, peers } = deps;
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => undefined);
  // Others can answer meanwhile what this one cannot yet; but not forever.
  if (peers?.joins) {
    await Promise.race([deps.alpine?.started, peers.leave, Bun.sleep(joinMs)]).catch(
      () => undefined,
    );
  }
  await peers?.turn();
  let server: Server<unknown>;
  try {
    server = listen(config, deps);
  } catch (error) {
    await deps[Symbol.asyncDispose]();
    throw error;
  }
  const port = server.port ?? config.port;
  peers?.listening(port);
  const started = () => {
    state.started = true;
    peers?.ready();
  };
  if (deps.alpine) deps.alpine.started.then(started, (error: unknown) => failure.reject(error));
  else started();
  const url = urlOf({ ...config, port });
  if (!config.accessImplied && config.access === "open" && !isLoopback(config.host)) {
    log.warn("SIGNALS_ACCESS=open: everybody who reaches this server reads every signal");
  }
  if (config.role === "argo" && config.access === "key" && noReader(config)) {
    log.warn("a token is needed to read and there is none: set ARGO_READ_TOKEN");
  }
  const signals = config.argoUrl ?? config.signalsDb;
  if (!peers) log.info({ url, version, role: config.role, signals }, "listening");
  return {
    url,
    deps,
    failed: failure.promise,
    [Symbol.asyncDispose]: async () => {
      state.draining = true;
      // Load balancers see /readyz; clients that come on are answered and told to close.
      const delayMs = config.shutdownDelaySeconds * 1000;
      await Bun.sleep(state.replaced ? Math.max(delayMs, handshakeMs) : delayMs);
      // Else the listener would wait for them.
      (deps.argo ?? deps.remote)?.feed.drain();
      const late = setTimeout(() => void server.stop(true), drainMs);
      const stopped = server.stop();
      peers?.closed();
      await stopped;
      clearTimeout(late);
      await peers?.departing();
      await deps[Symbol.asyncDispose]();
      log.info("stopped");
      await endLog(log);
    },
  };
}

/**
 * Runs until SIGTERM, SIGINT or SIGHUP, then drains; a signal during the start is obeyed after it.
 * `worker` is null for a server of one process.
 */
export async function serve(
  config: Config,
  worker: Pick<Peers, "slot" | "joins"> | null,
): Promise<void> {
  mustSayEmbedded(config);
  const stop = untilSignal();
  // Without a listener it would end the process. It is meant for a supervisor, and sent to all.
  let replace = (): void => undefined;
  process.on("SIGUSR2", () => replace());
  const peers = worker && new (await import("../workers/peers")).Peers(worker, process);
  const running = await start(config, peers ? { peers } : {});
  const { log } = running.deps;
  if (!worker) replace = () => log.warn("SIGUSR2 replaces workers, and there are none: --workers");
  // Once for all workers.
  if (!worker || (worker.slot === 1 && !worker.joins)) {
    void tellSetup(running);
    void tellSecrets(running);
  }
  const left = peers?.leave.then(({ replaced }) => {
    running.deps.state.replaced = replaced;
  });
  try {
    await Promise.race([stop, running.failed, ...(left ? [left] : [])]);
  } catch (error) {
    await running[Symbol.asyncDispose]();
    throw error;
  }
  running.deps.log.info("draining");
  await running[Symbol.asyncDispose]();
}

/**
 * While there is no administrator, logs the link that makes one. It is the one secret that the log
 * is given: whoever starts the server reads it there, and it is good once and for 30 minutes.
 */
async function tellSetup({ url, deps }: Running): Promise<void> {
  const { alpine, config, log, now } = deps;
  if (!alpine) return;
  try {
    await alpine.started;
    const [{ offerSetup }, { baseUrl }] = await Promise.all([
      import("../alpine/admin/setup"),
      import("../alpine/auth/mails"),
    ]);
    const token = await offerSetup({ alpine, now });
    if (token === null) return;
    const link = `${baseUrl({ ...config, port: Number(new URL(url).port || 80) })}/#setup=${token}`;
    log.warn(
      { url: link },
      "no administrator yet: open the link within 30 minutes, or run argo-alpine admin create",
    );
  } catch (error) {
    // What ends the start is told by `failed`; without a link there is still the command.
    if (alpine.ready) log.warn({ reason: String(error) }, "no link for the first administrator");
  }
}

/** Says so when second factors were sealed with another secret: their users cannot log in. */
async function tellSecrets({ deps: { alpine, config, log } }: Running): Promise<void> {
  if (!alpine) return;
  try {
    await alpine.started;
    const [{ unsealed }, { secretPath }] = await Promise.all([
      import("../alpine/unsealed"),
      import("../alpine/secrets"),
    ]);
    const closed = await unsealed(alpine.db(), alpine);
    if (closed.length === 0) return;
    const fix =
      config.jwtSecrets.length === 0
        ? "set JWT_SECRET to the one that they were made with"
        : `add the one that they were made with to JWT_SECRET after a comma; one that nobody said is in ${secretPath(config)}`;
    for (const what of closed) log.warn({ fix }, `${what} cannot be read with the secrets given`);
  } catch (error) {
    if (alpine.ready) log.warn({ reason: String(error) }, "what is sealed was not looked at");
  }
}

const noReader = ({ readTokens, serviceTokens }: Config): boolean =>
  readTokens.length === 0 && serviceTokens.length === 0;

/** What is for evaluation and small set-ups must not be met by surprise in a large one. */
function mustSayEmbedded({ role, host, databaseUrl, embedded }: Config): void {
  if (role === "argo" || databaseUrl !== null || embedded || isLoopback(host)) return;
  throw new SetupError(
    `HOST ${host} is reached by other machines, and accounts would be kept in the embedded Postgres, which does not survive a power loss.`,
    "Set DATABASE_URL; or say --embedded if that will do, or --role argo to serve signals alone.",
  );
}

function listen(config: Config, deps: Deps): Server<unknown> {
  const app = createApp(deps);
  const whole = (request: Request, own: Server<unknown>) => app.fetch(request, own);
  try {
    return Bun.serve({
      hostname: config.host,
      port: config.port,
      routes: Object.fromEntries(
        app.polls.map(({ path, fetch }) => [
          path,
          {
            GET: (request: Request, own: Server<unknown>) => fetch(request, own),
            // Else Bun hands it to the one above, which would count what it does not send.
            HEAD: whole,
          },
        ]),
      ),
      fetch: whole,
      websocket: app.websocket,
      // Above our own limit, so that it is our middleware that answers, as a problem document.
      maxRequestBodySize: 128 * 1024 * 1024,
      idleTimeout: 10,
      development: false,
      // Else Bun shares the port outside of development, and a second server takes half the polls.
      reusePort: deps.peers !== null,
      error: (error) => {
        deps.log.error({ err: error }, "request failed outside the application");
        return new Response(null, { status: 500 });
      },
    });
  } catch (cause) {
    throw portTaken(config, cause);
  }
}
