/**
 * By how much the clocks of two servers may differ, and one may be set back: each may be an hour
 * wrong. What has ended stays so on all of them, and nothing is deleted before it has for all.
 */
export const clocksApartMs = 2 * 3_600_000;
