import type { Socket } from "bun";
import type { Config } from "../config";
import { SetupError } from "../errors";

/** Before anything is written: a second server on one port must leave no trace. */
export function mustBeFree({ host, port }: Pick<Config, "host" | "port">): void {
  if (port === 0) return;
  try {
    const probe = Bun.listen({ hostname: host, port, socket: { data() {} } });
    probe.stop(true);
  } catch (cause) {
    throw portTaken({ host, port }, cause);
  }
}

/**
 * Keeps a port for one supervisor until it ends: workers share theirs, also with those of another
 * one that began in the same moment. A name of Linux without a file, gone with the process.
 * @throws SetupError when another one has it.
 */
export function holdPort({ host, port }: Pick<Config, "host" | "port">): Disposable {
  if (port === 0) return { [Symbol.dispose]: () => undefined };
  const socket = { open: (other: Socket) => void other.end(), data: () => undefined };
  try {
    const held = Bun.listen({ unix: `\0argo-alpine ${host}:${port}`, socket });
    return { [Symbol.dispose]: () => held.stop(true) };
  } catch (cause) {
    throw portTaken({ host, port }, cause);
  }
}

export function portTaken(
  { host, port }: Pick<Config, "host" | "port">,
  cause: unknown,
): SetupError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  const fix =
    code === "EADDRINUSE"
      ? "Stop what uses the port, or choose another with PORT or --port."
      : code === "EACCES"
        ? "Ports below 1024 need rights of their own; choose another with PORT or --port."
        : "HOST or --host must be an address of this machine.";
  return new SetupError(`Cannot listen on ${host}:${port}${code && ` (${code})`}.`, fix, { cause });
}

/** The address under which it is reached from here. */
export const urlOf = ({ host, port }: Pick<Config, "host" | "port">): string =>
  `http://${host.includes(":") ? `[${host}]` : host}:${port}`;
