import { SetupError } from "../errors";

/** The whole number that an option was given. @throws SetupError for anything else. */
export function wholeNumber(name: string, text: string, min: number, max: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  if (value >= min && value <= max) return value;
  throw new SetupError(
    `${name} ${text}: not a whole number from ${min} to ${max}.`,
    `Give ${name} a whole number from ${min} to ${max}.`,
  );
}
