import { AppError } from "../errors";

/** What somebody may see of the signals. There is one object for each that differs. */
export type View = {
  /** Signals of confidence 95 and above. */
  readonly premium: boolean;
  /** How long after its arrival a signal is withheld. */
  readonly delaySeconds: number;
};

/** How often somebody may come, and by which name the headers of limits call that. */
export type Quota = { readonly name: string; readonly limit: number };

/** The longest delay that a plan may have. */
export const delaySecondsMax = 30 * 86_400;

/** What a plan gives. The object of a plan stays and is changed in place: whoever holds it is told. */
export type Entitlement = {
  view: View;
  /** Reads of signals in a minute. */
  quota: Quota;
  streamsMax: number;
  webhooksMax: number;
  /** How far back the journal of deliveries reaches; null: without end. */
  historyDays: number | null;
  export: boolean;
};

const views = new Map<string, View>();

/** The one object of this view. */
export function viewOf(premium: boolean, delaySeconds: number): View {
  const key = `${premium} ${delaySeconds}`;
  const held = views.get(key);
  if (held) return held;
  const made: View = Object.freeze({ premium, delaySeconds });
  views.set(key, made);
  return made;
}

/** Everything at once: of open reading, of the operator's tokens and of administrators. */
export const fullView = viewOf(true, 0);

/** By this a process without signals of its own says whose eyes it reads with, and is told so back. */
export const viewHeader = "Argo-View";

export const viewText = ({ premium, delaySeconds }: View): string =>
  `premium=${premium}, delay_seconds=${delaySeconds}`;

/** @throws AppError 400 for what `viewText` would not write. */
export function viewFrom(text: string): View {
  const parts = /^premium=(true|false), delay_seconds=(0|[1-9]\d{0,8})$/.exec(text);
  if (parts) return viewOf(parts[1] === "true", Number(parts[2]));
  throw new AppError("bad_request", `The request is not valid: ${viewHeader}.`, {
    errors: [{ field: viewHeader, detail: "must be such as premium=false, delay_seconds=900" }],
  });
}
