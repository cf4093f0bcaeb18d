/** Resolves at the first signal. Further ones change nothing: a terminal may send one twice. */
export function untilSignal(): Promise<void> {
  return new Promise((resolve) => {
    process.on("SIGTERM", () => resolve());
    process.on("SIGINT", () => resolve());
    // The terminal was closed.
    process.on("SIGHUP", () => resolve());
  });
}
