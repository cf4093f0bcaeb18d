import { readlinkSync } from "node:fs";
import { setPriority } from "node:os";
import { serveThread } from "../../platform/thread";
import type { PasswordCost } from "./passwords";

const lowest = 19;

/** A hash costs as much as a thousand polls: whoever asks for one waits, not they. */
function yieldToPolls(): void {
  try {
    const thread = /\d+$/.exec(readlinkSync("/proc/thread-self"))?.[0];
    if (thread !== undefined) setPriority(Number(thread), lowest);
  } catch {
    // No Linux, or not allowed: hashing then competes as an equal.
  }
}

serveThread((cost: PasswordCost) => {
  yieldToPolls();
  return {
    hash: (password: string) => Bun.password.hashSync(password, { algorithm: "argon2id", ...cost }),
    verify: ({ password, hash }: { password: string; hash: string }) =>
      Bun.password.verifySync(password, hash),
    close: () => null,
  };
});
