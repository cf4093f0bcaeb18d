/**
 * The parts of a text between separators, as they come; what follows the last one is none. When it
 * is stopped, by who reads it or by the signal, the body is cancelled.
 */
export async function* linesOf(
  body: ReadableStream<Uint8Array>,
  separator: string,
  signal?: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  const reader = body.getReader();
  const cancel = (): void => void reader.cancel().catch(() => undefined);
  signal?.addEventListener("abort", cancel, { once: true });
  const decoder = new TextDecoder();
  let begun = "";
  try {
    for (;;) {
      if (signal?.aborted) return;
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (begun + decoder.decode(value, { stream: true })).split(separator);
      begun = parts.pop() ?? "";
      yield* parts;
    }
  } finally {
    signal?.removeEventListener("abort", cancel);
    cancel();
  }
}
