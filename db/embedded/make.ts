/**
 * Makes postgres-18.tar.zst, the data directory that the embedded Postgres begins with: initdb
 * takes it 2.5 s and 900 MB, unpacking 0.2 s. To be run again when PGlite's Postgres gets another
 * major version, which is in the name. Needs GNU tar.
 *
 *   bun db/embedded/make.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PGlite } from "@electric-sql/pglite";

const dir = mkdtempSync(join(tmpdir(), "argo-initdb-"));
try {
  const db = await PGlite.create(join(dir, "data"));
  await db.exec("VACUUM (FREEZE, ANALYZE)");
  await db.exec("CHECKPOINT");
  await db.close();
  const same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
  const tar = Bun.spawnSync(["tar", ...same, "-C", join(dir, "data"), "-cf", "-", "."]);
  if (tar.exitCode !== 0) throw new Error(tar.stderr.toString());
  const version = (await Bun.file(join(dir, "data/PG_VERSION")).text()).trim();
  const packed = Bun.zstdCompressSync(tar.stdout, { level: 22 });
  const out = join(import.meta.dir, `postgres-${version}.tar.zst`);
  await Bun.write(out, packed);
  console.log(`${out} ${(packed.byteLength / 1e6).toFixed(2)} MB`);
} finally {
  rmSync(dir, { recursive: true, force: true });
}
