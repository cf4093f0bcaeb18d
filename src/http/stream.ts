/**
 * Texts as a body that is made while it is sent: the next one is asked for when the last is gone.
 * @param begun what comes before them.
 */
export function streamOf(texts: AsyncGenerator<string>, begun = ""): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let first = begun;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        if (first !== "") {
          controller.enqueue(encoder.encode(first));
          first = "";
          return;
        }
        const { done, value } = await texts.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
      cancel: async () => void (await texts.return(undefined)),
    },
    { highWaterMark: 0 },
  );
}
