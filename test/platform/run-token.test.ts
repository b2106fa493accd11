import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { Scope } from "../../src/core/scope.ts";
import { readRunToken, writeRunToken } from "../../src/platform/run-token.ts";
import { TempFolder } from "../support/process.ts";

test("the token of a run lies in a file of its own, and goes with the run; those of killed runs go first", async () => {
  using folder = new TempFolder();
  const env = { XDG_RUNTIME_DIR: folder.path };
  await using scope = new Scope();
  const file = writeRunToken("first", env, scope);
  const place = file.slice(0, file.lastIndexOf("/"));
  const gone = Bun.spawnSync(["true"]).pid;
  writeFileSync(`${place}/serve-${gone}.token`, "old\n");
  writeFileSync(`${place}/serve-${process.ppid}.token`, "of a run that lives\n");
  writeFileSync(`${place}/other`, "");
  expect(writeRunToken("second", env, scope)).toBe(file);
  expect(readdirSync(place).toSorted()).toEqual(
    ["other", `serve-${process.pid}.token`, `serve-${process.ppid}.token`].toSorted(),
  );
  expect(readFileSync(file, "utf8")).toBe("second\n");
  expect(readRunToken(process.ppid, env)).toBe("of a run that lives");
  await scope[Symbol.asyncDispose]();
  expect(existsSync(file)).toBe(false);
});
