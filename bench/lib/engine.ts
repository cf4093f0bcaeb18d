import { engineScript } from "./paths";

export type Committed = { id: number; sha256: string };

/**
 * The outside writer: the old engine's stand-in, one commit per signal. It prints each id once the
 * commit has returned; `onCommitted` gets them as they come.
 */
export class Engine {
  /** Highest id that is known to be committed; 0 before the first. */
  committedId = 0;
  commits = 0;
  #process: Bun.Subprocess<"ignore", "pipe", "pipe"> | null = null;
  #expectedToEnd = false;

  constructor(
    readonly db: string,
    readonly commitsPerSecond: number,
    readonly onCommitted: () => void = () => undefined,
    /** Core to run on; without one it shares that of whoever starts it. */
    readonly core?: number,
  ) {}

  /** Starts writing, and returns after the first commit. */
  async start(): Promise<void> {
    this.#expectedToEnd = false;
    const before = this.commits;
    const started = this.#spawn();
    while (this.commits === before) {
      if (started.exitCode !== null) throw new Error("the engine ended before its first commit");
      await Bun.sleep(5);
    }
  }

  /** kill -9, as when the machine's owner or the kernel ends it in the middle of a commit. */
  async kill(): Promise<void> {
    this.#expectedToEnd = true;
    this.#process?.kill("SIGKILL");
    await this.#process?.exited;
  }

  #spawn(): Bun.Subprocess<"ignore", "pipe", "pipe"> {
    const pin = this.core === undefined ? [] : ["taskset", "-c", String(this.core)];
    const command = [
      ...pin,
      "python3",
      engineScript,
      "live",
      "--db",
      this.db,
      "--rate",
      String(this.commitsPerSecond),
      "--seconds",
      "86400",
    ];
    const started = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    this.#process = started;
    void this.#follow(started);
    return started;
  }

  async #follow(started: Bun.Subprocess<"ignore", "pipe", "pipe">): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of started.stdout) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      const last = lines.at(-1);
      if (last === undefined) continue;
      this.commits += lines.length;
      this.committedId = Number(last.slice(0, last.indexOf(" ")));
      this.onCommitted();
    }
    if (!this.#expectedToEnd) {
      const words = await new Response(started.stderr).text();
      // Between two looks at the clock its next commit may fall due: it then sleeps a negative time.
      if (words.includes("sleep length must be non-negative")) {
        this.#spawn();
        return;
      }
      throw new Error(`the engine ended by itself: ${words.trim().split("\n").at(-1) ?? ""}`);
    }
  }
}
