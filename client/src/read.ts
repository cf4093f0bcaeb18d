import { createParser, type EventSourceMessage } from "eventsource-parser";
import { timedOut } from "./transport.ts";

export type { EventSourceMessage };

/** The longest event or line that is taken, characters. */
const lengthMax = 4 * 1024 * 1024;

/**
 * Reads a body piece by piece, each when the one before was taken: a slow reader slows the sender.
 * @throws TimeoutError when nothing comes for so long.
 */
async function* readText(
  body: ReadableStream<Uint8Array> | null,
  muteMs: number,
): AsyncGenerator<string> {
  const reader = body?.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const piece = await within(reader?.read(), muteMs);
      if (!piece || piece.done) return;
      yield decoder.decode(piece.value, { stream: true });
    }
  } finally {
    // Not awaited: a connection that is dead may never say that it is closed.
    reader?.cancel().catch(() => undefined);
  }
}

async function within<T>(promise: Promise<T> | undefined, ms: number): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(timedOut()), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** @param onRetry told how long to wait before coming back, milliseconds, when the server says so. */
export async function* readEvents(
  body: ReadableStream<Uint8Array> | null,
  muteMs: number,
  onRetry: (ms: number) => void,
): AsyncGenerator<EventSourceMessage> {
  const events: EventSourceMessage[] = [];
  const parser = createParser({
    onEvent: (event) => void events.push(event),
    onRetry,
    maxBufferSize: lengthMax,
  });
  for await (const text of readText(body, muteMs)) {
    parser.feed(text);
    yield* events.splice(0);
  }
}

/** The lines of a body that are not empty. @throws RangeError for one without an end. */
export async function* readLines(
  body: ReadableStream<Uint8Array> | null,
  muteMs: number,
): AsyncGenerator<string> {
  let rest = "";
  for await (const text of readText(body, muteMs)) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    if (rest.length > lengthMax) throw new RangeError("a line is too long");
    for (const line of lines) if (line !== "") yield line;
  }
  if (rest !== "") yield rest;
}
