// A bot on Node, with the package as it is published: `node bot.mjs PACKAGE URL READ_TOKEN WRITE_TOKEN`.
const [, , path, url, token, writeToken] = process.argv;
const { Argo, ArgoError } = await import(path);

const print = (what) => console.log(JSON.stringify(what));
const options = { url, backoffMs: 100, muteMs: 2_000 };
const argo = new Argo({ ...options, token });
const page = await argo.latest({ limit: 1 });
print({ same: (await argo.latest({ limit: 1 })) === page, headId: page.headId });
const wrong = await new Argo({ ...options, token: "nobody" }).latest().catch((error) => error);
print({ refused: wrong instanceof ArgoError && wrong.code });
let exported = 0;
for await (const _ of argo.export()) exported += 1;
print({ exported });
const signal = { symbol: "NODE", action: "HOLD", confidence: 1, entry_price: 1 };
await new Argo({ ...options, token: writeToken }).post(signal);
const { total } = (await argo.api.GET("/api/stats")).data;
print({ total });
for await (const { id } of argo.stream({}, { sinceId: 0, onNotice: () => undefined })) {
  print({ id });
}
