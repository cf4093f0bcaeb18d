/**
 * The query behind `GET /api/signals/latest`, in the shortest form that yields the same bytes. Every
 * peer runs it on the same file, hence over the same index.
 */
export const latestSql = `SELECT id, symbol, action, confidence, entry_price AS price, entry_price,
  stop_price AS stop_loss, target_price AS take_profit, target_price, timestamp,
  coalesce(strategy, 'weighted_consensus') AS strategy, coalesce(sha256, '') AS sha256,
  (SELECT supersedes FROM argo_supersedes WHERE id = signals.id) AS supersedes
FROM signals ORDER BY timestamp DESC, id DESC LIMIT ?`;

/** The same for a peer that filters in its own language: a page of recent rows, unfiltered. */
export const recentRows = 100;
