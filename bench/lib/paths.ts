import { join, resolve } from "node:path";

export const benchDir = resolve(import.meta.dir, "..");
export const rootDir = resolve(benchDir, "..");
/** Everything that a run makes or fetches; may be deleted at any time. */
export const cacheDir = join(benchDir, ".cache");
export const peersDir = join(benchDir, "peers");
export const engineScript = join(rootDir, "test/engine/argo_engine.py");
export const binaryPath = join(rootDir, "dist/argo-alpine");
