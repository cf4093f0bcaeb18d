import type { FarReader } from "../../argo/signals/far";
import type { Follower, Member, Source } from "../../argo/signals/sequence";
import type { Views } from "../../argo/signals/views";
import type { View } from "../../http/entitlement";

/** Signals as JSON, ascending by id, and where they were read to. */
export type Slice = { lines: string[]; untilId: number };

/** The sequence of what a view sees, as it grows. */
export type FollowedView = {
  /** All up to this id is seen by now, or never by this view. @throws AppError 503. */
  position(): number | Promise<number>;
  /** The next few that are seen after an id, up to the position. @throws AppError 503. */
  after(sinceId: number, rowsMax: number): Promise<Slice>;
  /** True once it tells nothing any more. */
  readonly ended: boolean;
  close(): void;
};

/** Signals, wherever they are, for those who are told of them. */
export type SignalSource = {
  /** @param wake called when more may be seen; not where nothing tells. @throws AppError 503. */
  follow(view: View, wake: () => void): Promise<FollowedView>;
  /** The highest id that is here, whoever sees it. @throws AppError 503. */
  maxId(): number | Promise<number>;
  /** True of a copy that may miss something: what it has not got is not gone. @throws AppError 503. */
  isLate(): boolean | Promise<boolean>;
};

type Local = {
  reader: { look(): { maxId: number } };
  far: FarReader;
  feed: Source;
  views: Views;
  /** What copies the signals of others, where this process does. */
  node: { readonly current: boolean } | null;
};

/** Those of the signal file of this process. */
export const localSource = ({ reader, far, feed, views, node }: Local): SignalSource => ({
  maxId: () => reader.look().maxId,
  isLate: () => node?.current === false,
  async follow(view, wake) {
    let ended = false;
    const member: Member = {
      own: true,
      end: () => {
        ended = true;
      },
    };
    const told: Follower = { take: wake, rewind: wake };
    const tail = await feed.follow(view, member, null);
    tail.joined.add(told);
    return {
      get ended() {
        return ended;
      },
      position: () => tail.position,
      async after(sinceId, rowsMax) {
        const { position } = tail;
        if (sinceId >= position) return { lines: [], untilId: sinceId };
        const { sight } = views.horizon(view);
        const { lines, nextId } = await far.slice(sinceId, position, rowsMax, sight);
        return { lines: lines === "" ? [] : lines.split("\n"), untilId: nextId ?? position };
      },
      close: () => {
        tail.joined.delete(told);
        feed.leave(tail, member);
      },
    };
  },
});

/** Where a view stands at the moment. @throws AppError 503. */
export async function positionOf(source: SignalSource, view: View): Promise<number> {
  const followed = await source.follow(view, () => undefined);
  try {
    return await followed.position();
  } finally {
    followed.close();
  }
}
