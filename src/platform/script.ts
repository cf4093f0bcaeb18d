import { createHash } from "node:crypto";
import type { Client } from "./redis";

/** A Lua script: sent as its hash, and as a whole where Redis does not know it. */
export class Script {
  readonly #sha: string;

  constructor(private readonly text: string) {
    this.#sha = createHash("sha1").update(text).digest("hex");
  }

  /** `keys` get the prefix. The reply as Redis gives it: numbers, strings, null, arrays. */
  async run(client: Client, keys: string[], args: (string | number)[]): Promise<unknown> {
    try {
      return await client.evalsha(this.#sha, keys.length, ...keys, ...args);
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith("NOSCRIPT")) throw error;
      return client.eval(this.text, keys.length, ...keys, ...args);
    }
  }
}
