/**
 * Logins at a fixed rate, as a program: `bun login-client.ts JSON`. Each is sent when it is due,
 * whatever became of those before it. Prints one line of JSON.
 */
export type LoginOptions = {
  url: string;
  logins: { email: string; password: string; address: string }[];
  loginsPerSecond: number;
  seconds: number;
};

export type LoginReport = { offered: number; answered: Record<string, number> };

async function run(options: LoginOptions): Promise<LoginReport> {
  const { url, logins, loginsPerSecond, seconds } = options;
  const answered: Record<string, number> = {};
  const total = Math.round(loginsPerSecond * seconds);
  const startMs = performance.now();
  const one = async (i: number): Promise<void> => {
    const dueMs = startMs + (i * 1_000) / loginsPerSecond;
    await Bun.sleep(Math.max(0, dueMs - performance.now()));
    const { email, password, address } = logins[i % logins.length] as LoginOptions["logins"][0];
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", "x-forwarded-for": address },
      body: JSON.stringify({ email, password }),
      signal: AbortSignal.timeout(30_000),
    });
    await response.text();
    answered[response.status] = (answered[response.status] ?? 0) + 1;
  };
  await Promise.all(Array.from({ length: total }, (_, i) => one(i)));
  return { offered: total, answered };
}

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] ?? "{}") as LoginOptions;
  process.stdout.write(`${JSON.stringify(await run(options))}\n`);
  process.exit(0);
}
