import type { AppError } from "../../errors";
import type { EndReason } from "./event";

/** Why a socket is closed by this side. */
export type CloseReason = EndReason | "flood" | "idle";

/** What the server says over a WebSocket beside signals, as text. `id` is where to resume. */
const message = (type: string, fields: Record<string, unknown>): string =>
  JSON.stringify({ type, ...fields });

export const subscribedMessage = (cursor: number, headId: number): string =>
  message("subscribed", { resume_from: cursor, head: headId });

export const unsubscribedMessage = message("unsubscribed", {});

export const pongMessage = message("pong", {});

/** Where the sequence stands: `head` is the highest id that is seen. */
export const headMessage = (cursor: number, headId: number): string =>
  message("head", { id: cursor, head: headId });

export const aheadMessage = (headId: number): string => message("ahead", { id: headId });

/** Of these ids some may be missing that were deleted for their age; what is left follows. */
export const gapMessage = (cursor: number, fromId: number, toId: number): string =>
  message("gap", { id: cursor, from: fromId, to: toId });

export const endMessage = (reason: CloseReason, cursor: number | null): string =>
  message("end", { reason, ...(cursor !== null && { id: cursor }) });

export const errorMessage = ({ status, code, detail, errors }: AppError): string =>
  message("error", { status, code, detail, ...(errors && { errors }) });

/** By RFC 6455 where it has a code; else those that are free for applications. */
export const closeCodes: Record<CloseReason, number> = {
  draining: 1001,
  flood: 1008,
  idle: 1008,
  unavailable: 1013,
  unauthorized: 4001,
  plan: 4002,
  replaced: 4003,
  slow: 4004,
};
