import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { OUTCOMES } from "../../src/core/errors.ts";

test("README.md has every code, with its Proxy-Status error and its exit code", () => {
  const readme = readFileSync(join(import.meta.dir, "../../README.md"), "utf8");
  const rows = [...readme.matchAll(/^\| `([a-z-]+)` +\|[^|]+\| (\S+) +\| (\S+) +\| (\d+) +\|$/gm)];
  const told = rows.map(([, code, status, error, exit]) => ({ code, status, error, exit: Number(exit) }));
  expect(told.map(({ code, exit }) => [code, exit]).toSorted()).toEqual(
    Object.entries(OUTCOMES)
      .map(([code, { exit }]) => [code, exit])
      .toSorted(),
  );
  // A dash: no HTTP client ever gets it.
  for (const { code, status, error } of told.filter(({ status: shown }) => shown !== "–")) {
    const outcome = OUTCOMES[code as keyof typeof OUTCOMES];
    expect([code, status, error]).toEqual([code!, String(outcome.status), `\`${outcome.proxyError}\``]);
  }
});
