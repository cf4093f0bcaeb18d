import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { auditLog, oneTimeTokens, users } from "../../../db/alpine/schema.ts";
import { createAdmin } from "../../../src/alpine/admin/create.ts";
import { offerSetup } from "../../../src/alpine/admin/setup.ts";
import { hashOf } from "../../../src/alpine/auth/tokens.ts";
import { BACKEND, openAccounts, PASSWORD, type Accounts } from "../../harness/accounts.ts";
import { fieldsOf, problemOf } from "../../harness/app.ts";
import { startServer, tempDir, until, type Server } from "../../harness/process.ts";
import { alpineOf } from "../people.ts";

let at: Accounts;
beforeAll(async () => {
  at = await openAccounts({ env: { TRUST_PROXY: "1" } });
});
afterAll(() => at[Symbol.asyncDispose]());
beforeEach(async () => {
  await at.db().delete(users);
  await at.db().delete(oneTimeTokens);
});

const offer = (on = at) => offerSetup({ alpine: alpineOf(on), now: () => on.clock.ms });
const person = { email: "first@example.com", password: PASSWORD, full_name: "The First" };
let address = 0;

/** Each from an address of its own unless one is given. */
function setUp(body: object, from = `10.0.${(address += 1) >> 8}.${address & 255}`) {
  const request = new Request("http://argo.test/api/auth/setup", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Forwarded-For": from },
    body: JSON.stringify(body),
  });
  return at.app.send(request);
}

test("the token makes the first administrator, once, and none is given after that", async () => {
  const token = (await offer()) ?? "";
  expect(token).toMatch(/^[\w-]{43}$/);
  const [kept] = await at.db().select().from(oneTimeTokens);
  expect(kept).toMatchObject({ purpose: "setup_admin", userId: null });
  expect(Buffer.from(kept?.hash ?? []).equals(Buffer.from(hashOf(token)))).toBe(true);

  const made = await setUp({ ...person, token });
  const user = (await made.json()) as { id: string };
  expect([made.status, user]).toMatchObject([
    201,
    { email: person.email, role: "admin", tier: "starter", is_verified: true, is_active: true },
  ]);
  const [entry] = await at.db().select().from(auditLog).where(eq(auditLog.subjectId, user.id));
  expect(entry).toMatchObject({
    event: "admin_created",
    actorId: user.id,
    details: { by: "setup link" },
  });
  const admin = await at.login(person.email);
  await at.must(200, "GET", "/api/admin/users", undefined, admin.access);

  expect(await offer()).toBeNull();
  for (const again of [token, "x".repeat(43)]) {
    const refused = await setUp({ ...person, email: "second@example.com", token: again });
    expect(await problemOf(refused)).toMatchObject({ status: 409, code: "conflict" });
  }
});

test("it is good for thirty minutes", async () => {
  const token = await offer();
  at.clock.ms += 30 * 60_000;
  expect(await problemOf(await setUp({ ...person, token }))).toMatchObject({
    status: 422,
    detail: expect.stringContaining("restart the server for a new link"),
    errors: [{ field: "token" }],
  });
  const next = await offer();
  at.clock.ms += 30 * 60_000 - 1;
  expect((await setUp({ ...person, token: next })).status).toBe(201);
});

test("the newest one counts", async () => {
  const [first, second] = [await offer(), await offer()];
  expect((await setUp({ ...person, token: first })).status).toBe(422);
  expect((await setUp({ ...person, token: second })).status).toBe(201);
});

test.if(BACKEND !== "embedded")("whichever server gave it, of many at once", async () => {
  await using other = await openAccounts({ beside: at, now: at.clock.ms });
  const tokens = await Promise.all([at, other, at, other, at, other].map(offer));
  const rows = await at.db().select().from(oneTimeTokens);
  expect(rows.filter((row) => row.usedAt === null).length).toBe(1);
  const answers: number[] = [];
  for (const token of tokens) answers.push((await setUp({ ...person, token })).status);
  expect(answers.filter((status) => status === 201).length).toBe(1);
});

test("fifty at once make one (A10)", async () => {
  const token = await offer();
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, i) => setUp({ ...person, email: `${i}@example.com`, token })),
  );
  const statuses = answers.map((answer) => answer.status);
  expect(statuses.filter((status) => status === 201).length).toBe(1);
  // The rest came too late, or would have waited too long for their password's hash.
  expect(statuses.filter((status) => ![201, 409, 503].includes(status))).toEqual([]);
  expect(statuses.filter((status) => status === 409).length).toBeGreaterThan(1);
  const admins = await at.db().select().from(users);
  expect(admins.map((row) => row.role)).toEqual(["admin"]);
});

test("an administrator who is made otherwise meanwhile ends it", async () => {
  const token = await offer();
  await createAdmin(
    { changes: alpineOf(at).changes, now: () => at.clock.ms },
    { email: "operator@example.com", fullName: "An Operator", passwordHash: "none" },
    { origin: null, by: "command line" },
  );
  expect((await setUp({ ...person, token })).status).toBe(409);
  expect(await at.db().select().from(users)).toHaveLength(1);
});

test("a known address is refused, and the token still counts", async () => {
  const token = await offer();
  await at.member({ email: person.email });
  const taken = await problemOf(await setUp({ ...person, email: "FIRST@example.com", token }));
  expect(taken).toMatchObject({ status: 409, detail: expect.stringContaining("e-mail address") });
  expect((await setUp({ ...person, email: "other@example.com", token })).status).toBe(201);
});

test("guesses are limited by address", async () => {
  await offer();
  const guess = (from: string) => setUp({ ...person, token: "x".repeat(43) }, from);
  const statuses: number[] = [];
  for (let i = 0; i < 31; i += 1) statuses.push((await guess("10.9.9.9")).status);
  expect(statuses.slice(0, 30).every((status) => status === 422)).toBe(true);
  expect(statuses[30]).toBe(429);
  expect((await guess("10.9.9.8")).status).toBe(422);
});

describe("what is wrong is named", () => {
  test.each([
    [{ token: undefined }, ["token"]],
    [{ token: "" }, ["token"]],
    [{ token: 7 }, ["token"]],
    [{ email: "nobody" }, ["email"]],
    [{ password: "short" }, ["password"]],
    [{ full_name: "" }, ["full_name"]],
    [{ role: "admin" }, ["role"]],
  ])("%p", async (wrong, fields) => {
    const response = await setUp({ ...person, token: "x".repeat(43), ...wrong });
    expect([response.status, await fieldsOf(response)]).toEqual([422, fields]);
  });
});

test("each start without an administrator logs a fresh link, and later ones none", async () => {
  using dir = tempDir();
  const env = { DATA_DIR: dir.path, SHUTDOWN_DELAY_SECONDS: "0" };
  const said =
    "no administrator yet: open the link within 30 minutes, or run argo-alpine admin create";
  const logged = (server: Server) => server.logs().find((line) => line.includes(said));
  const linkOf = async (server: Server): Promise<string> => {
    await until(() => logged(server) !== undefined, "a link");
    const { url, msg } = JSON.parse(logged(server) ?? "") as { url: string; msg: string };
    expect(msg).toBe(said);
    expect(url).toStartWith(`${server.url}/#setup=`);
    return url.slice(`${server.url}/#setup=`.length);
  };
  const post = (server: Server, token: string) =>
    fetch(`${server.url}/api/auth/setup`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...person, token }),
    });
  let first: string;
  {
    await using server = await startServer({ role: "all", env });
    first = await linkOf(server);
    await server.stop();
  }
  {
    await using server = await startServer({ role: "all", env });
    const second = await linkOf(server);
    expect((await post(server, first)).status).toBe(422);
    expect((await post(server, second)).status).toBe(201);
    await server.stop();
  }
  await using server = await startServer({ role: "all", env });
  await until(async () => (await fetch(`${server.url}/readyz`)).ok, "the accounts");
  expect((await post(server, first)).status).toBe(409);
  await server.stop();
  expect(logged(server)).toBeUndefined();
});
