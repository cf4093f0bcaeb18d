import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { HeldCounter, HeldHistogram } from "./series";

/** Every metric of this process. Names without a prefix are those of the replaced systems. */
export type Metrics = ReturnType<typeof createMetrics>;

const seconds = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 5];

export function createMetrics() {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  return {
    registry,
    requests: new HeldCounter(
      registry,
      "api_requests_total",
      "Requests by method, route and status.",
    ),
    requestDuration: new HeldHistogram(
      registry,
      "api_request_duration_seconds",
      "Time from a request's arrival to its answer.",
      seconds,
    ),
    limitRequests: new Counter({
      name: "rate_limit_requests_total",
      help: "Requests that the rate limit was asked about.",
      registers,
    }),
    limitExceeded: new Counter({
      name: "rate_limit_exceeded_total",
      help: "Requests that the rate limit refused.",
      registers,
    }),
    answersReused: new Counter({
      name: "argo_answers_reused_total",
      help: "Polls answered from bytes that were still valid.",
      registers,
    }),
    answersMade: new Counter({
      name: "argo_answers_made_total",
      help: "Polls whose answer was read from the signal file.",
      registers,
    }),
    head: new Gauge({
      name: "argo_head_id",
      help: "Highest id in the signal file.",
      registers,
    }),
    futureDated: new Gauge({
      name: "argo_future_dated_signals",
      help: "Newest signals dated more than 300 s ahead, at most 100 counted: they pin the top.",
      registers,
    }),
    ingested: new Counter({
      name: "argo_ingested_signals_total",
      help: "Signals acknowledged as durable, by outcome.",
      labelNames: ["outcome"] as const,
      registers,
    }),
    commits: new Counter({
      name: "argo_commits_total",
      help: "Group commits of the writer.",
      registers,
    }),
    commitDuration: new Histogram({
      name: "db_query_duration_seconds",
      help: "Duration of database work, by kind.",
      labelNames: ["kind"] as const,
      buckets: seconds,
      registers,
    }),
    queueRows: new Gauge({
      name: "argo_ingest_queue_requests",
      help: "Posts waiting for the writer.",
      registers,
    }),
  };
}
