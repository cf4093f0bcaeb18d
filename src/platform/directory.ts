import { mkdirSync, statSync } from "node:fs";
import { SetupError } from "../errors";

/** Makes a directory of our own, and those above it. @throws SetupError */
export function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (cause) {
    throw new SetupError(
      `${path} cannot be made.`,
      "Make it writable for this user, or choose another with --data-dir or --db.",
      { cause },
    );
  }
}

/** What tells one file from another under the same name; null while there is none. Opens nothing. */
export function fileId(path: string): string | null {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat ? `${stat.dev}:${stat.ino}` : null;
}
