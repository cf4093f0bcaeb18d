/** Bots on the Python client. */
import { tail, type Child } from "../harness/children.ts";
import { until } from "../harness/process.ts";
import { pythonWith } from "./python.ts";

const start = await pythonWith(["httpx==0.28.1"]);
export const noPython = typeof start === "string";
if (noPython) console.warn(`the Python client was not tried: ${start}`);

/** What a bot has told so far. */
export interface Told extends Child {
  told: Record<string, unknown>[];
  /** The values of this name that it has told. */
  of(name: string): unknown[];
  has(count: number, name: string): Promise<void>;
}

/** Starts test/client/bot.py with these words. */
export function bot(...args: string[]): Told {
  if (typeof start === "string") throw new Error(start);
  const told: Record<string, unknown>[] = [];
  const onLine = (line: string): void =>
    void told.push(JSON.parse(line) as Record<string, unknown>);
  const child = start(args, { onLine });
  const of = (name: string): unknown[] => told.flatMap((said) => (name in said ? said[name] : []));
  const has = async (count: number, name: string): Promise<void> => {
    const there = (): boolean => of(name).length >= count;
    await until(() => there() || !child.running(), `${count} of ${name}`);
    if (!there()) await child.done;
    if (!there()) throw new Error(tail(child.lines()));
  };
  return { ...child, told, of, has };
}
