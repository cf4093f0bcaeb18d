/** An argo and an alpine apart, as operators run them: two processes and a link between them. */
import { copyFileSync } from "node:fs";
import {
  serveAccounts,
  type Backend,
  type Program,
  type ServedAccounts,
} from "../harness/accounts.ts";
import { LEGACY, READ_TOKEN, SERVICE_TOKEN, WRITE_TOKEN } from "../harness/app.ts";
import { freePort, startServer, tempDir, type Server } from "../harness/process.ts";
import { tcpProxy, type TcpProxy } from "../harness/proxy.ts";

export interface Split extends AsyncDisposable {
  alpine: ServedAccounts;
  argo: Server;
  /** Between the two. */
  link: TcpProxy;
  /** The signal file. */
  db: string;
  /** Ends argo as a crash would, and brings it back on its port. */
  killArgo(): Promise<void>;
  startArgo(): Promise<void>;
}

/** Opens both; they go with their scope. */
export async function openSplit(
  backend: Backend = "postgres",
  env: Record<string, string> = {},
  program: Program = "source",
): Promise<Split> {
  await using cleanup = new AsyncDisposableStack();
  const dir = cleanup.use(tempDir());
  const db = dir.file("signals.db");
  copyFileSync(LEGACY, db);
  // One that nobody is given while it is away.
  const port = freePort();
  const start = (): Promise<Server> =>
    startServer({
      role: "argo",
      cwd: dir.path,
      env: {
        PORT: `${port}`,
        SIGNALS_DB: db,
        SIGNALS_ACCESS: "key",
        ARGO_READ_TOKEN: READ_TOKEN,
        ARGO_SERVICE_TOKEN: SERVICE_TOKEN,
        ARGO_WRITE_TOKEN: WRITE_TOKEN,
        SHUTDOWN_DELAY_SECONDS: "0",
      },
    });
  let argo = await start();
  cleanup.defer(() => argo[Symbol.asyncDispose]());
  const link = cleanup.use(await tcpProxy({ port }));
  const given = {
    ARGO_URL: `http://127.0.0.1:${link.port}`,
    ARGO_SERVICE_TOKEN: SERVICE_TOKEN,
    SIGNALS_ACCESS: "key",
    ...env,
  };
  const alpine = cleanup.use(await serveAccounts(program, backend, given, "alpine"));
  const whole = cleanup.move();
  return {
    alpine,
    get argo() {
      return argo;
    },
    link,
    db,
    async killArgo() {
      argo.kill();
      await argo.exited;
    },
    async startArgo() {
      argo = await start();
    },
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}
