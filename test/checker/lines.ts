/** The two ways in which signals are told as they come, as one. */
import { Events } from "../harness/events.ts";
import { Messages } from "../harness/messages.ts";
import type { Filter, WireSignal } from "./ledger.ts";

/** Something that was told; `id` is where to resume after it. */
export interface Told {
  kind: string;
  id: number;
  signal: WireSignal | null;
  /** Of an end, why. */
  reason: unknown;
}

/** An open connection. */
export interface Line extends AsyncDisposable {
  /** Null at the end, "nothing" when nothing came in time. */
  next(withinMs: number): Promise<Told | null | "nothing">;
}

export interface Asked {
  url: string;
  headers: Record<string, string>;
  filter: Filter;
  /** Everything after this id. */
  cursor: number;
}

/** What a server answered instead. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(`${status} ${text}`);
  }
}

export type Form = "stream" | "socket";

/** @throws Refused, or what the connection says. */
export const openLine = (form: Form, asked: Asked): Promise<Line> =>
  form === "stream" ? openEvents(asked) : openMessages(asked);

async function openEvents({ url, headers, filter, cursor }: Asked): Promise<Line> {
  const query = new URLSearchParams(
    Object.entries(filter).map(([name, value]): [string, string] => [name, String(value)]),
  );
  const response = await fetch(`${url}/api/signals/stream?${query.toString()}`, {
    headers: { ...headers, "Last-Event-ID": `${cursor}` },
  });
  if (response.status !== 200) throw new Refused(response.status, await response.text());
  const events = new Events(response);
  return {
    next: (withinMs) =>
      orNothing(async () => {
        const event = await events.next(withinMs);
        if (event === null) return null;
        const { event: kind, id, data } = event;
        const signal = kind === "signal" ? (data as unknown as WireSignal) : null;
        return { kind, id, signal, reason: data["reason"] };
      }),
    [Symbol.asyncDispose]: () => events[Symbol.asyncDispose](),
  };
}

async function openMessages({ url, headers, filter, cursor }: Asked): Promise<Line> {
  const messages = await Messages.open(`${url}/api/signals/ws`, headers);
  messages.send({ type: "subscribe", resume_from: cursor, ...filter });
  return {
    next: (withinMs) =>
      orNothing(async () => {
        const message = await messages.next(withinMs);
        if (message === null) return null;
        const { type: kind, id = cursor, reason } = message;
        if (kind === "error") throw new Refused(Number(message["status"]), JSON.stringify(message));
        const signal = kind === "signal" ? (message["signal"] as WireSignal) : null;
        return { kind, id, signal, reason };
      }),
    [Symbol.asyncDispose]: () => messages[Symbol.asyncDispose](),
  };
}

async function orNothing<T>(next: () => Promise<T>): Promise<T | "nothing"> {
  try {
    return await next();
  } catch (error) {
    if (error instanceof Error && error.message.endsWith(" in time")) return "nothing";
    throw error;
  }
}
