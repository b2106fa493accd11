import { describe, expect, test } from "bun:test";
import { AGENT_OPTIONS } from "../../src/commands/agent-options.ts";
import { GLOBAL_OPTIONS } from "../../src/commands/command.ts";
import { CONNECT_OPTIONS } from "../../src/commands/connect-options.ts";
import { SERVE_OPTIONS } from "../../src/commands/serve-options.ts";
import { isSecret, type KeyPath } from "../../src/config/key-path.ts";
import type { OptionSpecs } from "../../src/core/options.ts";

describe("a key is secret", () => {
  const table: [path: KeyPath, expected: boolean][] = [
    [["serve", "auth"], true],
    [["serve", "auth", 0], true],
    [["serve", "AUTH"], true],
    [["serve", "auth-file"], false],
    [["serve", "agent-token"], true],
    [["serve", "agent_token"], true],
    [["serve", "tokens"], false],
    [["serve", "listen"], false],
    [["serve", "max-connections"], false],
    [["connect", "via", 1], true],
    [["connect", "proxy-auth"], true],
    [["connect", "proxy_header", 0], true],
    [["connect", "proxy-auth-file"], false],
    [["agent", "token"], true],
    [["agent", "token-file"], false],
    [["agent", "name"], false],
    [["serve"], false],
    [["route"], true],
    [["route", "*.corp"], true],
    [["route", "*.corp", 0], true],
    [["token", "ci", "hash"], false],
    [["token", "ci"], false],
    [["expose", "web", "auth"], true],
    [["expose", "web", "request-header"], true],
    [["service", "web", "env", "HOME"], true],
    [["service", "web", "command"], false],
    [["service", "web", "secret_key_base"], true],
    [["service", "web", "database_password"], true],
    [["service", "web", "PASSWD"], true],
  ];
  for (const [path, expected] of table) {
    test(`${path.join(".")}: ${expected ? "yes" : "no"}`, () => expect(isSecret(path)).toBe(expected));
  }

  const commands: Record<string, OptionSpecs> = {
    connect: { ...CONNECT_OPTIONS, ...GLOBAL_OPTIONS },
    serve: { ...SERVE_OPTIONS, ...GLOBAL_OPTIONS },
    agent: { ...AGENT_OPTIONS, ...GLOBAL_OPTIONS },
  };
  for (const [section, specs] of Object.entries(commands)) {
    test(`when it is a secret option of ${section}, with hyphens or underscores`, () => {
      const secrets = Object.entries(specs).flatMap(([name, { secret }]) => (secret === true ? [name] : []));
      expect(secrets).toContain("via");
      const spellings = secrets.flatMap((name) => [name, name.replaceAll("-", "_")]);
      expect(spellings.filter((name) => !isSecret([section, name]))).toEqual([]);
    });
  }
});
