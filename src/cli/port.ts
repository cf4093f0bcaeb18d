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
