import { expect, test } from "bun:test";
import { SECRET_OPTIONS } from "../../src/cli/root.ts";
import { AGENT_OPTIONS } from "../../src/commands/agent-options.ts";
import { GLOBAL_OPTIONS } from "../../src/commands/command.ts";
import { CONNECT_OPTIONS } from "../../src/commands/connect-options.ts";
import { SERVE_OPTIONS } from "../../src/commands/serve-options.ts";
import type { OptionSpecs } from "../../src/core/options.ts";

test("children of every command see no secret of any other", () => {
  const all: OptionSpecs = { ...CONNECT_OPTIONS, ...SERVE_OPTIONS, ...AGENT_OPTIONS, ...GLOBAL_OPTIONS };
  const secret = Object.keys(all).filter((name) => all[name]!.secret === true);
  expect(secret.length).toBeGreaterThan(5);
  expect(secret.filter((name) => !SECRET_OPTIONS.includes(name))).toEqual([]);
});
