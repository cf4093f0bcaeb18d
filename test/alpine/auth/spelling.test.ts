/** However an address is spelled, and whatever the database folds, one account has one limit (A3). */
import { expect, test } from "bun:test";
import { eq } from "drizzle-orm";
import { Client } from "pg";
import { auditLog } from "../../../db/alpine/schema.ts";
import { JWT_SECRET, PASSWORD } from "../../harness/accounts.ts";
import { openApp } from "../../harness/app.ts";
import { postgres } from "../../harness/servers.ts";

const EMAIL = "victim.visiting@example.com";
/** U+0130 in the place of one i and of both; the Kelvin sign is another that folds into ASCII. */
const SPELLINGS = [
  EMAIL,
  EMAIL.toUpperCase(),
  "vİctim.visiting@example.com",
  "victİm.visiting@example.com",
  "vİctİm.vİsİtİng@example.com",
];

test.each(["LOCALE 'C'", "LOCALE 'C.UTF-8'", "LOCALE_PROVIDER icu ICU_LOCALE 'und' LOCALE 'C'"])(
  "with %s",
  async (locale) => {
    const server = await postgres();
    const name = `spelling_${crypto.randomUUID().replaceAll("-", "")}`;
    const superuser = new Client(server.superuserUrl);
    await superuser.connect();
    try {
      await superuser.query(
        `CREATE DATABASE ${name} OWNER argo TEMPLATE template0 ENCODING 'UTF8' ${locale}`,
      );
      const url = new URL(server.url);
      url.pathname = `/${name}`;
      await using app = await openApp({
        fixture: null,
        role: "all",
        env: { DATABASE_URL: url.href, JWT_SECRET },
      });
      const post = (path: string, body: object) =>
        app.send(
          new Request(`http://argo.test${path}`, {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(body),
          }),
        );
      const signup = { email: EMAIL, password: PASSWORD, full_name: "Victim" };
      expect((await post("/api/auth/signup", signup)).status).toBe(201);
      const answers = new Set<string>();
      for (const email of SPELLINGS) {
        for (let i = 0; i < 11; i += 1) {
          const response = await post("/api/auth/login", { email, password: `guess ${i}` });
          if (response.status === 401) answers.add(await response.text());
          else expect(response.status).toBe(429);
        }
      }
      // One answer for the known and for what nobody can have.
      expect(answers.size).toBe(1);
      const { alpine } = app.deps;
      const rows = await alpine
        ?.db()
        .select()
        .from(auditLog)
        .where(eq(auditLog.event, "login_failed"));
      expect(rows?.filter((row) => row.subjectId !== null).length).toBe(10);
      const right = { email: "vİctİm.vİsİtİng@example.org", password: PASSWORD };
      expect((await post("/api/auth/login", right)).status).toBe(401);
    } finally {
      await superuser.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
      await superuser.end();
    }
  },
);
