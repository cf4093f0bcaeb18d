/**
 * Writes the client's types anew, from the document that a running server gives out:
 *
 *   bun run client:types
 */
import { join } from "node:path";
import openapiTS, { astToString } from "openapi-typescript";
import { startServer } from "../harness/process.ts";

export const TYPES = join(import.meta.dir, "../../client/src/api.ts");

/** The types of this server's routes, as they are committed. */
export async function typesOf(url: string): Promise<string> {
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as object;
  const text = astToString(await openapiTS(JSON.stringify(document)));
  const command = [process.execPath, "fmt", "--stdin-filepath=client/src/api.ts"];
  const root = join(import.meta.dir, "../..");
  const fmt = Bun.spawn(command, { cwd: root, stdin: new Blob([text]), stdout: "pipe" });
  const formatted = await fmt.stdout.text();
  if ((await fmt.exited) !== 0) throw new Error("the types could not be formatted");
  return `// Written by \`bun run client:types\` from /openapi.json.\n${formatted}`;
}

if (import.meta.main) {
  await using server = await startServer({ role: "all", args: ["--embedded"] });
  await Bun.write(TYPES, await typesOf(server.url));
}
