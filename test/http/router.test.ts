import { expect, test } from "bun:test";
import { TrieRouter } from "hono/router/trie-router";
import { KnownPaths } from "../../src/http/router.ts";

const routes = [
  ["GET", "/api/signals"],
  ["POST", "/api/signals"],
  ["GET", "/api/signals/latest"],
  ["GET", "/api/signals/:id"],
  ["GET", "/api/signals/hash/:sha256"],
  ["GET", "/docs"],
  ["GET", "/docs/"],
  ["ALL", "/files/*"],
] as const;
const paths = [
  "/api/signals",
  "/api/signals/",
  "/api/signals/latest",
  "/api/signals/7",
  "/api/signals/8",
  "/api/signals/hash/ab",
  "/docs",
  "/docs/",
  "/files/a/b",
  "/nothing",
];

test("finds what Hono's router finds, the first time and every other", () => {
  const [known, plain] = [new KnownPaths<string>(), new TrieRouter<string>()];
  for (const [method, path] of routes) {
    for (const router of [known, plain]) router.add(method, path, `${method} ${path}`);
  }
  for (let round = 0; round < 3; round += 1) {
    for (const method of ["GET", "POST", "DELETE"]) {
      for (const path of paths) {
        const [found, wanted] = [known.match(method, path), plain.match(method, path)];
        expect(found, `${method} ${path}`).toEqual(wanted);
      }
    }
  }
  expect(known.match("GET", "/api/signals/latest")[0][0]?.[0]).toBe("GET /api/signals/latest");
});

test("a route that is added later is found", () => {
  const router = new KnownPaths<string>();
  router.add("GET", "/a", "first");
  expect(router.match("GET", "/a")[0]).toHaveLength(1);
  router.add("GET", "/a", "second");
  expect(router.match("GET", "/a")[0]).toHaveLength(2);
});
