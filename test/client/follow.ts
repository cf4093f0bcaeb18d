import type { Argo, SignalStream, StreamNotice } from "../../client/src/index.ts";

/** What a bot does: reads on and on, and notes what it was given. */
export interface Follower extends AsyncDisposable {
  ids: number[];
  notices: StreamNotice[];
  stream: SignalStream;
  /** Why connections were lost so far. */
  drops(): string[];
  /** Rejects with what ended it. */
  done: Promise<void>;
}

/** Starts one; it ends with its scope. */
export function follow(argo: Argo, ...[filters, options]: Parameters<Argo["stream"]>): Follower {
  const stop = new AbortController();
  const ids: number[] = [];
  const notices: StreamNotice[] = [];
  const onNotice = (notice: StreamNotice): void => void notices.push(notice);
  const stream = argo.stream(filters, { ...options, signal: stop.signal, onNotice });
  const read = async (): Promise<void> => {
    for await (const { id } of stream) {
      ids.push(id);
      if (stream.cursor !== id) throw new Error(`${id} was given at cursor ${stream.cursor}`);
    }
  };
  const done = read();
  done.catch(() => undefined);
  return {
    ids,
    notices,
    stream,
    drops: () => notices.flatMap((one) => (one.type === "dropped" ? [one.reason] : [])),
    done,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await done.catch(() => undefined);
    },
  };
}
