/** Logins at a fixed rate, whether or not they are answered; a process of its own beside the polls. */
export interface LoginLoad {
  url: string;
  perSecond: number;
  seconds: number;
}

/** One answer: its status, when it was asked for and how long it took, milliseconds. */
export type LoginAnswer = [status: number, atMs: number, durationMs: number, retryAfter: number];

async function offer({ url, perSecond, seconds }: LoginLoad): Promise<LoginAnswer[]> {
  const answers: LoginAnswer[] = [];
  const begun = performance.now();
  const one = async (n: number): Promise<void> => {
    const at = performance.now();
    const response = await fetch(`${url}/api/auth/login`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        // Each from elsewhere and of somebody else: it is the hashes that are to run out.
        "X-Forwarded-For": `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`,
      },
      body: JSON.stringify({ email: `${crypto.randomUUID()}@example.com`, password: "a guess" }),
    });
    await response.arrayBuffer();
    const retryAfter = Number(response.headers.get("retry-after") ?? 0);
    answers.push([response.status, at - begun, performance.now() - at, retryAfter]);
  };
  const open: Promise<void>[] = [];
  for (let n = 0; n < perSecond * seconds; n += 1) {
    const wait = begun + (n * 1_000) / perSecond - performance.now();
    if (wait > 0) await Bun.sleep(wait);
    const sent = one(n);
    sent.catch(() => answers.push([0, 0, 0, 0]));
    open.push(sent);
  }
  await Promise.allSettled(open);
  return answers;
}

if (import.meta.main) {
  const load = JSON.parse(process.argv[2] ?? "") as LoginLoad;
  console.log(JSON.stringify(await offer(load)));
}
