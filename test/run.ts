/**
 * What `bun run test` runs: every test but those of test/deep, two files at a time (with `--deep` all
 * of them, one at a time) beside one Postgres for all, then one last line with the counts of the
 * runner's own report.
 * Other arguments go to `bun test`: files to run, `-t NAME`.
 */
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { tempDir } from "./harness/process.ts";
import { ownPostgres, POSTGRES_ENV, sharing, type OwnPostgres } from "./harness/servers.ts";

/** So that nothing hangs; hooks have as long. What is to be quick says so itself. */
const TEST_MS_MAX = 120_000;

/** Says that the binary is of today: a run within a run would make it anew under those who use it. */
export const BUILT_ENV = "ARGO_TEST_BUILT";

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** The totals of a JUnit report, or null when it holds none. */
export function parseCounts(junit: string): Counts | null {
  const totals = /<testsuites\b[^>]*>/.exec(junit)?.[0] ?? "";
  const [tests, failed, skipped] = ["tests", "failures", "skipped"].map((name) => {
    const value = new RegExp(`\\b${name}="(\\d+)"`).exec(totals)?.[1];
    return value === undefined ? undefined : Number(value);
  });
  if (tests === undefined || failed === undefined || skipped === undefined) return null;
  return { passed: tests - failed - skipped, failed, skipped };
}

const entities: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
const unescaped = (text: string): string =>
  text
    .replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)))
    .replace(/&(lt|gt|quot|apos|amp);/g, (_, name) => entities[name] ?? "");

const FAILURE_CHARS_MAX = 2_000;

/** Each failure of a JUnit report: file and line, the test's name, what was wrong. */
export function parseFailures(junit: string): string[] {
  const cases = junit.matchAll(/<testcase\b([^>]*[^/])>\s*<failure\b([^>]*)>/g);
  return [...cases].map(([, about = "", failure = ""]) => {
    const of = (name: string, text = about): string =>
      unescaped(new RegExp(`\\b${name}="([^"]*)"`).exec(text)?.[1] ?? "");
    const message = (of("message", failure) || of("type", failure)).slice(0, FAILURE_CHARS_MAX);
    return `${of("file")}:${of("line")}: ${of("name")}\n${message.trim().replace(/^/gm, "    ")}`;
  });
}

async function main(args: string[]): Promise<number> {
  const deep = args.includes("--deep");
  const rest = args.filter((arg) => arg !== "--deep");
  // Whatever a test leaves behind goes with it.
  using dir = tempDir();
  // Postgres refuses to be root: those that tests start live below as somebody else.
  chmodSync(dir.path, 0o711);
  const report = dir.file("junit.xml");
  const starting = startPostgres();
  const built = process.env[BUILT_ENV] !== undefined || (await build());
  await using server = await starting;
  if (!built) return 1;
  const command = [process.execPath, "test", "--no-orphans", `--timeout=${TEST_MS_MAX}`];
  command.push("--reporter=junit", `--reporter-outfile=${report}`);
  if (!deep) {
    command.push("--path-ignore-patterns=test/deep/**");
    // Files wait for processes and clocks more than they work. What deep ones measure stands alone.
    command.push("--parallel=2", "--no-isolate");
  }
  const given = { TMPDIR: dir.path, [BUILT_ENV]: "yes" };
  const runner = Bun.spawn([...command, ...rest], {
    env: { ...process.env, ...given, ...(server === null ? {} : sharing(server)) },
    stdio: ["inherit", "inherit", "inherit"],
  });
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => runner.kill(signal));
  }
  const exitCode = await runner.exited;

  const file = Bun.file(report);
  const junit = (await file.exists()) ? await file.text() : "";
  const counts = parseCounts(junit);
  if (counts === null) {
    console.error(`the runner ended with exit code ${exitCode} and left no report`);
    return exitCode || 1;
  }
  // Once more at the end, where they are found.
  for (const failure of parseFailures(junit)) console.error(`\n${failure}`);
  return summarize(counts, exitCode);
}

/** Some tests run the binary, and must not run yesterday's. */
async function build(): Promise<boolean> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../build.ts")], {
    cwd: join(import.meta.dir, ".."),
    stdio: ["ignore", "inherit", "inherit"],
  });
  return (await child.exited) === 0;
}

/** Null when there is one already, or when none can be had: the tests that need it say so then. */
async function startPostgres(): Promise<OwnPostgres | null> {
  if (process.env[POSTGRES_ENV] !== undefined) return null;
  try {
    return await ownPostgres();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return null;
  }
}

function summarize(counts: Counts, exitCode: number): number {
  const { passed, skipped } = counts;
  // A file that does not load is in no report: the exit code alone tells of it.
  const failed = exitCode === 0 ? counts.failed : Math.max(counts.failed, 1);
  if (failed > counts.failed) console.error("something failed outside of the tests, see above");
  if (passed + failed === 0) console.error("no test ran");
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
  return exitCode || (failed > 0 || passed === 0 ? 1 : 0);
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
