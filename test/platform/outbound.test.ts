/** What may be asked on behalf of strangers (H6), with real sockets and a real TLS server. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { getServers, setServers } from "node:dns";
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { isAllowed, Outbound, type OutboundOptions } from "../../src/platform/outbound.ts";
import { spawnChild } from "../harness/children.ts";
import { freePort, leastMs, tempDir } from "../harness/process.ts";

let connections = 0;
let requests: string[] = [];
let respond: (socket: Socket) => void = (socket) =>
  socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
let plain: Server;
let secure: Server;
let ca = "";
const portOf = (server: Server): number => (server.address() as { port: number }).port;

const serve = (socket: Socket): void => {
  socket.on("error", () => undefined);
  socket.once("data", (bytes) => {
    requests.push(bytes.toString());
    respond(socket);
  });
};
const listen = (server: Server): Promise<void> =>
  new Promise((done) => server.listen(0, "127.0.0.1", done));

beforeAll(async () => {
  using dir = tempDir();
  const [key, cert] = [dir.file("key.pem"), dir.file("cert.pem")];
  const subject = [
    "-subj",
    "/CN=hooks.example.com",
    "-addext",
    "subjectAltName=DNS:hooks.example.com",
  ];
  const made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
  const child = [...made, "-nodes", "-days", "2", "-keyout", key, "-out", cert, ...subject];
  await using openssl = spawnChild(child, { cwd: dir.path });
  expect(await openssl.done).toBe(0);
  ca = await Bun.file(cert).text();
  plain = createServer(serve);
  secure = createTlsServer({ cert: ca, key: await Bun.file(key).text() }, serve);
  for (const server of [plain, secure]) {
    server.on("connection", () => {
      connections += 1;
    });
    await listen(server);
  }
});
afterAll(() => {
  plain.close();
  secure.close();
});

const post = (url: string, options: Partial<OutboundOptions> = {}, timeoutMs = 2_000) =>
  new Outbound({ allowPrivate: false, ca, ...options }).post({
    url,
    headers: { "Content-Type": "application/json" },
    body: '{"a":"é"}',
    timeoutMs,
  });
/** A name that leads to these addresses, one after the other asked for. */
const leadingTo = (...answers: string[][]) => {
  const asked: string[] = [];
  return {
    asked,
    resolve: (name: string) => {
      asked.push(name);
      return Promise.resolve(answers[Math.min(asked.length, answers.length) - 1] ?? []);
    },
  };
};
const notPublic = "must not lead to an address that is not public";

describe("an address that is not public", () => {
  const addresses = `
    127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.9.9 192.168.1.1
    169.254.169.254 169.254.1.1 100.64.0.1 100.127.255.255 192.0.0.1 192.0.2.1 192.88.99.1
    198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 ::
    ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
    64:ff9b::7f00:1 64:ff9b:1::a00:1 2002:7f00:1:: 2002:a9fe:a9fe::1 2001::1 2001:db8::1 fc00::1
    fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 100::1 4000::1 5f00::1 nonsense
    168.63.129.16 ::ffff:168.63.129.16
  `;
  test.each([...addresses.trim().split(/\s+/), "", "127.0.0.1\n8.8.8.8"])("%p", (address) =>
    expect(isAllowed(address, false)).toBeFalse(),
  );

  test("may be a private one where that is allowed, never one that clouds keep apart", () => {
    const inside =
      "127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 ::1 fd00::1 ::ffff:10.0.0.1";
    const never = `169.254.169.254 ::ffff:169.254.169.254 fd00:ec2::254 fe80::1 0.0.0.0 :: 224.0.0.1
      ff02::1 255.255.255.255 240.0.0.1 192.0.2.1 64:ff9b::a00:1 2002:a00:1:: 100.100.100.200
      168.63.129.16 fd20:ce::254`;
    const allowed = (list: string) => list.split(/\s+/).map((address) => isAllowed(address, true));
    expect(new Set(allowed(inside))).toEqual(new Set([true]));
    expect(new Set(allowed(never))).toEqual(new Set([false]));
  });

  test("while those of the internet are", () => {
    for (const address of ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"]) {
      expect([address, isAllowed(address, false)]).toEqual([address, true]);
    }
  });
});

test("nothing connects, however the host is written", async () => {
  const tls = portOf(secure);
  const before = connections;
  const hosts = `
    127.0.0.1 2130706433 017700000001 0x7f000001 0x7f.1 127.1 0177.0.0.1 127.0.0.1. ①②⑦.0.0.1
    １２７.0.0.1 0 localhost LOCALHOST localhost. a.localhost loc%61lhost [::1] [::]
    [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [64:ff9b::127.0.0.1]
    [2002:7f00:1::] [::127.0.0.1] 10.0.0.1 192.168.0.1 169.254.169.254 [fd00:ec2::254]
    100.64.0.1
  `;
  const outbound = new Outbound({ allowPrivate: false, ca });
  for (const host of hosts.trim().split(/\s+/)) {
    const url = `https://${host}:${tls}/`;
    expect([host, await outbound.fault(url)]).toEqual([host, notPublic]);
    await expect(post(url)).rejects.toThrow(notPublic);
  }
  for (const [url, reason] of [
    [`http://8.8.8.8:${portOf(plain)}/`, "must begin with https://"],
    ["file:///etc/passwd", "must begin with https://"],
    ["gopher://8.8.8.8/", "must begin with https://"],
    ["https://user:password@8.8.8.8/", "must hold no name and no password"],
    ["https://user@8.8.8.8/", "must hold no name and no password"],
    ["nonsense", "must be a URL"],
    ["https://[::1/", "must be a URL"],
  ] as const) {
    expect([url, await outbound.fault(url)]).toEqual([url, reason]);
    await expect(post(url)).rejects.toThrow(reason);
  }
  expect(connections).toBe(before);
});

test("nothing connects to a name that leads to such an address, alone or among others", async () => {
  const before = connections;
  const url = `https://hooks.example.com:${portOf(secure)}/`;
  for (const found of [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["::1"]]) {
    const { resolve } = leadingTo(found);
    expect(await new Outbound({ allowPrivate: false, resolve }).fault(url)).toBe(notPublic);
    await expect(post(url, { resolve })).rejects.toThrow(notPublic);
  }
  const { resolve } = leadingTo([]);
  await expect(post(url, { resolve })).rejects.toThrow("cannot be resolved");
  expect(await new Outbound({ allowPrivate: false, resolve }).fault(url)).toContain("resolved");
  // The system's own resolver is asked as well.
  await expect(post(`https://no-such-name.invalid:${portOf(secure)}/`)).rejects.toThrow("resolved");
  expect(connections).toBe(before);
});

test("a name that leads elsewhere when it is asked for again leads nowhere", async () => {
  const before = connections;
  const url = `https://hooks.example.com:${portOf(secure)}/`;
  const { resolve, asked } = leadingTo(["8.8.8.8"], ["127.0.0.1"]);
  const outbound = new Outbound({ allowPrivate: false, resolve, ca });
  expect(await outbound.fault(url)).toBeNull();
  const posted = outbound.post({ url, headers: {}, body: "{}", timeoutMs: 2_000 });
  await expect(posted).rejects.toThrow(notPublic);
  await posted.catch(() => undefined);
  expect(asked).toHaveLength(2);
  expect(connections).toBe(before);
});

test("the connection goes to the address that was checked, once, and the certificate is the name's", async () => {
  const url = `https://hooks.example.com:${portOf(secure)}/a/path?with=query`;
  const { resolve, asked } = leadingTo(["127.0.0.1"], ["203.0.113.9"]);
  requests = [];
  const posted = await post(url, { resolve, allowPrivate: true });
  expect(posted).toEqual({ status: 200, retryAfter: null });
  expect(asked).toEqual(["hooks.example.com"]);
  const [request = ""] = requests;
  expect(request).toStartWith("POST /a/path?with=query HTTP/1.1\r\n");
  expect(request.toLowerCase()).toContain(`host: hooks.example.com:${portOf(secure)}\r\n`);
  expect(request.toLowerCase()).toContain("content-length: 10\r\n");
  const local = { resolve: leadingTo(["127.0.0.1"]).resolve, allowPrivate: true };
  const other = `https://other.example.com:${portOf(secure)}/`;
  await expect(post(other, local)).rejects.toThrow("ERR_TLS_CERT_ALTNAME_INVALID");
  const { ca: _, ...untrusted } = { ca, ...local };
  const strict = new Outbound(untrusted).post({ url, headers: {}, body: "", timeoutMs: 2_000 });
  await expect(strict).rejects.toThrow("SELF_SIGNED_CERT");
  await strict.catch(() => undefined);
});

test("of what comes back the status counts, whatever follows; redirects are not followed", async () => {
  const url = `http://127.0.0.1:${portOf(plain)}/`;
  const local = { allowPrivate: true };
  const usual = respond;
  try {
    const answers = [
      ["HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", 302, null],
      ["HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", 429, "7"],
      ["HTTP/1.1 204 None\r\n\r\n", 204, null],
      ["HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nnot all of it", 200, null],
    ] as const;
    for (const [text, status, retryAfter] of answers) {
      requests = [];
      respond = (socket) => socket.write(text);
      expect(await post(url, local)).toEqual({ status, retryAfter });
      expect(requests).toHaveLength(1);
    }
    const faults = [
      ["NONSENSE\r\n\r\n", "cannot be reached: HPE_INVALID_CONSTANT"],
      [
        `HTTP/1.1 200 OK\r\n${"X-A: a\r\n".repeat(20_000)}\r\n`,
        "cannot be reached: HPE_HEADER_OVERFLOW",
      ],
      ["", "no answer within 0.2 s"],
    ] as const;
    for (const [text, reason] of faults) {
      respond = (socket) => socket.write(text);
      await expect(post(url, local, 200)).rejects.toThrow(reason);
      await post(url, local, 200).catch(() => undefined);
    }
    respond = (socket) => socket.destroy();
    await expect(post(url, local)).rejects.toThrow("cannot be reached");
  } finally {
    respond = usual;
  }
  const nobody = `http://127.0.0.1:${freePort()}/`;
  await expect(post(nobody, local)).rejects.toThrow("ECONNREFUSED");
});

test("a body without end is let go of after a little of it, and so is one that stalls", async () => {
  const usual = respond;
  try {
    const local = { allowPrivate: true };
    const url = `http://127.0.0.1:${portOf(plain)}/`;
    let closed = Promise.withResolvers<void>();
    let written = 0;
    respond = (socket) => {
      socket.on("close", () => closed.resolve());
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      const pour = (): void => {
        while (!socket.destroyed && socket.write(new Uint8Array(65_536))) written += 65_536;
      };
      socket.on("drain", pour);
      pour();
    };
    const letGo = async (): Promise<void> => {
      closed = Promise.withResolvers();
      written = 0;
      expect((await post(url, local)).status).toBe(200);
      await closed.promise;
      expect(written).toBeLessThan(16 * 1024 * 1024);
    };
    // Not after the second that a body may take.
    expect(await leastMs(letGo)).toBeLessThan(800);
    const stalled = Promise.withResolvers<void>();
    respond = (socket) => {
      socket.on("close", () => stalled.resolve());
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    };
    const stalledAt = performance.now();
    expect((await post(url, local, 10_000)).status).toBe(200);
    await stalled.promise;
    expect(performance.now() - stalledAt).toBeLessThan(5_000);
  } finally {
    respond = usual;
  }
});

test("who sends no answer but much of something else is given up at once", async () => {
  const usual = respond;
  try {
    const url = `http://127.0.0.1:${portOf(plain)}/`;
    for (const text of [
      "HTTP/1.1 103 Early Hints\r\n\r\n",
      "HTTP/1.1 100 Continue\r\n\r\n",
      "\r\n",
    ]) {
      respond = (socket) => socket.write(text + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
      expect((await post(url, { allowPrivate: true })).status).toBe(200);
      let written = 0;
      const closed = Promise.withResolvers<void>();
      respond = (socket) => {
        socket.on("close", () => closed.resolve());
        const pour = (): void => {
          while (!socket.destroyed && socket.write(text.repeat(2_000)))
            written += 2_000 * text.length;
        };
        socket.on("drain", pour);
        pour();
      };
      await expect(post(url, { allowPrivate: true })).rejects.toThrow("too much came before");
      await closed.promise;
      expect(written).toBeLessThan(16 * 1024 * 1024);
    }
  } finally {
    respond = usual;
  }
});

test("names that nobody answers for keep no other waiting", async () => {
  const server = createSocket("udp4");
  let silent = 0;
  server.on("message", (query, { port, address }) => {
    const answer = addressOf(query);
    if (answer) server.send(answer, port, address);
    else silent += 1;
  });
  await new Promise<void>((done) => server.bind(0, "127.0.0.1", done));
  const usual = getServers();
  setServers([`127.0.0.1:${server.address().port}`]);
  try {
    const path = `:${portOf(plain)}/`;
    const local = { allowPrivate: true };
    const names = Array.from({ length: 50 }, (_, i) => `http://silent${i}.test${path}`);
    const hung = names.map((url) => post(url, local, 800).catch(String));
    expect((await post(`http://good.test${path}`, local, 600)).status).toBe(200);
    for (const said of await Promise.all(hung)) expect(said).toContain("no answer within");
    expect(silent).toBeGreaterThanOrEqual(50);
  } finally {
    setServers(usual);
    server.close();
  }
});

/** An answer of 127.0.0.1 to a question for it; null for names that are to stay without one. */
function addressOf(query: Buffer): Buffer | null {
  if (query.includes("silent")) return null;
  const end = query.indexOf(0, 12) + 5;
  const isFour = query.readUInt16BE(end - 4) === 1;
  const head = Buffer.from(query.subarray(0, 12));
  head.writeUInt16BE(0x8180, 2);
  head.writeUInt16BE(isFour ? 1 : 0, 6);
  head.writeUInt32BE(0, 8);
  const answer = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1];
  return Buffer.concat([head, query.subarray(12, end), Buffer.from(isFour ? answer : [])]);
}

test("a proxy of the environment is not asked", async () => {
  const before = connections;
  const proxy = `http://127.0.0.1:${portOf(plain)}`;
  const code = `
    import { Outbound } from "${import.meta.dir}/../../src/platform/outbound.ts";
    const outbound = new Outbound({ allowPrivate: true, resolve: async () => ["127.0.0.1"] });
    for (const protocol of ["http", "https"]) {
      const url = protocol + "://hooks.example.com:1/";
      await outbound.post({ url, headers: {}, body: "", timeoutMs: 2000 }).catch((e) => console.log(e.message));
    }`;
  const env = { HTTP_PROXY: proxy, HTTPS_PROXY: proxy, http_proxy: proxy, https_proxy: proxy };
  await using child = spawnChild([process.execPath, "-e", code], { cwd: import.meta.dir, env });
  expect(await child.done).toBe(0);
  expect(child.lines()).toEqual(Array(2).fill("cannot be reached: ECONNREFUSED"));
  expect(connections).toBe(before);
});
