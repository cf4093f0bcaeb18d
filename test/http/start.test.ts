import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { issueToken } from "../../src/alpine/auth/one-time.ts";
import { offerSetup } from "../../src/alpine/admin/setup.ts";
import { alpineOf } from "../alpine/people.ts";
import { openAccounts, PASSWORD, type Accounts } from "../harness/accounts.ts";
import { openApp, type App } from "../harness/app.ts";
import { openPage, type Page } from "../harness/page.ts";

const textOf = async (app: App, path: string): Promise<string> => (await app.get(path)).text();

async function visit(app: App, hash: string, send = app.send): Promise<Page> {
  return openPage(await textOf(app, "/"), await textOf(app, "/start.js"), hash, send);
}
const shown = (page: Page): string[] => page.forms.filter((f) => !f.hidden).map(({ id }) => id);
const answered = (page: Page): string => page.element("answer")?.textContent ?? "";

describe("without accounts", () => {
  let app: App;
  beforeAll(async () => {
    app = await openApp({ fixture: null });
  });
  afterAll(() => app[Symbol.asyncDispose]());

  test("it says what this is, and has no forms", async () => {
    const html = await textOf(app, "/");
    expect(html).toContain("trading-signal server");
    expect(html).not.toContain("<form");
    for (const link of ["docs", "openapi.json", "health"]) {
      expect(html).toContain(`href="${link}"`);
      expect((await app.get(`/${link}`)).status).toBe(200);
    }
    const page = await visit(app, "#setup=abc");
    expect(answered(page)).toContain("no accounts");
    expect(page.location.hash).toBe("");
  });

  test("/docs/ leads to /docs", async () => {
    const response = await app.get("/docs/");
    expect([response.status, response.headers.get("location")]).toEqual([308, "../docs"]);
  });
});

describe("with accounts", () => {
  let at: Accounts;
  beforeAll(async () => {
    at = await openAccounts();
  });
  afterAll(() => at[Symbol.asyncDispose]());

  test("is plain text of our own, under a policy that lets in nothing else", async () => {
    const response = await at.app.get("/");
    expect(response.headers.get("content-type")).toMatch(/^text\/html/);
    const policy = response.headers.get("content-security-policy") ?? "";
    expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self';");
    expect(policy).not.toMatch(/unsafe|https?:|\*|data:/);
    const html = await response.text();
    expect(html).not.toMatch(/https?:\/\/|<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=/);
    for (const path of ["/", "/start.js", "/start.css"]) {
      // oxlint-disable-next-line no-control-regex -- ASCII is what is looked for
      expect(await textOf(at.app, path)).toMatch(/^[\x00-\x7f]{100,}$/);
    }
    expect((await at.app.get("/start.js")).headers.get("content-type")).toStartWith(
      "text/javascript",
    );
    expect((await at.app.get("/start.css")).headers.get("content-type")).toStartWith("text/css");
  });

  test("every field has a label, and a place for its fault that is said with it", async () => {
    const html = await textOf(at.app, "/");
    const inputs = [...html.matchAll(/<input id="([^"]+)"[^>]*aria-describedby="([^"]+)"/g)];
    expect(inputs.length).toBe(html.split("<input").length - 1);
    expect(inputs.length).toBe(4);
    for (const [, id, fault] of inputs) {
      expect(html).toContain(`<label for="${id}">`);
      expect(html).toContain(`id="${fault}"`);
    }
    expect(html).toMatch(/id="answer"[^>]*aria-live="polite"/);
  });

  test("without a link, and with one of something else, there is no form", async () => {
    for (const hash of ["", "#", "#setup", "#setup=", "#setup=<b>", "#other=abc"]) {
      const page = await visit(at.app, hash);
      expect([shown(page), page.location.hash]).toEqual([[], hash]);
    }
  });

  test("the link of the log makes the first administrator", async () => {
    const token = await offerSetup({ alpine: alpineOf(at), now: () => at.clock.ms });
    const page = await visit(at.app, `#setup=${token}`);
    expect([shown(page), page.location.hash]).toEqual([["setup"], ""]);
    expect(page.focused?.id).toBe("setup-email");

    await page.submit("setup", { email: "nobody", full_name: "First", password: "short" });
    expect(page.element("setup-email-fault")?.textContent).toContain("e-mail address");
    expect(page.element("setup-password-fault")?.textContent).toContain("8 characters");
    expect(page.element("setup-full_name-fault")?.textContent).toBe("");
    expect(page.element("setup-email")?.getAttribute("aria-invalid")).toBe("true");
    expect(page.focused?.id).toBe("setup-email");
    expect(shown(page)).toEqual(["setup"]);

    await page.submit("setup", { email: "first@example.com", password: PASSWORD });
    expect([shown(page), answered(page)]).toEqual([[], expect.stringContaining("made")]);
    expect(page.focused?.id).toBe("answer");
    expect(page.element("setup-email")?.getAttribute("aria-invalid")).toBeNull();
    expect(page.element("setup-password")?.value).toBe("");
    const admin = await at.login("first@example.com");
    await at.must(200, "GET", "/api/admin/users", undefined, admin.access);
  });

  test("the links of mails set a password and verify an address, each once", async () => {
    const member = await at.member();
    const issue = (purpose: "reset_password" | "verify_email") =>
      alpineOf(at).changes.write((tx) => issueToken(tx, purpose, member.id, at.clock.ms));
    const page = await visit(at.app, `#verify-email=${await issue("verify_email")}`);
    expect([shown(page), page.focused?.tag]).toEqual([["verify-email"], "button"]);
    await page.submit("verify-email");
    expect(answered(page)).toContain("verified");
    expect(await at.must(200, "GET", "/api/auth/me", undefined, member.access)).toMatchObject({
      is_verified: true,
    });

    const reset = `#reset-password=${await issue("reset_password")}`;
    page.follow(reset);
    expect([shown(page), answered(page)]).toEqual([["reset-password"], ""]);
    await page.submit("reset-password", { new_password: `another ${PASSWORD}` });
    expect(answered(page)).toContain("The password is set");
    await at.login(member.email, `another ${PASSWORD}`);

    page.follow(reset);
    await page.submit("reset-password", { new_password: `a third ${PASSWORD}` });
    expect(answered(page)).toMatch(/not good any more.*token is used, expired or unknown/);
    expect(page.focused?.id).toBe("answer");
    expect(shown(page)).toEqual(["reset-password"]);
  });

  test("a link that is opened while another is answered keeps its form and its token", async () => {
    const tokens: unknown[] = [];
    const answered = Promise.withResolvers<Response>();
    const page = await visit(at.app, "#verify-email=first", async (request) => {
      tokens.push(((await request.json()) as { token: unknown }).token);
      return tokens.length === 1 ? answered.promise : new Response(null, { status: 204 });
    });
    const first = page.submit("verify-email");
    page.follow("#reset-password=second");
    answered.resolve(new Response(null, { status: 204 }));
    await first;
    expect(shown(page)).toEqual(["reset-password"]);
    await page.submit("reset-password", { new_password: PASSWORD });
    expect(tokens).toEqual(["first", "second"]);
  });

  test("a server that is gone is told, and what was typed stays", async () => {
    const page = await visit(at.app, "#reset-password=abc", () =>
      Promise.reject(new Error("gone")),
    );
    await page.submit("reset-password", { new_password: PASSWORD });
    expect(answered(page)).toContain("cannot be reached");
    expect(page.element("reset-password-new_password")?.value).toBe(PASSWORD);
  });
});
