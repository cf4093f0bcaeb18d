export type { components, paths } from "./api.ts";
export { type Accepted, Argo, type SignalIn, unwrap } from "./client.ts";
export { ArgoError, type Problem, StreamEndedError } from "./errors.ts";
export type { LatestQuery, Page, PollOptions, Signal } from "./polls.ts";
export type {
  ReceivedSignal,
  SignalStream,
  StreamEvent,
  StreamFilters,
  StreamNotice,
  StreamOptions,
} from "./stream.ts";
export type { ArgoOptions, CallOptions } from "./transport.ts";
