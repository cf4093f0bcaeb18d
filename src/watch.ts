import type { Alpine } from "./alpine/alpine";
import type { RemoteFeed } from "./alpine/signals/feed";
import type { RemoteSignals } from "./alpine/signals/remote";
import type { Argo } from "./argo/argo";
import type { SlidingWindow } from "./http/limit";
import type { SharedLimit } from "./http/share";
import { droppedLines } from "./platform/log";
import type { Metrics } from "./platform/metrics";
import type { Redis } from "./platform/redis";
import type { Aggregator } from "./platform/series";

type Watched = {
  argo: Argo | null;
  remote: { signals: RemoteSignals; feed: RemoteFeed } | null;
  alpine: Alpine | null;
  redis: Redis | null;
  limiter: SlidingWindow;
  shared: SharedLimit | null;
};

type Row = [
  type: "counter" | "gauge",
  name: string,
  help: string,
  read: () => number,
  /** Of several workers: the sum unless said otherwise. */
  aggregator?: Aggregator,
];

/** Metrics whose values somebody else keeps: read when they are scraped. */
export function watchAll(metrics: Metrics, watched: Watched): void {
  const { argo, remote, alpine, redis, limiter, shared } = watched;
  const limits = [limiter, ...Object.values(alpine?.windows ?? {})];
  const sum = (of: (limit: { asked: number; refused: number }) => number) =>
    limits.reduce((total, limit) => total + of(limit), 0);
  const rows: Row[] = [
    ["counter", "rate_limit_requests_total", "Times a limit was asked.", () => sum((l) => l.asked)],
    ["counter", "rate_limit_exceeded_total", "Times one refused.", () => sum((l) => l.refused)],
    ["counter", "argo_log_dropped_total", "Lines nobody read in time.", () => droppedLines],
  ];
  const following = (argo ?? remote)?.feed;
  if (following) {
    rows.push(
      ["gauge", "argo_streams_open", "Streams of signals.", () => following.followers],
      ["gauge", "argo_polls_waiting", "Polls that wait for a change.", () => following.watchers],
    );
  }
  if (argo) {
    const { feed, reader, writer } = argo;
    const { answers, subscribed } = argo;
    const both = (of: (held: typeof answers) => number) => of(answers) + of(subscribed);
    rows.push(
      [
        "counter",
        "argo_answers_reused_total",
        "Polls answered from bytes.",
        () => both((a) => a.reused),
      ],
      [
        "counter",
        "argo_answers_made_total",
        "Polls answered from the file.",
        () => both((a) => a.made),
      ],
      ["gauge", "argo_answers_bytes", "Bytes of answers held.", () => both((a) => a.bytes)],
      ["gauge", "argo_head_id", "Highest id in the signal file.", () => reader.head.maxId, "max"],
      ["counter", "argo_commits_total", "Group commits of the writer.", () => writer.commits],
      [
        "counter",
        "argo_feed_looks_total",
        "Times the file was looked at for streams and waiting polls.",
        () => feed.looks,
      ],
      ["gauge", "argo_ingest_waiting_requests", "Posts that wait.", () => writer.waiting],
      [
        "gauge",
        "argo_future_dated_signals",
        "Newest signals dated more than 300 s ahead, at most 100 counted: they pin the top.",
        () => argo.ahead.dated,
        "max",
      ],
      [
        "gauge",
        "argo_ahead_signals",
        "Signals that arrived more than 300 s ahead of the clock, at most 100 counted: streams of plans with a delay pass them over.",
        () => argo.ahead.arrived,
        "max",
      ],
    );
  }
  const node = argo?.node;
  if (node) {
    rows.push(
      ["gauge", "origin_up", "1 while the libSQL server answers.", () => Number(node.up), "min"],
      [
        "gauge",
        "origin_stopped",
        "1 while an operator has to mend what it holds: nothing is copied or written.",
        () => Number(node.stopped !== null),
        "max",
      ],
      ["counter", "origin_rows_total", "Signals copied from it.", () => node.rows],
      [
        "gauge",
        "origin_lag_ids",
        "Ids that it has and this node has not.",
        () => node.lagIds,
        "max",
      ],
      [
        "gauge",
        "origin_lag_seconds",
        "For how long it is not known that nothing is missing.",
        () => node.lagSeconds,
        "max",
      ],
    );
  }
  if (remote) {
    const { signals } = remote;
    const { upstream } = signals;
    rows.push(
      ["gauge", "remote_circuit_open", "1 while argo is away.", () => Number(upstream.open), "max"],
      ["counter", "remote_requests_total", "Requests sent to argo.", () => upstream.requests],
      ["counter", "remote_failures_total", "Those that failed.", () => upstream.failures],
      ["counter", "remote_retries_total", "Those sent once more.", () => upstream.retries],
      ["counter", "remote_joined_total", "Answers shared by readers.", () => signals.joined],
      ["counter", "remote_revalidated_total", "Found unmodified.", () => signals.revalidated],
      ["gauge", "remote_answers_bytes", "Bytes of answers held.", () => signals.bytes],
    );
  }
  if (alpine) {
    const { changes, credentials, meters, usage } = alpine;
    rows.push(
      ["gauge", "accounts_up", "1 while accounts can be used.", () => Number(alpine.up), "min"],
      ["gauge", "accounts_keys", "Good keys held in process.", () => credentials.keyCount, "max"],
      ["gauge", "accounts_revocations", "Revocations held.", () => credentials.revokedCount, "max"],
      [
        "gauge",
        "accounts_changes_age_seconds",
        "For how long nothing is known of what other processes have changed.",
        () => changes.ageMs / 1000,
        "max",
      ],
      ["gauge", "usage_pending_rows", "Counts that wait for the database.", () => usage.pending],
      ["counter", "usage_dropped_total", "Counts that could not be kept.", () => usage.dropped],
      [
        "gauge",
        "deliveries_pending",
        "First deliveries that wait for the database.",
        () => meters.waiting,
      ],
      [
        "counter",
        "deliveries_dropped_total",
        "First deliveries that could not be kept: the journal lacks them.",
        () => meters.deliveriesDropped,
      ],
    );
  }
  if (redis) {
    rows.push(
      ["gauge", "redis_up", "1 while Redis answers in time.", () => Number(redis.up), "min"],
      ["counter", "redis_failed_total", "Refused, or not answered in time.", () => redis.failed],
      ["counter", "redis_skipped_total", "Done without Redis.", () => redis.skipped],
    );
  }
  if (shared) {
    const help = "Exchanges of the limit's counts with the other processes.";
    rows.push(["counter", "rate_limit_exchanges_total", help, () => shared.exchanges]);
  }
  for (const row of rows) metrics.watch(...row);
}
