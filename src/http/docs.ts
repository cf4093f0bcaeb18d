import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { Hono } from "hono";
import bundle from "swagger-ui-dist/swagger-ui-bundle.js" with { type: "file" };
import style from "swagger-ui-dist/swagger-ui.css" with { type: "file" };
import type { AppEnv } from "./exchange";
import { acceptsGzip } from "./policy";

// Relative addresses, as on the start page: the server may be below a path.
const page = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>argo-alpine API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><main id="ui"></main>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script></body>
</html>
`;
const start = `SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", validatorUrl: null});\n`;

// The page runs our own files alone; Swagger UI sets styles in elements and draws with data: images.
const headers = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'",
  "Cache-Control": "no-cache",
};

/** The API's documentation, from files of this program alone. */
export function docsRoutes() {
  return new Hono<AppEnv>()
    .get("/docs", (c) => c.html(page, 200, headers))
    .get("/docs/", (c) => c.redirect("../docs", 308))
    .get("/docs/start.js", (c) => c.body(start, 200, { ...headers, "Content-Type": js }))
    .get("/docs/swagger-ui-bundle.js", (c) => serveFile(c.req.raw, bundle, js))
    .get("/docs/swagger-ui.css", (c) => serveFile(c.req.raw, style, "text/css; charset=utf-8"));
}

const js = "text/javascript; charset=utf-8";
const compress = promisify(gzip);
const compressed = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();

/** Compressed once, off the server's thread: the bundle is large and never changes. */
async function serveFile(request: Request, path: string, type: string): Promise<Response> {
  const own = { ...headers, "Content-Type": type };
  if (!acceptsGzip(request.headers.get("accept-encoding"))) {
    return new Response(Bun.file(path), { headers: own });
  }
  let body = compressed.get(path);
  if (!body) {
    body = Bun.file(path)
      .bytes()
      .then(async (bytes) => new Uint8Array(await compress(bytes)));
    compressed.set(path, body);
  }
  return new Response(await body, { headers: { ...own, "Content-Encoding": "gzip" } });
}
