import { backends, serveAccounts, type Program } from "../harness/accounts.ts";
import { testMatrix } from "./matrix.ts";

/** The same matrix against servers as operators run them. */
for (const program of ["source", "binary"] satisfies Program[]) {
  for (const backend of backends) {
    const open = () => serveAccounts(program, backend, { SIGNALS_ACCESS: "key" });
    testMatrix(`${program} on ${backend}`, open, 200);
  }
}
