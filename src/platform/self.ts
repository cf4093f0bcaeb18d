/** The words that start this program once more: from source, or the compiled binary. */
export function self(): string[] {
  return Bun.main.startsWith("/$bunfs/")
    ? [process.execPath]
    : [process.execPath, Bun.fileURLToPath(new URL("../main.ts", import.meta.url))];
}
