/** Random requests to every route of the control plane, by people who may come and who may not. */
import { expect } from "bun:test";
import { PASSWORD, openAccounts, type Accounts, type Member } from "../harness/accounts.ts";
import { problemOf, type ProblemDocument, READ_TOKEN, WRITE_TOKEN } from "../harness/app.ts";
import { randomNumbers, SEED, tellSeed } from "../harness/seed.ts";
import { alpineOf, person } from "./people.ts";

const random = randomNumbers();
const below = (n: number): number => Math.floor(random() * n);
const chance = (part: number): boolean => random() < part;
const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;

type Schema = {
  $ref?: string;
  type?: string | string[];
  enum?: string[];
  properties?: Record<string, Schema>;
  required?: string[];
};
type Operation = {
  parameters?: { in: string; name: string; required?: boolean; schema: Schema }[];
  requestBody?: { content: Record<string, { schema: Schema }> };
};
type Document = {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
};
type Route = { name: string; method: string; path: string; operation: Operation } & {
  body: Schema | undefined;
};

/** A literal of JSON, as it is written. */
class Raw {
  constructor(readonly text: string) {}
}

const LITERALS = [
  "null",
  "true",
  "0",
  "-0",
  "-1",
  "1e999",
  "-1e999",
  "1e-999",
  "NaN",
  "Infinity",
  "0x1",
  "9007199254740993",
  "99999999999999999999999999999999",
  '""',
  '"\\u0000"',
  '"a\\u0000b"',
  '"a\\u0000b@example.com"',
  '"\\ud800"',
  '"\\udc00\\ud800"',
  '"\\ud800@example.com"',
  '"a\\ud800b"',
  '"\\uffff\\ufffe"',
  '"\\u202e"',
  '"x\\n"',
  '"😀"',
  '"İ@example.com"',
  "[]",
  "{}",
  "[[]]",
  "[null]",
  '["signals:read","signals:read"]',
  '{"a":1}',
  '{"__proto__":{"role":"admin"}}',
  '"__proto__"',
  '"\' OR 1=1 --"',
  '"%"',
  '"\\\\"',
  '"000000"',
  '"٠٠٠٠٠٠"',
  '"2020-01-01T00:00:00Z"',
  '"2999-01-01T00:00:00Z"',
  '"9999-12-31T23:59:59-23:59"',
  '"-271821-04-20T00:00:00Z"',
  '"0000-01-01T00:00:00Z"',
  '"2027-02-30T00:00:00Z"',
  '"$argon2id$v=19$m=19456,t=2,p=1$AAAA$AAAA"',
  `"${"x".repeat(300)}"`,
  `"${"x".repeat(5_000)}"`,
  `"${"€".repeat(128)}"`,
] as const;

const FIELDS = [
  "id",
  "tier",
  "role",
  "is_active",
  "is_verified",
  "password",
  "email",
  "__proto__",
  "constructor",
  "toString",
  "",
  "\u0000",
  "\ud800",
  "full_name",
  "x".repeat(300),
];

const IDS = [
  "0190a7c0-0000-7000-8000-000000000000",
  "00000000-0000-0000-0000-000000000000",
  "ffffffff-ffff-ffff-ffff-ffffffffffff",
  "0190A7C0-0000-7000-8000-000000000000",
  "0190a7c0000070008000000000000000",
  "{0190a7c0-0000-7000-8000-000000000000}",
  "0190a7c0-0000-7000-8000-00000000000g",
  "0",
  "-1",
  "me",
  "%00",
  "0190a7c0-0000-7000-8000-000000000000%00",
  "%ff",
  "%",
  "%2e%2e",
  "..",
  "__proto__",
  "a%2Fb",
  "😀",
  "'",
  "9".repeat(400),
];

const QUERY_VALUES = [
  "",
  "0",
  "1",
  "2",
  "500",
  "501",
  "-1",
  "1e3",
  "9".repeat(40),
  "NaN",
  "true",
  "YES",
  "maybe",
  "starter",
  "elite",
  "admin",
  "login",
  "nothing",
  "%00",
  "a%00b",
  "%ED%A0%80",
  "%ff",
  "%",
  "%25",
  "_",
  "%5C",
  "a%5C",
  "'",
  "%C4%B0",
  "%F0%9F%98%80",
  "x".repeat(300),
  "x".repeat(3_000),
];

const QUERY_NAMES = [
  "cursor",
  "limit",
  "search",
  "tier",
  "role",
  "is_active",
  "event",
  "user_id",
  "x",
  "__proto__",
  "%00",
  "",
  "limit[]",
];

const CONTENT_TYPES = [
  "text/plain",
  "application/json; charset=utf-16",
  "application/json;",
  "application/x-www-form-urlencoded",
  "multipart/form-data; boundary=x",
  "",
];

/** Of the dearest routes one request in ten gets behind the validators. */
const AGAIN_MAX = 400;

type Body = string | Uint8Array<ArrayBuffer>;
type Sent = { url: string; init: RequestInit & { method: string }; body: Body | null };
type Made = { ids: string[]; cursors: string[]; keys: string[]; refresh: string[] };

/** What happened to the requests of one route. */
type Tally = { sent: number; early: number; validation: number; handled: number };

/** What handlers, not validators, say of a field. */
const HANDLER_SAYS =
  /^is (not right|taken|used, expired|needed|not a cursor)|^must (not )?be in the future|^must not hold|^must be (USD|\d+, as|at most \d+: what)/;

export class AccountsFuzz {
  readonly statuses = new Map<number, number>();
  readonly tallies = new Map<string, Tally>();
  readonly #people: { user: Member[]; admin: Member[] } = { user: [], admin: [] };
  readonly #made: Made = { ids: [], cursors: [], keys: [], refresh: [] };
  #emails = 0;

  private constructor(
    readonly at: Accounts,
    private readonly document: Document,
    private readonly routes: Route[],
  ) {}

  /** Opens accounts without Redis: there all limits go by the clock of the test. */
  static async open(): Promise<AccountsFuzz> {
    tellSeed();
    const at = await openAccounts({ backend: "postgres", env: { TRUST_PROXY: "1" } });
    const document = await at.app.json<Document>("/openapi.json");
    const routes = Object.entries(document.paths).flatMap(([path, methods]) =>
      /^\/api\/(auth|keys|users|admin|subscriptions|invoices|payments)(\/|$)/.test(path)
        ? Object.entries(methods).map(([verb, operation]) => {
            const method = verb.toUpperCase();
            const body = operation.requestBody?.content["application/json"]?.schema;
            return { name: `${method} ${path}`, method, path, operation, body };
          })
        : [],
    );
    const fuzz = new AccountsFuzz(at, document, routes);
    for (const { name } of routes) {
      fuzz.tallies.set(name, { sent: 0, early: 0, validation: 0, handled: 0 });
    }
    await fuzz.#begin();
    return fuzz;
  }

  /** `dear` is how many are kept of those that may cost a hash of a password. */
  async run(requests: number, dear = 0.25): Promise<void> {
    for (let i = 0; i < requests; i += 1) {
      // An hour later every limit is as new, and every session has to be.
      if (i % 250 === 249) await this.#begin();
      const route = this.#route(dear);
      const { token, member } = await this.#actor();
      const request = this.#request(route, token, () => this.#body(route));
      await this.#tried(`request ${i}`, route, request, member);
    }
    // What chance has left out so far is asked until it is reached, or nothing reaches it.
    for (const route of this.routes) {
      for (let i = 0; i < AGAIN_MAX && !this.#isReached(route.name); i += 1) {
        if (i % 25 === 24) await this.#begin();
        const { token, member } = await this.#actor();
        const request = this.#request(route, token, () => this.#body(route));
        await this.#tried(`request ${i} for ${route.name}`, route, request, member);
      }
    }
  }

  async #tried(which: string, route: Route, sent: Sent, member: Member | null): Promise<void> {
    try {
      await this.#send(route, sent, member);
    } catch (error) {
      const { url, init, body } = sent;
      const headers = JSON.stringify([...new Headers(init.headers)]);
      const shown = JSON.stringify(String(body).slice(0, 2_000));
      const what = `${init.method} ${url.slice(0, 500)} ${headers} ${shown}`;
      throw new Error(`TEST_SEED=${SEED}, ${which}: ${what}\n${error}`, { cause: error });
    }
  }

  /** Every field of every body, text that no database or terminal takes; all else as it should be. */
  async sweep(): Promise<void> {
    const odd = LITERALS.filter((literal) => /\\u(0000|[du])/.test(literal));
    for (const route of this.routes) {
      const properties = this.#resolved(route.body).properties ?? {};
      for (const name of Object.keys(properties)) {
        for (const literal of odd) {
          const { token, member } = await this.#actor("admin");
          const request = this.#request(route, token, () => {
            const given = this.#fields(route.body, false);
            const others = given.filter(([other]) => other !== name);
            return written([...others, [name, new Raw(literal)]]);
          });
          await this.#tried(`${name} is ${literal}`, route, request, member);
        }
      }
    }
  }

  /** Fails unless every route was met by its validators and by what is behind them. */
  expectReached(): void {
    expect([...this.tallies].filter(([name]) => !this.#isReached(name))).toEqual([]);
    let [sent, handled, validation] = [0, 0, 0];
    for (const tally of this.tallies.values()) {
      sent += tally.sent;
      handled += tally.handled;
      validation += tally.validation;
    }
    const part = (count: number): string => `${Math.round((100 * count) / sent)}%`;
    const statuses = [...this.statuses].toSorted(([a], [b]) => a - b).map((pair) => pair.join("×"));
    console.log(
      `${sent} requests to ${this.routes.length} routes: ${part(validation)} met by validators, ${part(handled)} behind them; ${statuses.join(" ")}`,
    );
    expect((validation + handled) / sent).toBeGreaterThan(0.6);
    expect(handled / sent).toBeGreaterThan(0.15);
    expect((this.statuses.get(429) ?? 0) / sent).toBeLessThan(0.02);
    expect((this.statuses.get(503) ?? 0) / sent).toBeLessThan(0.01);
  }

  /** By its validators, if it takes anything, and by what is behind them. */
  #isReached(name: string): boolean {
    const { handled, validation } = this.tallies.get(name) as Tally;
    return handled > 0 && (validation > 0 || this.#takesNothing(name));
  }

  #takesNothing(name: string): boolean {
    const route = this.routes.find((other) => other.name === name);
    return route?.body === undefined && (route?.operation.parameters ?? []).length === 0;
  }

  async #begin(): Promise<void> {
    this.at.clock.ms += 3_600_000;
    this.#people.user = [];
    this.#people.admin = [];
    for (const role of ["user", "admin"] as const) {
      for (let i = 0; i < 3; i += 1) this.#people[role].push(await this.#someone(role));
    }
    for (const path of ["/api/admin/users", "/api/admin/audit", "/api/keys"]) {
      const owner = this.#people.admin[0];
      if (path === "/api/keys" && owner) for (let i = 0; i < 2; i += 1) await this.at.key(owner);
      const page = await this.at.must<{ next_cursor: string | null }>(
        200,
        "GET",
        `${path}?limit=1`,
        undefined,
        owner?.access ?? null,
      );
      if (page.next_cursor !== null) this.#made.cursors.push(page.next_cursor);
    }
    for (const list of Object.values(this.#made)) list.splice(0, list.length - 200);
  }

  async #someone(role: "user" | "admin"): Promise<Member> {
    const member = await person(this.at, { role });
    this.#made.ids.push(member.id);
    this.#made.refresh.push(member.refresh);
    return member;
  }

  /** Dealt like cards: none is left out for long. */
  #route(dear: number): Route {
    for (;;) {
      if (this.#deck.length === 0) this.#deck = [...this.routes];
      const [route] = this.#deck.splice(below(this.#deck.length), 1) as [Route];
      const hashes = /signup|login|setup|password\/|totp\/(disable|recovery)|account/.test(
        route.path,
      );
      if (!hashes || chance(dear)) return route;
    }
  }

  #deck: Route[] = [];

  async #actor(who?: "admin"): Promise<{ token: string | null; member: Member | null }> {
    const kind = who === undefined ? below(20) : 18;
    if (kind === 0) return { token: null, member: null };
    if (kind === 1) {
      const odd = [READ_TOKEN, WRITE_TOKEN, "a.b.c", "argo_live_x", "x".repeat(3_000)];
      return { token: pick([...odd, ...this.#made.keys]), member: null };
    }
    const role = kind < 8 ? "user" : "admin";
    const at = below(this.#people[role].length);
    const member = this.#people[role][at] as Member;
    const good = alpineOf(this.at).credentials.recall(`Bearer ${member.access}`);
    const goOn = who === undefined && kind % 3 !== 0;
    if (good?.account?.role === role || goOn) return { token: member.access, member };
    // Somebody has logged out, was shut out, or is gone: others come.
    const fresh = await this.#someone(role);
    this.#people[role][at] = fresh;
    return { token: fresh.access, member: fresh };
  }

  #request(route: Route, token: string | null, makeBody: () => Body): Sent {
    const path = route.path.replace("{id}", () =>
      chance(0.75) ? pick(this.#made.ids) : pick(IDS),
    );
    const headers = new Headers({
      "X-Forwarded-For": `192.0.${below(250)}.${below(250)}`,
      "User-Agent": pick(["fuzz", "", "x".repeat(2_000), "é\u0001"]),
    });
    if (token !== null) headers.set("Authorization", `Bearer ${token}`);
    const init: RequestInit & { method: string } = { method: route.method, headers };
    const bodied = route.body !== undefined || chance(0.05);
    let body: Body | null = null;
    if (bodied && !["GET", "HEAD"].includes(route.method)) {
      headers.set("Content-Type", chance(0.95) ? "application/json" : pick(CONTENT_TYPES));
      if (chance(0.01)) headers.set("Content-Encoding", pick(["gzip", "identity", "x"]));
      body = makeBody();
      init.body = chance(0.1) ? streamed(body) : body;
    }
    return { url: `http://argo.test${path}${this.#query(route)}`, init, body };
  }

  #query({ operation }: Route): string {
    const known = (operation.parameters ?? []).filter((parameter) => parameter.in === "query");
    if (known.length === 0 && chance(0.95)) return "";
    const pairs: string[] = [];
    for (let i = below(4); i > 0; i -= 1) {
      const name = known.length > 0 && chance(0.9) ? pick(known).name : pick(QUERY_NAMES);
      pairs.push(`${name}=${this.#queryValue(name, known.find((k) => k.name === name)?.schema)}`);
    }
    return pairs.length === 0 ? "" : `?${pairs.join("&")}`;
  }

  #queryValue(name: string, schema: Schema | undefined): string {
    if (chance(0.3)) return pick(QUERY_VALUES);
    if (name === "cursor" && this.#made.cursors.length > 0) {
      const cursor = pick(this.#made.cursors);
      const at = below(cursor.length);
      const other = pick(this.#made.cursors);
      return pick([
        cursor,
        cursor.slice(0, at),
        cursor.slice(at),
        cursor.slice(0, at) + other.slice(at),
        `${cursor.slice(0, at)}A${cursor.slice(at + 1)}`,
        `${cursor}=`,
        Buffer.from(cursor, "base64url").toString("base64").replaceAll("+", "%2B"),
      ]);
    }
    if (name === "limit") return String(1 + below(500));
    if (name === "user_id") return pick(this.#made.ids);
    if (name === "search") return pick(["person", "Person 1", "%25", "_", "\\%25"]);
    return schema?.enum === undefined ? pick(QUERY_VALUES) : pick(schema.enum);
  }

  #body(route: Route): Body {
    const kind = below(40);
    if (kind === 0) return pick(LITERALS);
    if (kind === 1) return "[".repeat(below(60_000));
    if (kind === 2) return '{"a":'.repeat(below(9_000)) + "1" + "}".repeat(below(9_000));
    if (kind === 3) return new Uint8Array(Array.from({ length: below(300) }, () => below(256)));
    if (kind === 4) return "";
    const fields = this.#fields(route.body);
    const text = written(fields);
    if (kind === 5) return `${text}${" ".repeat(64 * 1024 * (1 + below(3)))}`;
    if (kind === 6) return text.replace("{", `{"x":"${"x".repeat(70_000)}",`);
    if (kind === 7) return `[${text}]`;
    if (kind === 8) return `\ufeff${text}`;
    if (kind === 9) {
      const [first] = fields;
      return first ? written([...fields, first]) : text;
    }
    if (kind === 10) {
      const at = below(text.length);
      return text.slice(0, at) + pick(["", ",", "}", '"', "\\", "\u0000"]) + text.slice(at + 1);
    }
    return text;
  }

  /** Fields that the route takes as it takes them; then one or two of them changed, or none. */
  #fields(given: Schema | undefined, odd = chance(0.6)): [string, unknown][] {
    const schema = this.#resolved(given);
    const required = schema.required ?? [];
    const fields: [string, unknown][] = Object.entries(schema.properties ?? {}).flatMap(
      ([name, property]): [string, unknown][] =>
        required.includes(name) || chance(0.6)
          ? [[name, this.#value(name, this.#resolved(property))]]
          : [],
    );
    if (!odd) return fields;
    for (let i = 1 + below(2); i > 0; i -= 1) {
      const at = below(fields.length + 1);
      const name = fields[at]?.[0] ?? pick(FIELDS);
      if (chance(0.2)) fields.splice(at, 1);
      else fields.splice(at, chance(0.8) ? 1 : 0, [name, new Raw(pick(LITERALS))]);
    }
    return fields;
  }

  #resolved(schema: Schema | undefined): Schema {
    const name = schema?.$ref?.split("/").at(-1);
    return (name === undefined ? schema : this.document.components.schemas[name]) ?? {};
  }

  #value(name: string, { enum: words, type }: Schema): unknown {
    const people = [...this.#people.user, ...this.#people.admin];
    if (words) return pick(words);
    switch (name) {
      case "email":
        this.#emails += 1;
        return chance(0.4) ? pick(people).email : `fuzz-${this.#emails}@example.com`;
      case "password":
      case "current_password":
        return chance(0.8) ? PASSWORD : "a wrong password";
      case "new_password":
        return pick([PASSWORD, "another good password"]);
      case "totp":
      case "code":
        return String(below(1_000_000)).padStart(6, "0");
      case "refresh_token":
        return pick(this.#made.refresh);
      case "scopes":
        return pick([["signals:read"], ["signals:read", "admin:read"], ["signals:write"]]);
      case "expires_at":
        return pick([null, "2099-01-01T00:00:00Z", "2020-01-01T00:00:00Z"]);
      case "invoice_id":
        return pick(this.#made.ids);
      case "amount_minor":
        return pick([1, 4_900, 14_900, 2_147_483_647]);
      case "currency":
        return pick(["USD", "EUR"]);
      case "paid_at":
        return pick(["2099-01-01T00:00:00Z", "2020-01-01T00:00:00+01:00"]);
      case "overlap_seconds":
        return below(700_000);
    }
    return type === "boolean" ? chance(0.8) : pick(["a name", "é😀", "x"]);
  }

  async #send(route: Route, { url, init }: Sent, member: Member | null): Promise<void> {
    const response = await this.at.app.fetch(new Request(url, init), null);
    const { status } = response;
    this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1);
    const tally = this.tallies.get(route.name) as Tally;
    tally.sent += 1;
    const copy = response.clone();
    if (status >= 500 && status !== 503) throw new Error(`${status}: ${await copy.text()}`);
    if (status >= 400) {
      const problem = await problemOf(response);
      tally[metBy(problem)] += 1;
      return;
    }
    tally.handled += 1;
    const text = await response.text();
    if (/\$argon2id\$[^"]{50}/.test(text)) throw new Error(`an answer holds a hash: ${text}`);
    const isJson = response.headers.get("content-type")?.startsWith("application/json");
    if (isJson && text !== "") this.#learn(JSON.parse(text) as Record<string, unknown>, member);
  }

  /** What answers hold is sent in other requests. */
  #learn(answer: Record<string, unknown>, member: Member | null): void {
    const { id, key, refresh_token: refresh, next_cursor: cursor, sessions } = answer;
    const { open_invoice: invoice } = answer as { open_invoice?: { id: string } | null };
    if (invoice) this.#made.ids.push(invoice.id);
    if (typeof id === "string") this.#made.ids.push(id);
    if (typeof key === "string") this.#made.keys.push(key);
    if (typeof refresh === "string") this.#made.refresh.push(refresh);
    if (typeof cursor === "string") this.#made.cursors.push(cursor);
    const [session] = Array.isArray(sessions) ? (sessions as { id: string }[]) : [];
    if (session && member) this.#made.ids.push(session.id);
  }
}

function metBy({ status, errors, detail }: ProblemDocument): keyof Omit<Tally, "sent"> {
  if ([403, 405, 413, 415, 429, 503].includes(status)) return "early";
  if (status === 401) return /Bearer/.test(detail) ? "early" : "handled";
  if (status === 404 || status === 409) return "handled";
  if (errors?.some((error) => HANDLER_SAYS.test(error.detail))) return "handled";
  return "validation";
}

const written = (fields: [string, unknown][]): string =>
  `{${fields
    .map(([name, value]) => {
      const text = value instanceof Raw ? value.text : JSON.stringify(value);
      return `${JSON.stringify(name)}:${text}`;
    })
    .join(",")}}`;

/** Without a length, in pieces. */
function streamed(body: Body): ReadableStream<Uint8Array> {
  const bytes = Buffer.from(body as string);
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      const piece = bytes.subarray(at, at + 10_000);
      at += piece.length;
      if (piece.length > 0) controller.enqueue(new Uint8Array(piece));
      if (at >= bytes.length) controller.close();
    },
  });
}
