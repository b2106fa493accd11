import { Scope } from "../core/scope.ts";
import { hasControllingTerminal } from "../platform/signals.ts";
import type { Command, CommandIo } from "./command.ts";
import { Lifetime } from "./lifetime.ts";
import { SERVE_OPTIONS, type ServeInvocation } from "./serve-options.ts";
import { Server } from "./server.ts";

export const serveCommand: Command<typeof SERVE_OPTIONS> = {
  name: "serve",
  summary:
    "Be a proxy, the far end of tunnels, the public side of agents and a launcher of development servers: CONNECT, http:// forwarding, SOCKS, UDP, WebSockets and sites on one port.",
  usage: "[OPTIONS]",
  description:
    "Listens on 127.0.0.1:8080 unless told otherwise. A listener that other machines can reach needs users (--auth, --auth-file) or --no-auth, and dials public addresses only unless --allow-net says more.",
  examples: [
    { does: "A proxy for this machine; try: curl -x http://127.0.0.1:8080 https://example.com", line: "seikan serve" },
    {
      does: "A proxy for the network, with TLS and users",
      line: "seikan serve -l https://0.0.0.0:8443 --tls-cert c.pem --tls-key k.pem --auth-file users",
    },
    {
      does: "The far end of seikan connect --via wss://ci:TOKEN@tunnel.example.com",
      line: "seikan serve -l https://0.0.0.0:443 --tls-cert c.pem --tls-key k.pem --auth ci:TOKEN",
    },
    {
      does: "A tunnel server for agents: they become NAME.tunnel.example.com (seikan token makes tokens)",
      line: "seikan serve -l https://0.0.0.0:443 --tls-cert c.pem --tls-key k.pem --domain tunnel.example.com --tokens tokens.toml",
    },
    {
      does: "Start the development servers of ./seikan.toml when somebody visits them (docs/services.md)",
      line: "seikan serve --config seikan.toml",
    },
    { does: "A WebSocket that leads to a VNC server", line: "seikan serve --ws-route /vnc=127.0.0.1:5900" },
    { does: "Send some hosts through another proxy", line: "seikan serve --route '*.corp=http://proxy.corp:3128'" },
  ],
  options: SERVE_OPTIONS,
  section: "serve",
  readsProject: true,
  positionals: 0,
  tail: false,
  defaultLogLevel: () => "info",
  run,
};

async function run(invocation: ServeInvocation, io: CommandIo): Promise<number> {
  await using scope = new Scope();
  const server = new Server(invocation, io);
  scope.own(() => server.stopListening());
  // Before anybody is told that we are ready: a signal may follow at once.
  const lifetime = new Lifetime({
    timeoutMs: invocation.values.timeout,
    status: () => server.printStatus(),
    // In a terminal that is closed SIGHUP means the end.
    ...(hasControllingTerminal() ? {} : { reload: () => void server.reload() }),
  });
  scope.own(() => lifetime.release());
  await server.start(scope);
  const early = await Promise.race([lifetime.stopping, lifetime.ended]);
  if (typeof early === "number") return early;
  return await Promise.race([server.drain(), lifetime.ended]);
}
