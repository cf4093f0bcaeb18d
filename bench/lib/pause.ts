import { dlopen } from "bun:ffi";

const prSetTimerslack = 29;

/**
 * Returns a function that gives the core away for this many microseconds. Timers of the event loop
 * are 1 ms apart, and a loop that never sleeps would starve whatever shares the generator's core.
 */
export function pauser(microseconds: number): () => void {
  const { symbols } = dlopen("libc.so.6", {
    usleep: { args: ["u32"], returns: "i32" },
    prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
  });
  // The kernel would round every sleep up by 50 µs otherwise.
  symbols.prctl(prSetTimerslack, 1n, 0n, 0n, 0n);
  return () => {
    symbols.usleep(microseconds);
  };
}
