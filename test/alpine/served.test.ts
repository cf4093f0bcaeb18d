import { backends, serveAccounts, type Program } from "../harness/accounts.ts";
import { ROUTES, testMatrix } from "./matrix.ts";
import { openSplit } from "./split.ts";

/** The same matrix against servers as operators run them. */
for (const program of ["source", "binary"] satisfies Program[]) {
  for (const backend of backends) {
    const open = () => serveAccounts(program, backend, { SIGNALS_ACCESS: "key" });
    testMatrix(`${program} on ${backend}`, open, 200);
  }
}

// Nothing is posted to an alpine without signals of its own, whoever asks.
testMatrix(
  "binary, apart from its argo",
  async () => {
    const { alpine, [Symbol.asyncDispose]: end } = await openSplit("postgres", {}, "binary");
    return { ...alpine, [Symbol.asyncDispose]: end };
  },
  200,
  {
    ...ROUTES,
    "POST /api/signals": ["anybody", 405],
    "POST /api/hooks/:key": ["anybody", 404],
  },
);
