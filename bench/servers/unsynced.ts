import { start } from "../../src/cli/serve";
import { untilSignal } from "../../src/cli/until-signal";
import { readConfig } from "../../src/config";

/** All of `serve`, but commits are not waited for on the disk: what durability costs. */
await using _running = await start(readConfig(process.env, "argo"), { synchronous: "OFF" });
await untilSignal();
