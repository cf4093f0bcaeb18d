/** How long an answer takes does not tell who has an account (A2). */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { users } from "../../../db/alpine/schema.ts";
import { newUser } from "../../../src/alpine/users/store.ts";
import { openAccounts, type Accounts } from "../../harness/accounts.ts";
import { randomNumbers, tellSeed } from "../../harness/seed.ts";

const kinds = ["unknown", "known", "verified", "shut out"] as const;
type Kind = (typeof kinds)[number];
const warmUp = 100;
const samplesOfRound = 200;
const apartMax = 0.05;
/** What a busy machine does to one kind evens out with time; what the server does stays. */
const roundsMax = 40;

let at: Accounts;
beforeAll(async () => {
  tellSeed();
  at = await openAccounts({ env: { TRUST_PROXY: "1" } });
});
afterAll(() => at[Symbol.asyncDispose]());

const random = randomNumbers();
let made = 0;
let senders = 0;

/** So many addresses, each to be used once: the limits of one mailbox are not what is measured. */
async function addresses(kind: Kind, count: number): Promise<string[]> {
  const emails = Array.from({ length: count }, () => {
    made += 1;
    return `timing-${String(made).padStart(6, "0")}@example.com`;
  });
  if (kind === "unknown") return emails;
  const given = { isVerified: kind === "verified", isActive: kind !== "shut out" };
  const rows = emails.map((email) =>
    newUser(at.clock.ms, { email, fullName: "Timing", passwordHash: "none", ...given }),
  );
  await at.db().insert(users).values(rows);
  return emails;
}

async function takeMs(path: string, email: string): Promise<number> {
  senders += 1;
  const request = new Request(`http://argo.test${path}`, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "X-Forwarded-For": `10.${senders >> 16}.${(senders >> 8) & 255}.${senders & 255}`,
    },
    body: JSON.stringify({ email }),
  });
  const begun = performance.now();
  const response = await at.app.send(request);
  const took = performance.now() - begun;
  expect(response.status).toBe(202);
  return took;
}

const median = (numbers: number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;

type Samples = Map<Kind, number[]>;

/** One of each kind in turn, in a random order: whatever the machine does, it does to all. */
async function measure(path: string, count: number, samples: Samples): Promise<void> {
  const asked = [];
  for (const kind of samples.keys()) asked.push({ kind, emails: await addresses(kind, count) });
  for (let i = 0; i < count; i += 1) {
    const order = asked.map((each) => [random(), each] as const).toSorted(([a], [b]) => a - b);
    for (const [, { kind, emails }] of order) {
      samples.get(kind)?.push(await takeMs(path, emails[i] ?? ""));
      // Else what one kind leaves behind would be measured in the next.
      await at.app.deps.alpine?.outbox.idle();
    }
  }
}

const noSamples = (): Samples => new Map(kinds.map((kind) => [kind, []]));

test.each(["/api/auth/password/forgot", "/api/auth/verify-email/resend"])(
  "%s takes as long for every address",
  async (path) => {
    await measure(path, warmUp, noSamples());
    const samples = noSamples();
    let apart = Infinity;
    for (let round = 1; round <= roundsMax && apart > apartMax; round += 1) {
      await measure(path, samplesOfRound, samples);
      const medians = [...samples].map(([kind, all]) => ({ kind, ms: median(all) }));
      const all = medians.map(({ ms }) => ms);
      apart = (Math.max(...all) - Math.min(...all)) / Math.min(...all);
      const shown = medians.map(({ kind, ms }) => `${kind} ${ms.toFixed(3)} ms`).join(", ");
      const count = round * samplesOfRound;
      console.log(`${path}: medians of ${count}: ${shown}; apart ${(apart * 100).toFixed(1)}%`);
    }
    expect(apart).toBeLessThanOrEqual(apartMax);
  },
);
