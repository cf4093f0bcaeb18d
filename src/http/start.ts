import { Hono } from "hono";
import type { AppEnv } from "./exchange";
import script from "./start/start.script.js" with { type: "text" };
import style from "./start/start.css" with { type: "text" };

/** A field of a form, with a place for what is wrong with it. */
const field = (form: string, name: string, label: string, attributes: string) => `
<label for="${form}-${name}">${label}</label>
<input id="${form}-${name}" name="${name}" ${attributes} required aria-describedby="${form}-${name}-fault">
<p class="fault" id="${form}-${name}-fault"></p>`;

const newPassword = 'type="password" autocomplete="new-password" minlength="8" maxlength="256"';

/** What the links lead to. Hidden until the script has read one; novalidate: the API's words count. */
const forms = `
<form id="setup" action="api/auth/setup" method="post" novalidate hidden>
<h2>The first administrator</h2>
${field("setup", "email", "E-mail address", 'type="email" autocomplete="username"')}
${field("setup", "full_name", "Full name", 'type="text" autocomplete="name" maxlength="200"')}
${field("setup", "password", "Password, of 8 characters or more", newPassword)}
<button>Make the administrator</button>
</form>
<form id="reset-password" action="api/auth/password/reset" method="post" novalidate hidden>
<h2>A new password</h2>
${field("reset-password", "new_password", "New password, of 8 characters or more", newPassword)}
<button>Set the password</button>
</form>
<form id="verify-email" action="api/auth/verify-email" method="post" novalidate hidden>
<h2>Your e-mail address</h2>
<p>Is the address that this link was sent to yours?</p>
<button>Verify the address</button>
</form>`;

// Relative addresses: behind a proxy the server may be below a path.
const page = (accounts: boolean) => `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>argo-alpine</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="start.css">
<script src="start.js" defer></script></head>
<body><main>
<h1>argo-alpine</h1>
<p>A self-hosted trading-signal server: strategies write signals, bots read them. Nothing here is
financial advice.</p>
<ul>
<li><a href="docs">The documentation of the API</a></li>
<li><a href="openapi.json">The OpenAPI document</a></li>
<li><a href="health">How the server is</a></li>
</ul>
${accounts ? forms : ""}
<p id="answer" role="status" aria-live="polite" tabindex="-1"></p>
<noscript><p>A link of a mail or of the log needs JavaScript here. Without it, send the token in it to
the API: the documentation says how.</p></noscript>
</main></body>
</html>
`;

// Our own files alone, and no form is sent but by the script: no password gets into an address.
const headers = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
  "Cache-Control": "no-cache",
};

/**
 * The page that the links of mails and of the log lead to. The token behind their # is sent to no
 * server before somebody presses the button. Without accounts it says what this is, and no more.
 */
export function startRoutes(accounts: boolean) {
  const html = page(accounts);
  const js = { ...headers, "Content-Type": "text/javascript; charset=utf-8" };
  const css = { ...headers, "Content-Type": "text/css; charset=utf-8" };
  return new Hono<AppEnv>()
    .get("/", (c) => c.html(html, 200, headers))
    .get("/start.js", (c) => c.body(script, 200, js))
    .get("/start.css", (c) => c.body(style, 200, css));
}
