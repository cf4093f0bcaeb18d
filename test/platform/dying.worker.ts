/** A thread for the test of threads: echoes, dies, ends. */
import { serveThread } from "../../src/platform/thread.ts";

serveThread((name: string) => ({
  echo: (value: unknown) => [name, value],
  throw: () => {
    setTimeout(() => {
      throw new Error("thrown where nobody catches it");
    });
    return new Promise(() => undefined);
  },
  exit: () => process.exit(3),
  silence: () => new Promise(() => undefined),
  close: () => undefined,
}));
