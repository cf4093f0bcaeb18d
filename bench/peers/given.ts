import { readFileSync } from "node:fs";

/** What every peer is started with, as one JSON file: `bun peers/NAME.ts FILE`. */
export type Given = {
  port: number;
  /** The body and the headers that our server answered with. */
  body: string;
  headers: Record<string, string>;
  db: string;
  sql: string;
  recentRows: number;
};

/** Reads the file named on the command line. */
export function given(): Given {
  const path = process.argv[2];
  if (!path) throw new Error("name the JSON file to start with");
  return JSON.parse(readFileSync(path, "utf8")) as Given;
}
