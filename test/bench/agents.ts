/**
 * `agents.ts PORT COUNT`: many agents in one process, each with one idle
 * connection to a server; says `ready` and ends with stdin. Only what a
 * session needs is held here: the figure is the server's.
 */
import { deadlineIn } from "../../src/core/clock.ts";
import { tcpTarget } from "../../src/core/address.ts";
import { AGENT_PATH } from "../../src/routes/agent-endpoint.ts";
import { askControl } from "../../src/transports/control.ts";
import { directDialer } from "../../src/transports/direct.ts";
import { ProxyCredentials } from "../../src/transports/proxy-credentials.ts";
import { dialSession } from "../../src/transports/tunnel.ts";
import { REGISTER_PATH } from "../../src/wire/registration.ts";

const [port, count] = process.argv.slice(2).map(Number);
const hop = {
  proxy: tcpTarget("127.0.0.1", port!),
  name: `ws://127.0.0.1:${port}`,
  isSecure: false,
  credentials: new ProxyCredentials(undefined),
  fields: [],
  reach: directDialer({}),
  path: AGENT_PATH,
};
const random = () => Buffer.from(crypto.getRandomValues(new Uint8Array(24))).toString("base64url");

async function agent(index: number): Promise<void> {
  const terms = { key: random(), onGoAway() {}, heartbeat: { intervalMs: 15_000, timeoutMs: 10_000 }, accept() {} };
  const session = await dialSession(hop, terms, { deadline: deadlineIn(30_000) });
  const exposures = [{ kind: "http", name: `web-${index}` }];
  const text = JSON.stringify({
    agent: `agent-${index}`,
    key: random(),
    connection: random(),
    server: hop.name,
    exposures,
  });
  const stream = session.open();
  await askControl(stream, { path: REGISTER_PATH, text }, deadlineIn(30_000), hop.name);
  stream.end();
}

for (let i = 0; i < count!; i += 50)
  await Promise.all(Array.from({ length: Math.min(50, count! - i) }, (_, j) => agent(i + j)));
console.log("ready");
await Bun.stdin.text();
process.exit(0);
