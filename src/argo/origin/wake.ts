import type { Redis } from "../../platform/redis";
import type { SignalWriter } from "../signals/writer";

const channel = "signals";

/**
 * Tells the other nodes of this one's commits at the libSQL server, and looks there when they tell
 * of theirs. Nothing depends on it: what is not told is found by the next look.
 */
export function wakeEachOther(writer: SignalWriter, redis: Redis): void {
  const self = crypto.randomUUID();
  const before = writer.onCommit;
  writer.onCommit = () => {
    before?.();
    void redis.publish(channel, self);
  };
  const look = (): void => writer.tail(false);
  redis.subscribe(channel, (from) => (from === self ? undefined : look()), look);
}
