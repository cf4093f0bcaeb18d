import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "./paths";

/** A tool's path, or why it cannot be had. */
export type Tool = { path: string } | { missing: string };

/**
 * Finds a program: on the PATH, else in the Debian package, which is unpacked into .cache and
 * never installed.
 */
export function findTool(name: string, debianPackage = name): Tool {
  const onPath = Bun.which(name) ?? Bun.which(name, { PATH: "/usr/sbin:/sbin" });
  if (onPath) return { path: onPath };
  const root = join(cacheDir, "debian", debianPackage);
  if (!existsSync(root)) {
    const fault = unpack(debianPackage, root);
    if (fault) return { missing: fault };
  }
  for (const place of ["usr/bin", "usr/sbin", "bin", "sbin"]) {
    const path = join(root, place, name);
    if (existsSync(path)) return { path };
  }
  return { missing: `${name} is not in the package ${debianPackage}` };
}

function unpack(debianPackage: string, root: string): string | null {
  if (!Bun.which("apt-get") || !Bun.which("dpkg")) return "not on the PATH, and no apt-get here";
  const downloads = join(cacheDir, "debian", `${debianPackage}.download`);
  mkdirSync(downloads, { recursive: true });
  const got = Bun.spawnSync(["apt-get", "download", debianPackage], {
    cwd: downloads,
    timeout: 60_000,
  });
  const file = readdirSync(downloads).find((entry) => entry.endsWith(".deb"));
  if (!got.success || !file) return `apt-get download ${debianPackage} failed`;
  const out = Bun.spawnSync(["dpkg", "-x", join(downloads, file), root]);
  return out.success ? null : `dpkg -x ${file} failed`;
}

/** The first line that a command prints, or null when it cannot run. */
export function firstLine(command: readonly string[]): string | null {
  try {
    const { stdout, stderr } = Bun.spawnSync([...command], { timeout: 10_000 });
    const text = `${stdout.toString()}\n${stderr.toString()}`.trim();
    return text.split("\n")[0] ?? null;
  } catch {
    return null; // not there at all: the caller names it as missing
  }
}
