import { parseQuery } from "../../http/validate";
import type { Question } from "./answers";
import { PREMIUM_CONFIDENCE } from "./layout";
import { latestQuery } from "./schema";

/** Understands what is asked of the newest signals. */
export function askLatest(pageSizeMax: number): (search: string) => Question {
  const schema = latestQuery(pageSizeMax);
  return (search) => {
    const query = parseQuery(schema, search);
    const { symbol, strategy, limit, offset: skip } = query;
    const floor = query.premium_only ? PREMIUM_CONFIDENCE : 0;
    const minConfidence = Math.max(query.min_confidence ?? 0, floor);
    const filter = { symbol, strategy, minConfidence };
    return {
      key: JSON.stringify(query),
      walk: { filter, limit, skip, after: null, received: false },
      show: (rows) => ({ body: rows, shown: rows }),
    };
  };
}
