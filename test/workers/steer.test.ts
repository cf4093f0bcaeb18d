import { expect, test } from "bun:test";
import { steer } from "../../src/workers/steer.ts";

test("the kernel leaves out the listener that is named, and knows the places that are kept here", async () => {
  const met = new Map<string, number>();
  const names = new WeakMap<object, string>();
  let port = 0;
  const listen = (name: string) => {
    const fetch = () => {
      met.set(name, (met.get(name) ?? 0) + 1);
      return new Response(name);
    };
    const server = Bun.serve({ hostname: "127.0.0.1", port, reusePort: true, fetch });
    port = server.port ?? 0;
    names.set(server, name);
    return server;
  };
  const who = async (): Promise<string[]> => {
    met.clear();
    const headers = { Connection: "close" };
    const asked = Array.from({ length: 120 }, () =>
      fetch(`http://127.0.0.1:${port}/`, { headers }),
    );
    for (const answer of await Promise.all(asked)) await answer.text();
    return [...met.keys()].toSorted();
  };
  const group = ["a", "b", "c", "d"].map(listen);
  const placed = () => group.map((server) => names.get(server) ?? "");
  const leave = async (place: number): Promise<void> => {
    const [gone] = group.splice(place, 1);
    // The last one takes the place of one that goes.
    const last = group.pop();
    if (last) group.splice(place, 0, last);
    await gone?.stop();
  };
  try {
    expect(await who()).toEqual(["a", "b", "c", "d"]);
    for (let place = 0; place < group.length; place += 1) {
      expect(steer(port, { place, of: group.length })).toBe(true);
      expect(await who()).toEqual(
        placed()
          .filter((_, i) => i !== place)
          .toSorted(),
      );
    }
    await leave(1);
    expect(placed()).toEqual(["a", "d", "c"]);
    group.push(listen("e"));
    for (let place = 0; place < group.length; place += 1) {
      expect(steer(port, { place, of: group.length })).toBe(true);
      expect(await who()).toEqual(
        placed()
          .filter((_, i) => i !== place)
          .toSorted(),
      );
    }
    expect(steer(port, null)).toBe(true);
    expect(await who()).toEqual(placed().toSorted());
    expect(steer(port, { place: 0, of: 1 })).toBe(false);
    expect(steer(1, { place: 0, of: 4 })).toBe(false);
  } finally {
    for (const server of group) await server.stop(true);
  }
});
