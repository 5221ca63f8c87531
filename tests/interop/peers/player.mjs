// The published sendspin-js client as a process: it connects to SERVER, obeys
// JSON lines on stdin and reports JSON lines on stdout.
//
//   node player.mjs DIR SERVER ID NAME
//
// stdin:  {"do":"volume","value":30} {"do":"mute","value":true} {"do":"goodbye","value":"restart"} {"do":"switch"} {"do":"connect"}
// stdout: {"event":"open"|"close"|"state"|"error", ...}
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import readline from "node:readline";
import path from "node:path";

const [dir, server, id, name] = process.argv.slice(2);
const require = createRequire(path.join(dir, "package.json"));
globalThis.WebSocket ??= require("ws");
console.log = console.warn = console.error = () => {}; // stdout is ours
const say = (o) => process.stdout.write(JSON.stringify(o) + "\n");

const entry = path.join(dir, "node_modules/@sendspin/sendspin-js/dist/index.js");
const { SendspinCore } = await import(pathToFileURL(entry));
const core = new SendspinCore({
  baseUrl: server, playerId: id, clientName: name, codecs: ["pcm"],
  reconnect: { baseDelayMs: 200, maxDelayMs: 1000 },
  onStateChange: (s) => say({
    event: "state", volume: s.volume, muted: s.muted, group: s.groupState ?? null, server: s.serverState ?? null,
  }),
});
core.onConnectionOpen = () => say({ event: "open" });
core.onConnectionClose = () => say({ event: "close" });
const connect = () => core.connect().catch((e) => say({ event: "error", text: String(e?.message ?? e) }));
await connect();

for await (const line of readline.createInterface({ input: process.stdin })) {
  const c = JSON.parse(line);
  try {
    switch (c.do) {
      case "volume": core.setVolume(c.value); break;
      case "mute": core.setMuted(c.value); break;
      case "goodbye": core.disconnect(c.value); break;
      case "connect": await connect(); break;
      case "control": core.sendCommand(c.value, c.params ?? {}); break;
      case "time": say({ event: "time", ...core.timeSyncInfo }); break;
    }
  } catch (e) {
    say({ event: "error", text: String(e?.message ?? e) });
  }
}
process.exit(0);
