import { build, file, Glob, zstdCompress } from "bun";

/**
 * Builds dist/argo-alpine: one executable that needs nothing beside it.
 * Both autoload flags are off: a compiled binary would otherwise run the `preload` of a
 * bunfig.toml and read a .env in whatever directory it is started in.
 */
const outfile = "dist/argo-alpine";
const target = process.argv[2] as Bun.Build.CompileTarget | undefined;

/** The embedded Postgres would add 15 MB as it is; packed it adds 4.5, for 50 ms at its start. */
const packed: Bun.BunPlugin = {
  name: "packed",
  setup(builder) {
    builder.onLoad({ filter: /pglite\.(wasm|data)$/ }, async ({ path }) => ({
      contents: await zstdCompress(await file(path).bytes(), { level: 12 }),
      loader: "file",
    }));
  },
};

const result = await build({
  entrypoints: [
    "src/main.ts",
    // Threads are entry points of their own, found below src/ by platform/thread.ts.
    ...new Glob("src/**/*.worker.ts").scanSync(),
  ],
  root: "src",
  plugins: [packed],
  minify: true,
  bytecode: true,
  format: "esm",
  // What threads and commands share is in it once: 5 MB less.
  splitting: true,
  compile: {
    outfile,
    ...(target && { target }),
    autoloadDotenv: false,
    autoloadBunfig: false,
  },
});
for (const log of result.logs) console.error(log);
if (!result.success) process.exit(1);
console.log(`${outfile} ${(file(outfile).size / 1e6).toFixed(1)} MB`);
