import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { PGlite } from "@electric-sql/pglite";
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";
import initial from "../../db/embedded/postgres-18.tar.zst" with { type: "file" };
import bundle from "../../node_modules/@electric-sql/pglite/dist/pglite.data" with { type: "file" };
import wasm from "../../node_modules/@electric-sql/pglite/dist/pglite.wasm" with { type: "file" };
import { SetupError } from "../errors";
import { ownDirectory } from "./lock";

const version = "18";
const zstdMagic = 0x28b52ffd;
const connectionsMax = 32;
/** An owner that was killed, or whose server was, is gone within that. */
const ownWithinMs = 250;
const ownEveryMs = 20;
const stopMs = 200;

type Options = {
  /** A directory that is there, of which this process becomes the one owner. */
  dir: string;
  /** Of the Unix socket. */
  socket: string;
  /** Ends this process before it returns: what the database does after a panic is not to be had. */
  die: (reason: string) => never;
};

/**
 * Postgres (PGlite) in this process, behind a Unix socket. Queries block the thread.
 * @throws SetupError when the directory has another owner, or holds what this cannot open.
 */
export async function servePglite(options: Options): Promise<AsyncDisposable> {
  const { dir, socket, die } = options;
  const owner = await own(dir);
  try {
    const [data, pgliteWasmModule] = await Promise.all([prepared(dir), compiled()]);
    let last = "";
    const db = await PGlite.create(data, {
      pgliteWasmModule,
      onStderr: (line) => {
        const [, severity, reason = ""] = /(PANIC|FATAL): +(.*)/.exec(line) ?? [];
        if (severity === "PANIC") die(reason);
        if (severity === "FATAL") last = reason;
        return false;
      },
      fsBundle: new Blob([await unpacked(bundle)]),
      // The default takes 128 MB of memory at once, which no small set-up fills.
      startParams: [...PGlite.defaultStartParams, "-c", "shared_buffers=24MB"],
      // Never run: the directory is made already. Without one it would be looked for on the disk.
      initdbWasmModule: new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0)),
    }).catch((cause: unknown) => {
      throw new SetupError(
        `The embedded Postgres does not start: ${last || String(cause)}`,
        `Free space on the disk of ${data}; if it is damaged, put a copy in its place.`,
        { cause },
      );
    });
    // Left behind by an owner that was killed, or taken away by one that has just ended.
    rmSync(socket, { force: true });
    mkdirSync(dirname(socket), { recursive: true, mode: 0o700 });
    const server = new PGLiteSocketServer({
      db: wholeExchanges(db, die),
      path: socket,
      maxConnections: connectionsMax,
    });
    await server.start();
    chmodSync(socket, 0o600);
    return {
      [Symbol.asyncDispose]: async () => {
        // It waits for connections to end that it does not end itself: those that are being made.
        await Promise.race([server.stop(), Bun.sleep(stopMs)]);
        await db.close();
        rmSync(socket, { force: true });
        // It may lie in the directory for temporary files.
        if (readdirSync(dirname(socket)).length === 0) rmdirSync(dirname(socket));
        owner[Symbol.dispose]();
      },
    };
  } catch (error) {
    owner[Symbol.dispose]();
    throw error;
  }
}

/** Tries for a moment: the owner before may be about to die with its server. */
async function own(dir: string): Promise<Disposable> {
  const until = performance.now() + ownWithinMs;
  for (;;) {
    try {
      return ownDirectory(dir);
    } catch (error) {
      if (!(error instanceof SetupError) || performance.now() > until) throw error;
      await Bun.sleep(ownEveryMs);
    }
  }
}

/** The data directory, unpacked at the first start; whole or not there. */
async function prepared(dir: string): Promise<string> {
  const data = join(dir, "data");
  if (existsSync(data)) {
    const found = readFileSync(join(data, "PG_VERSION"), "utf8").trim();
    if (found === version) return data;
    throw new SetupError(
      `${data} is of Postgres ${found}, and this program holds Postgres ${version}.`,
      "Start the version of this program that made it, or move the directory away.",
    );
  }
  for (const name of readdirSync(dir)) {
    if (name.startsWith("data.new")) rmSync(join(dir, name), { recursive: true });
  }
  const making = join(dir, "data.new");
  await new Bun.Archive(await unpacked(initial)).extract(making);
  renameSync(making, data);
  return data;
}

const compiled = async (): Promise<WebAssembly.Module> => WebAssembly.compile(await unpacked(wasm));

/** The files of PGlite are packed in the compiled binary alone (build.ts). */
async function unpacked(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = await Bun.file(path).bytes();
  const isPacked = new DataView(bytes.buffer).getUint32(0) === zstdMagic;
  return isPacked ? new Uint8Array(await Bun.zstdDecompress(bytes)) : bytes;
}

/** Sync and Query end an exchange; all other messages leave it open for the next of the same client. */
const endsExchange = new Set(["S", "Q", "X", "\0"].map((type) => type.charCodeAt(0)));
const syncMessage = Uint8Array.of("S".charCodeAt(0), 0, 0, 0, 4);

/**
 * What the socket server needs of PGlite. It changes clients between any two messages outside a
 * transaction, so that one would run the statement that another has just parsed; so an exchange
 * is made to look like a transaction until its end. A failure of the machine itself would leave the
 * server waiting for ever.
 */
function wholeExchanges(db: PGlite, die: Options["die"]): PGlite {
  let open = false;
  const run: PGlite["execProtocolRawStream"] = async (message, options) => {
    open = !endsExchange.has(message[0] ?? 0);
    try {
      await db.execProtocolRawStream(message, options);
    } catch (error) {
      die(String(error));
    }
  };
  const facade: Pick<
    PGlite,
    "waitReady" | "isInTransaction" | "runExclusive" | "execProtocolRawStream" | "exec"
  > = {
    waitReady: db.waitReady,
    isInTransaction: () => open || db.isInTransaction(),
    runExclusive: (work) => db.runExclusive(work),
    execProtocolRawStream: run,
    // The rollback for a client that went away in the middle.
    exec: async (text) => {
      if (open) await run(syncMessage, { onRawData: () => undefined });
      return db.exec(text);
    },
  };
  return facade as PGlite;
}
