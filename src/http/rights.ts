import type { Scope } from "./guard";

const rights = new WeakMap<object, Scope>();

/** Notes which scope a handler asks for, so that the API's description says what is enforced. */
export function asking<H extends object>(scope: Scope, handler: H): H {
  rights.set(handler, scope);
  return handler;
}

/** Undefined for a handler that asks for none. */
export const scopeOf = (handler: object): Scope | undefined => rights.get(handler);
