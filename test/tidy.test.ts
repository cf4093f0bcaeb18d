import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";

/** The architecture, as far as it can be read off the files. */

const ROOT = join(import.meta.dir, "..");

const files = (pattern: string): string[] =>
  [...new Bun.Glob(pattern).scanSync({ cwd: ROOT })]
    .filter((path) => !/(^|\/)(node_modules|dist|data|\.git)\//.test(path))
    .toSorted();

const read = (path: string): string => readFileSync(join(ROOT, path), "utf8");
const sources = files("src/**/*.ts").filter((path) => !path.endsWith(".d.ts"));
const clients = files("client/src/**/*.ts");

/** What a file imports of this project, statically or not, as paths below the root. */
function importsOf(path: string): string[] {
  const names = [
    ...read(path).matchAll(/(?:^|\n)\s*(?:import|export)\b[^;"']*?from\s*["'](\.[^"']+)["']/g),
    ...read(path).matchAll(/(?:^|\n)\s*import\s*["'](\.[^"']+)["']/g),
    ...read(path).matchAll(/\bimport\(\s*["'](\.[^"']+)["']\s*\)/g),
  ].map((match) => match[1] ?? "");
  return names.map((name) => {
    const at = join(ROOT, dirname(path), name);
    const there = [at, `${at}.ts`, `${at}.tsx`, join(at, "index.ts")].find(
      (candidate) => existsSync(candidate) && statSync(candidate).isFile(),
    );
    if (there === undefined) throw new Error(`${path} imports ${name}, which is not there`);
    return relative(ROOT, there);
  });
}

const graph = new Map(sources.map((path) => [path, importsOf(path)]));

/** Every import from below one folder to below another, for a message. */
const edges = (from: RegExp, to: RegExp): string[] =>
  [...graph].flatMap(([path, imports]) =>
    from.test(path)
      ? imports.filter((name) => to.test(name)).map((name) => `${path} → ${name}`)
      : [],
  );

test("the reader of imports sees what is there", () => {
  expect(sources.length).toBeGreaterThan(30);
  expect(graph.get("src/deps.ts")).toContain("src/argo/argo.ts");
  expect(graph.get("src/main.ts")).toContain("src/cli/serve.ts");
  expect(graph.get("src/argo/signals/adopt.ts")).toContain("db/argo/signals.sql");
});

describe("imports go one way", () => {
  test("argo never imports alpine", () => {
    expect(edges(/^src\/argo\//, /^src\/alpine\//)).toEqual([]);
  });

  test("alpine never imports argo's store", () => {
    expect(edges(/^src\/alpine\//, /^src\/argo\/signals\/(store|ledger|writer|reader)/)).toEqual(
      [],
    );
  });

  test("platform and http import neither plane", () => {
    expect(edges(/^src\/(platform|http)\//, /^src\/(argo|alpine)\//)).toEqual([]);
  });

  test("nothing imports what composes it: main, the command line, the application", () => {
    expect(
      edges(/^src\/(argo|alpine|http|platform)\//, /^src\/(main|app|deps)\.ts$|^src\/cli\//),
    ).toEqual([]);
    expect(edges(/^src\/(app|deps|config|errors)\.ts$/, /^src\/(main\.ts|cli\/)/)).toEqual([]);
    expect(edges(/./, /^src\/main\.ts$/)).toEqual([]);
  });

  test("what runs imports no test, no bench and no client", () => {
    expect(edges(/./, /^(test|bench|examples|client)\//)).toEqual([]);
  });

  test("the client imports what it depends on, and nothing of the server", () => {
    const manifest = JSON.parse(read("client/package.json")) as { dependencies: object };
    const own = new RegExp(`^(\\./\\w+\\.ts|${Object.keys(manifest.dependencies).join("|")})$`);
    const names = clients.flatMap((path) =>
      [...read(path).matchAll(/^(?:import|export|\})[^;"]* from "([^"]+)"/gm)].map(
        (match) => match[1] ?? "",
      ),
    );
    expect(names.length).toBeGreaterThan(10);
    expect(names.filter((name) => !own.test(name))).toEqual([]);
  });

  test("no file imports itself by way of others", () => {
    const cycles: string[] = [];
    const done = new Set<string>();
    const visit = (path: string, above: string[]): void => {
      const at = above.indexOf(path);
      if (at >= 0) cycles.push([...above.slice(at), path].join(" → "));
      if (at >= 0 || done.has(path)) return;
      for (const name of valueImportsOf(path)) visit(name, [...above, path]);
      done.add(path);
    };
    for (const path of sources) visit(path, []);
    expect(cycles).toEqual([]);
  });
});

/** Imports that are there at run time: those of types alone are gone by then. */
function valueImportsOf(path: string): string[] {
  const text = read(path).replaceAll(/(?:^|\n)(?:import|export) type\b[^;]*;/g, "");
  const names = [
    ...text.matchAll(/(?:^|\n)(?:import|export)\b([^;"']*?)from\s*["'](\.[^"']+)["']/g),
  ]
    .filter(([, what = ""]) => !/^\s*\{\s*(type\s+\w+(\s+as\s+\w+)?\s*,?\s*)+\}\s*$/.test(what))
    .map((match) => match[2] ?? "");
  return (graph.get(path) ?? []).filter((name) =>
    names.some(
      (given) => join(dirname(path), given).replace(/\.ts$/, "") === name.replace(/\.ts$/, ""),
    ),
  );
}

test("every file is reached from main or is a thread's beginning", () => {
  const reached = new Set<string>();
  const visit = (path: string): void => {
    if (reached.has(path)) return;
    reached.add(path);
    for (const name of graph.get(path) ?? []) visit(name);
  };
  for (const path of sources.filter((p) => p === "src/main.ts" || p.endsWith(".worker.ts")))
    visit(path);
  expect(sources.filter((path) => !reached.has(path))).toEqual([]);
});

test("every thread that is named is there, and every thread that is there is named", () => {
  const named = sources.flatMap((path) =>
    [...read(path).matchAll(/module:\s*"([^"]+)"/g)].map((match) => `src/${match[1]}.ts`),
  );
  expect(named.toSorted()).toEqual(sources.filter((path) => path.endsWith(".worker.ts")));
});

describe("text that is banned", () => {
  const hits = (paths: string[], banned: RegExp): string[] =>
    paths.flatMap((path) =>
      read(path)
        .split("\n")
        .flatMap((line, i) => (banned.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : [])),
    );
  const self = relative(ROOT, import.meta.path);
  const tests = files("test/**/*.ts").filter((path) => path !== self);
  const all = [
    ...sources,
    ...tests,
    ...clients,
    ...files("bench/**/*.ts"),
    ...files("db/**/*.ts"),
    ...files("*.ts"),
  ];

  test("the environment is read in main alone", () => {
    const others = sources.filter((path) => path !== "src/main.ts");
    expect(hits(others, /process\.env|Bun\.env|import\.meta\.env/)).toEqual([]);
  });

  test("only the command line prints", () => {
    const others = sources.filter((path) => !path.startsWith("src/cli/"));
    expect(hits(others, /\bconsole\./)).toEqual([]);
  });

  test("only the beginning ends the process", () => {
    const others = sources.filter((path) => path !== "src/main.ts");
    expect(hits(others, /process\.exit\(/)).toEqual([]);
  });

  test("the clock is passed in to whoever decides by it", () => {
    const others = sources.filter((path) => !/^src\/(cli|deps)/.test(path));
    expect(hits(others, /\bDate\.now\(\)|new Date\(\)/)).toEqual([]);
  });

  test("types are not switched off", () => {
    expect(hits(all, /\bas any\b|: any\b|<any>|@ts-(ignore|nocheck|expect-error)/)).toEqual([]);
  });

  test("no test is singled out or left aside", () => {
    const aside = /^\s*(test|it|describe)(\.\w+)*\.(only|skip|todo)\(|^\s*(fdescribe|fit|xit)\(/;
    expect(hits(tests, aside)).toEqual([]);
  });

  test("nothing is left to do", () => {
    expect(hits(all, /\b(TODO|FIXME|XXX|HACK)\b/)).toEqual([]);
  });

  test("modules are not mocked", () => {
    expect(hits(tests, /mock\.module|jest\.mock\(/)).toEqual([]);
  });

  test("live database files are opened by SQLite alone", () => {
    const others = sources.filter((path) => !path.startsWith("src/cli/"));
    expect(hits(others, /Bun\.(mmap|write)\(|readFile\(|copyFile/)).toEqual([]);
  });
});

describe("the documents", () => {
  const documents = [
    ...files("*.md"),
    ...files("{src,test,bench,db,docs,examples,client,clients}/**/*.md"),
    ...files(".env.example"),
    ...files("Dockerfile"),
  ];
  const everything = [
    ...documents,
    ...sources,
    ...files("{test,bench,db,examples,client,clients}/**/*.{ts,mjs,py,sql,json,toml}"),
    ...files("*.{ts,json}"),
  ].filter((path) => path !== relative(ROOT, import.meta.path));

  test("are there", () => {
    for (const path of ["README.md", "ARCHITECTURE.md", "LICENSE", ".env.example", "Dockerfile"]) {
      expect(`${path} ${existsSync(join(ROOT, path))}`).toBe(`${path} true`);
    }
  });

  test("begin with two that are short: the long forms go to docs/", () => {
    expect(statSync(join(ROOT, "README.md")).size).toBeLessThan(25_000);
    expect(statSync(join(ROOT, "ARCHITECTURE.md")).size).toBeLessThan(15_000);
  });

  test("name no directory of one machine", () => {
    const machine = /\/(work|root|home|Users)\/\w|\.\.\/shared|\/tmp\/[a-z]+\/[a-z]/;
    const hits = everything.flatMap((path) =>
      read(path)
        .split("\n")
        .flatMap((line, i) => (machine.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : [])),
    );
    expect(hits).toEqual([]);
  });

  test("name only source files that are there", () => {
    const there = files("{src,test,bench,db,examples,client,clients}/**/*.{ts,py,sql}");
    const named = ["ARCHITECTURE.md", "README.md", ...files("docs/*.md")].flatMap((path) =>
      [...read(path).matchAll(/`([\w./-]+\.(?:ts|py|sql))`/g)].map(([, name = ""]) => name),
    );
    expect(named.length).toBeGreaterThan(40);
    expect(named.filter((name) => !there.some((path) => `/${path}`.endsWith(`/${name}`)))).toEqual(
      [],
    );
  });

  test("link only to files and headings that are there", () => {
    const headingsOf = (path: string): string[] => {
      const prose = read(path).replaceAll(/^```.*?^```/gms, "");
      const anchors = [...prose.matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) =>
        heading
          .toLowerCase()
          .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
          .replaceAll(" ", "-"),
      );
      expect(anchors.filter((anchor, i) => anchors.indexOf(anchor) < i)).toEqual([]);
      return anchors;
    };
    const links = documents
      .filter((path) => path.endsWith(".md"))
      .flatMap((path) =>
        [...read(path).matchAll(/\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)/g)].map(
          ([link, file = "", anchor]) => ({
            name: `${path}: ${link}`,
            target: file === "" ? path : join(dirname(path), file),
            anchor,
          }),
        ),
      );
    expect(links.length).toBeGreaterThan(40);
    expect(links.filter((link) => link.anchor !== undefined).length).toBeGreaterThan(20);
    const missing = links.filter(
      ({ target, anchor }) =>
        !existsSync(join(ROOT, target)) ||
        (anchor !== undefined && !headingsOf(target).includes(anchor)),
    );
    expect(missing.map(({ name }) => name)).toEqual([]);
  });
});

test("dependencies are pinned to one version, and each is used", () => {
  const manifest = JSON.parse(read("package.json")) as Record<string, Record<string, string>>;
  const text = [
    ...sources,
    ...clients,
    ...files("{test,bench,db}/**/*.ts"),
    ...files("*.ts"),
    "src/assets.d.ts",
  ]
    .map(read)
    .join("\n");
  const tools = new Set(["oxlint", "bun-types", "typescript"]);
  // Chosen for what is being built: each goes from this list with its first use.
  for (const name of ["cockatiel", "pg-boss"]) tools.add(name);
  for (const group of ["dependencies", "devDependencies"]) {
    for (const [name, version] of Object.entries(manifest[group] ?? {})) {
      expect(`${name}@${version}`).toMatch(/@\d+\.\d+\.\d+(-[\w.]+)?$/);
      const used = tools.has(name) || name.startsWith("@types/") || text.includes(`"${name}`);
      expect(`${name} ${used}`).toBe(`${name} true`);
    }
  }
});

test("no dependency runs a script of its own when it is installed", () => {
  // Without the list Bun runs those of packages that it trusts by itself; one of them phones home.
  const manifest = JSON.parse(read("package.json")) as { trustedDependencies?: string[] };
  expect(manifest.trustedDependencies).toEqual([]);
});
