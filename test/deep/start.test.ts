/** The server's own pages in a Chromium, which holds them to their policies. */
import { expect, test } from "bun:test";
import { BACKEND, PASSWORD, serveAccounts } from "../harness/accounts.ts";
import { startBrowser } from "../harness/browser.ts";
import { startServer, until } from "../harness/process.ts";
import { findTool } from "../harness/tools.ts";

const tool = await findTool("chromium");
if (tool.path === null) console.warn(`no browser was tried: ${tool.reason}`);

test.skipIf(tool.path === null)(
  "the start page makes the administrator; neither it nor the documentation is faulted",
  async () => {
    await using fresh = await serveAccounts("source", BACKEND);
    const { url, logs } = fresh.server;
    const link = (): string => /#setup=[\w-]+/.exec(logs().join("\n"))?.[0] ?? "";
    await until(() => link() !== "", "the link");
    await using browser = await startBrowser(tool.path ?? "");
    await using page = await browser.page();
    await page.open(`${url}/${link()}`);
    const shown = async (): Promise<string> => String(await page.value("document.body.innerText"));
    const focused = (): Promise<unknown> => page.value("document.activeElement.id");
    expect(await focused()).toBe("setup-email");
    expect(await page.value("location.hash")).toBe("");
    // As by keyboard alone; the first time without an address.
    await page.type(`nobody{Tab}The First{Tab}${PASSWORD}{Enter}`);
    await until(async () => (await focused()) === "setup-email", "the fault");
    expect(await page.value("document.getElementById('setup-email-fault').innerText")).not.toBe("");
    await page.value("document.activeElement.select()");
    await page.type("first@example.com{Enter}");
    await until(async () => (await shown()).includes("The administrator is made"), "the answer");
    expect(await fresh.login("first@example.com")).toMatchObject({ email: "first@example.com" });

    await page.open(`${url}/docs`);
    await until(async () => (await shown()).includes("/api/signals/latest"), "the documentation");
    // Advice apart, nothing was told but that the server refused the address that was none.
    const told = page.console().filter((line) => !line.startsWith("verbose: "));
    expect(told).toEqual([expect.stringContaining("status of 422")]);
  },
);

test.skipIf(tool.path === null)("below a path of a proxy both work as well", async () => {
  await using server = await startServer({ env: { SIGNALS_ACCESS: "open" } });
  await using proxy = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname, search } = new URL(request.url);
      if (!pathname.startsWith("/argo/")) return new Response(null, { status: 404 });
      // Packed, it would be unpacked on its way.
      const headers = { "Accept-Encoding": "identity" };
      const url = server.url + pathname.slice("/argo".length) + search;
      return fetch(url, { headers, redirect: "manual" });
    },
  });
  await using browser = await startBrowser(tool.path ?? "");
  await using page = await browser.page();
  const has = async (text: string): Promise<void> =>
    until(async () => String(await page.value("document.body.innerText")).includes(text), text);
  await page.open(`${proxy.url}argo/#setup=abc`);
  await has("This server has no accounts");
  await page.open(`${proxy.url}argo/docs/`);
  await has("/api/signals/latest");
  // Opens a route and sends what stands there.
  for (const button of [".opblock-get .opblock-summary-control", ".try-out__btn", ".execute"]) {
    await until(
      async () => (await page.value(`document.querySelector("${button}") !== null`)) === true,
      button,
    );
    await page.value(`document.querySelector("${button}").click()`);
  }
  await has("Server response");
  expect(await page.value('document.querySelector(".request-url").innerText')).toContain(
    `${proxy.url}argo/api/`,
  );
  expect(page.console()).toEqual([]);
});
