import { readFileSync } from "node:fs";
import { cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";
import { findPostgres, findTool as findBackend, type Tool } from "../../test/harness/tools";
import { nodePath, pythonWithPackages } from "./peers";
import { peersDir, rootDir } from "./paths";
import { straceVersion } from "./strace";
import { findTool, firstLine } from "./tools";

/** What the figures were taken on. */
export function machine(): Record<string, string> {
  return {
    processor: `${cpus()[0]?.model ?? "unknown"}, ${cpus().length} cores`,
    kernel: `${type()} ${release()}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    "file system": fileSystem(),
  };
}

function fileSystem(): string {
  return firstLine(["stat", "-f", "-c", "%T", rootDir]) ?? "unknown";
}

/** The version of everything that takes part; what is not here says so. */
export async function versions(): Promise<Record<string, string>> {
  const packages = packageVersions();
  const node = nodePath();
  const python = pythonWithPackages();
  const requirements = readFileSync(join(peersDir, "requirements.txt"), "utf8");
  const pinned = (name: string) =>
    new RegExp(`^${name}==(.*)$`, "m").exec(requirements)?.[1] ?? "?";
  const found: Record<string, string> = {
    bun: Bun.version,
    "sqlite in bun": sqliteVersion(),
    hono: packages["hono"] ?? "?",
    elysia: packages["elysia"] ?? "?",
    fastify: packages["fastify"] ?? "?",
    "better-sqlite3": packages["better-sqlite3"] ?? "?",
    node: (node && firstLine([node, "--version"])) ?? "missing",
    fastapi: pinned("fastapi"),
    uvicorn: pinned("uvicorn"),
    sqlalchemy: pinned("SQLAlchemy"),
    postgres: backendVersion(await findPostgres(), "postgres"),
    redis: backendVersion(await findBackend("redis-server")),
    python: "path" in python ? (firstLine([python.path, "--version"]) ?? "?") : "missing",
    "sqlite in python":
      firstLine(["python3", "-c", "import sqlite3; print(sqlite3.sqlite_version)"]) ?? "missing",
    nginx: toolVersion("nginx", "-v"),
    wrk: toolVersion("wrk", "-v"),
    strace: straceVersion() ?? "missing",
  };
  return found;
}

/** Of a program that the tests find as well; `name` where they find its directory. */
function backendVersion(tool: Tool, name = ""): string {
  if (tool.path === null) return `missing: ${tool.reason}`;
  return firstLine([join(tool.path, name), "--version"]) ?? "missing";
}

function toolVersion(name: string, flag: string): string {
  const tool = findTool(name);
  if ("missing" in tool) return `missing: ${tool.missing}`;
  return firstLine([tool.path, flag]) ?? "missing";
}

function sqliteVersion(): string {
  const code =
    'console.log(new (require("bun:sqlite").Database)(":memory:").query("select sqlite_version() v").get().v)';
  return firstLine([process.execPath, "-e", code]) ?? "?";
}

/** Exact versions from the two package.json files. */
function packageVersions(): Record<string, string> {
  const read = (path: string) =>
    JSON.parse(readFileSync(path, "utf8")) as { dependencies?: Record<string, string> };
  return {
    ...read(join(rootDir, "package.json")).dependencies,
    ...read(join(peersDir, "package.json")).dependencies,
  };
}
