import { expect, test } from "bun:test";
import { openAccounts } from "../harness/accounts.ts";
import { randomNumbers, tellSeed } from "../harness/seed.ts";

test("cached answers are what fresh ones are, whatever was changed between them", async () => {
  tellSeed();
  const random = randomNumbers();
  await using cached = await openAccounts();
  await using fresh = await openAccounts({
    ...(cached.backend === "embedded" ? {} : { beside: cached }),
    now: cached.clock.ms,
    env: { ENABLE_CACHE: "false" },
  });
  // An embedded database has one owner: there each is asked for itself.
  const servers = cached.backend === "embedded" ? [fresh] : [cached, fresh];
  const at = servers[0] ?? cached;
  const members = await Promise.all(Array.from({ length: 4 }, () => at.member()));
  const hits = new Map<string | null, number>();
  for (let i = 0; i < 60; i += 1) {
    const member = members[Math.floor(random() * members.length)] ?? members[0];
    if (!member) throw new Error("nobody is there");
    if (random() < 0.4) {
      const full_name = `Name ${i}`;
      await at.must(200, "PUT", "/api/users/profile", { full_name }, member.access);
    }
    for (const path of ["/api/auth/me", "/api/users/profile"]) {
      const answers = await Promise.all(
        servers.map((server) => server.call("GET", path, undefined, member.access)),
      );
      const texts = await Promise.all(answers.map((answer) => answer.text()));
      const statuses = answers.map((answer) => answer.status);
      expect(statuses).toEqual(servers.map(() => 200));
      expect(new Set(texts).size).toBe(1);
      const own = answers[0]?.headers.get("x-cache") ?? null;
      hits.set(own, (hits.get(own) ?? 0) + 1);
      expect(answers.at(-1)?.headers.get("x-cache")).toBe("miss");
    }
  }
  if (servers.length === 2) expect(hits.get("hit") ?? 0).toBeGreaterThan(40);
});
