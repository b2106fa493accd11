import type { OptionSpecs } from "../core/options.ts";
import { hashOf } from "../routes/agent-tokens.ts";
import type { Command } from "./command.ts";

export const tokenCommand: Command<OptionSpecs> = {
  name: "token",
  summary: "Make a token for agents, and what a server stores of it.",
  usage: "[NAME]",
  description:
    "Prints a new random token, and the entry for the file that seikan serve --tokens reads. The agent gets the token (SEIKAN_TOKEN or --token-file), the server only its hash.",
  examples: [{ does: "A token for the agent of a laptop", line: "seikan token laptop" }],
  options: {},
  positionals: 1,
  tail: false,
  defaultLogLevel: () => "warn",
  async run({ positionals, values }, io) {
    const token = `skt_${Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url")}`;
    const hash = hashOf(token);
    const name = positionals[0] ?? "agent";
    if (values.json) io.print(JSON.stringify({ token, hash }));
    else for (const line of explained(token, hash, name)) io.print(line);
    return 0;
  },
};

function explained(token: string, hash: string, name: string): string[] {
  const key = /^[A-Za-z0-9_-]+$/.test(name) ? name : JSON.stringify(name);
  return [
    token,
    "",
    "# For the agent: keep it secret, it cannot be shown again. For the server's --tokens FILE:",
    `[token.${key}]`,
    `hash = "${hash}"`,
    `agents = ["${/^[\w.-]+$/.test(name) ? name : "*"}"]   # names it may have`,
    'hosts = ["*"]         # names and hosts it may expose',
    'ports = []            # ports it may open: 5432, "20000-20100"',
    "exit = false          # it may dial for users (agent: routes, Seikan-Agent)",
    "share = false         # it may join others on one name",
  ];
}
