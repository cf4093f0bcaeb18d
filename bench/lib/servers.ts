import type { Server } from "./peers";

/** The servers of one benchmark: stopped together, whatever happens. */
export class Servers {
  readonly all: Server[] = [];
  readonly #afterwards: (() => void)[] = [];

  add<S extends Server>(server: S): S {
    this.all.push(server);
    return server;
  }

  /** Registers what to do once all of them have stopped, such as removing their file. */
  afterwards(work: () => void): void {
    this.#afterwards.push(work);
  }

  async stop(server: Server): Promise<void> {
    await server.child.stop();
    this.all.splice(this.all.indexOf(server), 1);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.all.map(({ child }) => child.stop()));
    for (const work of this.#afterwards) work();
  }
}
