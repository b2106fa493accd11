import { expect, test } from "bun:test";
import { renderCommandHelp } from "../../src/cli/help.ts";
import type { Command } from "../../src/commands/command.ts";
import { connectCommand } from "../../src/commands/connect.ts";
import { serveCommand } from "../../src/commands/serve.ts";

const usageOf = (command: unknown) =>
  /^Usage: (.*)$/m.exec(renderCommandHelp(command as Command, { width: 80, color: false }))?.[1];

test("help shows how a command is called", () => {
  expect(usageOf(connectCommand)).toBe("seikan connect [OPTIONS] [TARGET] [-- COMMAND…]");
  expect(usageOf(serveCommand)).toBe("seikan serve [OPTIONS]");
});
