import { StampedHeaders } from "../../http/stamp";

/** Headers that are the same for every answer, kept as objects that can be copied fast. */
export class AnswerHeaders {
  readonly full: Headers;
  readonly unmodified: Headers;

  /** @param own headers of a full answer alone. */
  constructor(own: Readonly<Record<string, string>>) {
    const cached = {
      "Cache-Control": "private, no-cache",
      Vary: "Accept-Encoding, Origin",
    };
    this.full = new Headers({ "Content-Type": "application/json", ...own, ...cached });
    this.unmodified = new Headers(cached);
  }
}

type Content = {
  body: string | Uint8Array<ArrayBuffer>;
  etag: string;
  /** The highest id that is seen. */
  head: number;
  /** The signals that it delivers. */
  ids: readonly number[];
  encoding?: string;
};

/** One representation of an answer: its bytes and the headers that go with them. */
export class Variant {
  readonly body: Content["body"];
  readonly etag: string;
  readonly head: number;
  readonly ids: readonly number[];
  readonly full: StampedHeaders;
  #unmodified: StampedHeaders | null = null;

  constructor(
    private readonly shared: AnswerHeaders,
    private readonly content: Content,
  ) {
    const { body, etag, head, ids, encoding } = content;
    this.body = body;
    this.etag = etag;
    this.head = head;
    this.ids = ids;
    const own = this.#own();
    if (encoding !== undefined) own["Content-Encoding"] = encoding;
    this.full = new StampedHeaders(shared.full, own);
  }

  /** The same answer under another head: of signals that it does not show. */
  at(head: number): Variant {
    return new Variant(this.shared, { ...this.content, head });
  }

  /** Headers of a 304: no more than a cache needs (RFC 9110 §15.4.5). */
  get unmodified(): StampedHeaders {
    return (this.#unmodified ??= new StampedHeaders(this.shared.unmodified, this.#own()));
  }

  /** True when If-None-Match names this answer in any of its encodings (RFC 9110 §13.1.2). */
  matches(ifNoneMatch: string): boolean {
    if (ifNoneMatch === this.etag || ifNoneMatch === "*") return true;
    const tag = this.etag.replace(/(-gzip)?"$/, "");
    return ifNoneMatch.split(",").some((item) => {
      const given = item.trim().replace(/^W\//, "");
      return given === `${tag}"` || given === `${tag}-gzip"`;
    });
  }

  #own(): Record<string, string> {
    return { ETag: this.etag, "Signal-Head": String(this.head) };
  }
}
