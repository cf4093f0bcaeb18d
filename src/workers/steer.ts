import { dlopen, ptr } from "bun:ffi";
import { readdirSync } from "node:fs";

const solSocket = 1;
const soAcceptConn = 30;
const soAttachReuseportCbpf = 51;
const soDetachReuseportBpf = 68;
const addressBytesMax = 28;
const int = 4;

/** Where the kernel's random number is read from. */
const random = 0xffff_f000 + 56;

/**
 * Has the kernel give connections that are new to all listeners of the port but one, or to all again
 * with null. Closing a listener resets what waits in its queue and the handshakes under way, so it
 * must have become quiet before: at 22,000 new connections a second each worker that was replaced cost
 * 12 of them, with this none. Its place is that in the kernel's list of those that share the port: in
 * the order in which they began to listen, the last one taking the place of one that goes. Bun has no
 * word for this, so it is asked of the C library.
 * @returns false where that is not possible: another library, another kernel. There
 * `net.ipv4.tcp_migrate_req=1` (Linux 5.14) does as well.
 */
export function steer(port: number, away: { place: number; of: number } | null): boolean {
  const c = (library ??= open());
  if (!c || (away !== null && away.of < 2)) return false;
  const fd = listenerOf(c, port);
  if (fd === null) return false;
  if (away === null) return c.setsockopt(fd, solSocket, soDetachReuseportBpf, zero, int) === 0;
  // A random one of the others: those from the place on are one further.
  const program = [
    [0x20, 0, 0, random],
    [0x94, 0, 0, away.of - 1],
    [0x35, 0, 1, away.place],
    [0x04, 0, 0, 1],
    [0x16, 0, 0, 0],
  ] as const;
  const code = new DataView(new ArrayBuffer(program.length * 8));
  for (const [i, [word, yes, no, value]] of program.entries()) {
    code.setUint16(i * 8, word, true);
    code.setUint8(i * 8 + 2, yes);
    code.setUint8(i * 8 + 3, no);
    code.setUint32(i * 8 + 4, value, true);
  }
  const held = new DataView(new ArrayBuffer(16));
  held.setUint16(0, program.length, true);
  held.setBigUint64(8, BigInt(ptr(code)), true);
  return c.setsockopt(fd, solSocket, soAttachReuseportCbpf, held, held.byteLength) === 0;
}

type Library = NonNullable<ReturnType<typeof open>>;

const zero = new Uint32Array(1);
let library: Library | null | undefined;

function open() {
  try {
    return dlopen("libc.so.6", {
      getsockopt: { args: ["i32", "i32", "i32", "buffer", "buffer"], returns: "i32" },
      setsockopt: { args: ["i32", "i32", "i32", "buffer", "u32"], returns: "i32" },
      getsockname: { args: ["i32", "buffer", "buffer"], returns: "i32" },
    }).symbols;
  } catch {
    return null;
  }
}

/** The descriptor with which this process listens on the port. */
function listenerOf(c: Library, port: number): number | null {
  const listens = new Int32Array(1);
  const address = new Uint8Array(addressBytesMax);
  for (const name of readdirSync("/proc/self/fd")) {
    const fd = Number(name);
    if (c.getsockopt(fd, solSocket, soAcceptConn, listens, new Uint32Array([int])) !== 0) continue;
    if (listens[0] !== 1) continue;
    if (c.getsockname(fd, address, new Uint32Array([addressBytesMax])) !== 0) continue;
    // The family's two bytes, then the port in the network's order.
    if (new DataView(address.buffer).getUint16(2) === port) return fd;
  }
  return null;
}
