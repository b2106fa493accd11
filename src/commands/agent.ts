import { usageError } from "../core/errors.ts";
import { Scope } from "../core/scope.ts";
import { Agent, agentName } from "./agent-run.ts";
import { AGENT_OPTIONS, serversOf, type AgentInvocation } from "./agent-options.ts";
import type { Command, CommandIo } from "./command.ts";

export const agentCommand: Command<typeof AGENT_OPTIONS> = {
  name: "agent",
  summary: "Expose what only this machine can reach, through a seikan serve elsewhere.",
  usage: "[OPTIONS] SERVER… --expose SPEC [-- COMMAND…]",
  description:
    "SERVER is wss://HOST[:PORT] or ws://…; several are registered with all at once. Without --via the proxy comes from HTTPS_PROXY, ALL_PROXY or HTTP_PROXY. It is ready once everything is registered and a probe sent through the server came back; then COMMAND runs, with SEIKAN_URL, SEIKAN_URL_NAME and SEIKAN_ADDR_NAME in its environment.",
  examples: [
    { does: "Share a local server", line: "seikan agent wss://tunnel.example.com --expose http://localhost:3000" },
    {
      does: "Under a name, with a password for visitors",
      line: "seikan agent wss://tunnel.example.com -e web=http://localhost:3000,auth=guest:secret",
    },
    {
      does: "What [expose.NAME] of a file says, started by its first visitor where it has a command (docs/configuration.md)",
      line: "seikan agent wss://tunnel.example.com --config agent.toml",
    },
    {
      does: "A database on a port of the server, and one for the server's users only",
      line: "seikan agent wss://tunnel.example.com -e tcp:5432=localhost:5432 -e db=tcp://localhost:5433",
    },
    {
      does: "Let the server's users dial into this network",
      line: "seikan agent wss://tunnel.example.com --name office --allow-net='*.corp,10.0.0.0/8'",
    },
    {
      does: "A webhook test in CI: the command sees the URL",
      line: "seikan agent wss://tunnel.example.com -e 3000 --fail-fast -- npm run test:webhooks",
    },
  ],
  options: AGENT_OPTIONS,
  section: "agent",
  positionals: 16,
  tail: true,
  defaultLogLevel: ({ tail }) => (tail === undefined ? "info" : "warn"),
  run,
};

async function run(invocation: AgentInvocation, io: CommandIo): Promise<number> {
  const { values } = invocation;
  if (values.protocol === "wsp" || values["wsp-config"] !== undefined) {
    const { runWspAgent } = await import("./wsp-agent-run.ts");
    await using scope = new Scope();
    return await runWspAgent(invocation, io, scope);
  }
  if (serversOf(invocation).length === 0)
    throw usageError(
      "which server? SERVER is missing",
      "seikan agent wss://tunnel.example.com --expose http://localhost:3000",
    );
  if (values.expose.length === 0 && values["allow-net"] === undefined)
    throw usageError("what shall it expose? --expose is missing", "for example --expose http://localhost:3000");
  if (values.qr && values.expose.length === 0) throw usageError("--qr needs an exposure");
  await using scope = new Scope();
  return await new Agent(invocation, agentName(values.name), io).run(scope);
}
