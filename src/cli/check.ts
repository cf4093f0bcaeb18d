/** One thing that `doctor` looked at. */
export type Check = {
  name: string;
  status: "ok" | "warn" | "fail";
  detail: string;
  /** What to do; null where nothing is needed. */
  fix: string | null;
};

export const ok = (name: string, detail: string): Check => ({
  name,
  status: "ok",
  detail,
  fix: null,
});

export const warn = (name: string, detail: string, fix: string): Check => ({
  name,
  status: "warn",
  detail,
  fix,
});

export const fail = (name: string, detail: string, fix: string): Check => ({
  name,
  status: "fail",
  detail,
  fix,
});
