import type { Result, Router } from "hono/router";
import { TrieRouter } from "hono/router/trie-router";

/**
 * Hono's router, asked once for each path that has no parameter. Its fast one refuses a word beside
 * a parameter (`/signals/hash/…` and `/signals/:id`), and a look-up in the other takes as long as
 * a cached answer, twice a request.
 */
export class KnownPaths<T> implements Router<T> {
  readonly name = "KnownPaths";
  readonly #inner = new TrieRouter<T>();
  readonly #literal = new Set<string>();
  readonly #found = new Map<string, Map<string, Result<T>>>();

  add(method: string, path: string, handler: T): void {
    this.#inner.add(method, path, handler);
    this.#found.clear();
    if (!/[:*]/.test(path)) this.#literal.add(path);
  }

  match(method: string, path: string): Result<T> {
    let found = this.#found.get(method);
    const known = found?.get(path);
    if (known) return known;
    const result = this.#inner.match(method, path);
    if (!this.#literal.has(path)) return result;
    if (!found) this.#found.set(method, (found = new Map()));
    found.set(path, result);
    return result;
  }
}
