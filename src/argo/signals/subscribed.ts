import type { Cursors } from "../../http/cursor";
import { parseQuery } from "../../http/validate";
import type { Question } from "./answers";
import { listFilter, placeAfter, showPage } from "./list";
import { subscribedQuery } from "./schema";
import type { Horizon } from "./views";

/** Understands what is asked of an account's own view. Later pages are asked for once. */
export function askSubscribed(
  pageSizeMax: number,
  cursors: Cursors,
): (search: string, horizon: Horizon) => Question {
  const schema = subscribedQuery(pageSizeMax);
  return (search, horizon) => {
    const { cursor, limit, ...query } = parseQuery(schema, search);
    const filter = listFilter(query);
    const bound = JSON.stringify(["subscribed", filter, horizon.name]);
    return {
      key: cursor === undefined ? JSON.stringify([limit, query]) : null,
      walk: {
        filter,
        limit: limit + 1,
        skip: 0,
        after: placeAfter(cursor, bound, cursors),
        received: true,
      },
      show: (rows) => {
        const page = showPage(rows, limit, bound, cursors);
        return { body: page, shown: page.signals };
      },
    };
  };
}
