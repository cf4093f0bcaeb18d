import type { Scope } from "./guard";

/** What a route asks for: a scope, or beside it a plan by which signals are read. */
export type Right = Scope | "plan";

const rights = new WeakMap<object, Right>();

/** Notes what a handler asks for, so that the API's description says what is enforced. */
export function asking<H extends object>(right: Right, handler: H): H {
  rights.set(handler, right);
  return handler;
}

/** Undefined for a handler that asks for nothing. */
export const rightOf = (handler: object): Right | undefined => rights.get(handler);
