/** A page of the tests' own with the client in it, and what runs there. */
import { join } from "node:path";
import type { StreamNotice } from "../../client/src/index.ts";
import { BACKEND, serveAccounts, type ServedAccounts } from "../harness/accounts.ts";
import { startBrowser, type BrowserPage } from "../harness/browser.ts";
import { findTool } from "../harness/tools.ts";
import { signals, writer } from "./serve.ts";

/** What the page has: functions that run in it see these, and nothing of this file. */
declare const client: typeof import("../../client/src/index.ts");
declare const followed: Followed;

interface Followed {
  ids: number[];
  notices: StreamNotice[];
  cursor: () => number | null;
  /** What ended it. */
  error: { name: string; reason?: string; status?: number } | null;
}

const html = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>a page</title>
<ul></ul>
<script type="module">
import * as client from "/client.js";
Object.assign(globalThis, { client });
</script>`;

export const CLIENT = join(import.meta.dir, "../../client");

/** What a bundler makes of a script for browsers, which finds the client under its name. */
export async function bundle(entry: string, files: Record<string, string> = {}): Promise<string> {
  const built = await Bun.build({
    entrypoints: [entry],
    files,
    target: "browser",
    minify: true,
    plugins: [
      {
        name: "the client",
        setup: ({ onResolve }) =>
          void onResolve({ filter: /^@argo-alpine\/client$/ }, () => ({
            path: join(CLIENT, "src/index.ts"),
          })),
      },
    ],
  });
  return (await built.outputs[0]?.text()) ?? "";
}

interface ServedPage extends AsyncDisposable {
  origin: string;
  /** The client as it is sent. */
  script: string;
}

/** Serves the page with the client in it, from an origin of its own. */
async function servePage(): Promise<ServedPage> {
  const script = await bundle(join(CLIENT, "src/index.ts"));
  const js = { headers: { "Content-Type": "text/javascript" } };
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    routes: {
      "/client.js": () => new Response(script, js),
      "/": () => new Response(html, { headers: { "Content-Type": "text/html" } }),
    },
  });
  return {
    script,
    origin: server.url.origin,
    [Symbol.asyncDispose]: () => server.stop(true),
  };
}

const tool = await findTool("chromium");
export const noBrowser = tool.path === null;
if (tool.path === null) console.warn(`no browser was tried: ${tool.reason}`);

/** A browser, a server with 20 signals, and a page that it lists. */
export interface World extends AsyncDisposable {
  at: ServedAccounts;
  /** Of somebody with the plan `elite`. */
  key: string;
  email: string;
  listed: ServedPage;
  /** From an origin that is not listed. */
  stranger: ServedPage;
  /** The page, anew. */
  open(page?: ServedPage): Promise<BrowserPage>;
}

export async function openWorld(): Promise<World> {
  if (tool.path === null) throw new Error(tool.reason);
  await using cleanup = new AsyncDisposableStack();
  const listed = cleanup.use(await servePage());
  const stranger = cleanup.use(await servePage());
  const browser = cleanup.use(await startBrowser(tool.path));
  const env = { SIGNALS_ACCESS: "key", CORS_ORIGINS: listed.origin };
  const at = cleanup.use(await serveAccounts("source", BACKEND, env));
  const [boss, { id, email }] = [await at.admin(), await at.member()];
  await at.must(200, "PATCH", `/api/admin/users/${id}`, { tier: "elite" }, boss.access);
  const key = await at.key(await at.login(email));
  await writer(at.server.url).post(signals(20));
  const whole = cleanup.move();
  return {
    at,
    key,
    email,
    listed,
    stranger,
    async open({ origin } = listed) {
      const page = await browser.page();
      await page.open(origin);
      return page;
    },
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

/** A stream that is read in a page. */
export interface PageFollower {
  ids: () => Promise<number[]>;
  cursor: () => Promise<number | null>;
  /** How many notices it was given of this type. */
  told: (type: StreamNotice["type"]) => Promise<number>;
  error: () => Promise<Followed["error"]>;
}

/** Starts to read a stream, which goes on until the page is closed or reads another one. */
export async function followIn(
  page: BrowserPage,
  url: string,
  token: string,
  sinceId: number,
): Promise<PageFollower> {
  const start = (url: string, token: string, sinceId: number): void => {
    const argo = new client.Argo({ url, token, backoffMs: 100, muteMs: 2_000 });
    const notices: StreamNotice[] = [];
    const onNotice = (notice: StreamNotice): void => void notices.push(notice);
    const stream = argo.stream({}, { sinceId, onNotice });
    const state: Followed = { ids: [], notices, cursor: () => stream.cursor, error: null };
    Object.assign(globalThis, { followed: state });
    const read = async (): Promise<void> => {
      for await (const { id } of stream) state.ids.push(id);
    };
    read().catch(({ name, reason, status }) => {
      state.error = { name, reason, status };
    });
  };
  await page.run(start, url, token, sinceId);
  return {
    ids: () => page.run(() => followed.ids),
    cursor: () => page.run(() => followed.cursor()),
    told: (asked) =>
      page.run((asked) => followed.notices.filter(({ type }) => type === asked).length, asked),
    error: () => page.run(() => followed.error),
  };
}

/** What scripts did wrong, and what a policy forbade them; not what the network did, nor advice. */
export const faultsOf = (page: BrowserPage): string[] =>
  page.console().filter((line) => !/^verbose: |^error: Failed to load resource/.test(line));
