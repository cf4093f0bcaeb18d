import { type NotificationKind, notificationKinds } from "../../../db/alpine/schema";
import type { Account } from "../../http/guard";
import type { Plane } from "../plane";
import { lockSelf } from "../users/store";
import type { Wanted } from "./notify";
import { type Preferences, type PreferencesChange, preferencesOf } from "./schema";
import { setWanted, wantedOf } from "./store";

/** Changes the kinds that are named. @throws AppError 401 when the session has ended. */
export function changePreferences(
  { alpine }: Plane,
  account: Account,
  given: PreferencesChange,
): Promise<Preferences> {
  const change = notificationKinds.flatMap((kind): [NotificationKind, Wanted][] => {
    const flags = given[kind];
    return flags ? [[kind, { inApp: flags.in_app, email: flags.email }]] : [];
  });
  return alpine.changes.write(async (tx) => {
    await lockSelf(tx, account);
    await setWanted(tx, account.userId, change);
    return preferencesOf(await wantedOf(tx, account.userId));
  });
}
