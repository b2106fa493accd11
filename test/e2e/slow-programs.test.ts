import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { certificateFor } from "../support/certificates.ts";
import { npmRegistry } from "../support/origins.ts";
import { TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { runProgram, startSeikan, type Running } from "../support/seikan.ts";
import { hasSsh, startSshd } from "../support/sshd.ts";
import { pattern, until } from "../support/wait.ts";

setDefaultTimeout(120_000);

let proxy: Running;
beforeAll(async () => {
  proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
});
afterAll(() => proxy[Symbol.asyncDispose]());

const proxyUrl = () => `http://127.0.0.1:${proxy.port}`;
const targets = () => proxy.events().map(({ target }) => String(target));
const fileHash = async (path: string) => Bun.hash(await Bun.file(path).bytes());

test.skipIf(!hasSsh())("scp brings 100 MB there and back", async () => {
  await using sshd = await startSshd();
  const bytes = pattern(100 * 1024 * 1024, 51);
  writeFileSync(sshd.folder.file("source"), bytes);
  const options = ["scp", "-q", ...sshd.options("--via", proxyUrl()), "-P", String(sshd.port)];
  const remote = (name: string) => `root@127.0.0.1:${sshd.folder.file(name)}`;
  const up = await runProgram([...options, sshd.folder.file("source"), remote("up")]);
  expect(up).toEqual({ code: 0, stdout: "", stderr: "" });
  expect(await fileHash(sshd.folder.file("up"))).toBe(Bun.hash(bytes));
  const down = await runProgram([...options, remote("up"), sshd.folder.file("down")]);
  expect(down).toEqual({ code: 0, stdout: "", stderr: "" });
  expect(await fileHash(sshd.folder.file("down"))).toBe(Bun.hash(bytes));
  const moved = () => proxy.events().filter(({ target }) => target === `127.0.0.1:${sshd.port}`);
  await until(() => moved().length === 2, "both tunnels are logged");
  expect(Number(moved()[0]!.up)).toBeGreaterThan(bytes.length);
  expect(Number(moved()[1]!.down)).toBeGreaterThan(bytes.length);
});

describe.skipIf(program("npm") === undefined)("npm", () => {
  const certificate = certificateFor("localhost", "127.0.0.1");
  const folder = new TempFolder();
  let tarball: Uint8Array;
  beforeAll(() => {
    mkdirSync(folder.file("package"));
    writeFileSync(folder.file("package/package.json"), JSON.stringify({ name: "tiny", version: "1.0.0" }));
    writeFileSync(folder.file("package/index.js"), "module.exports = 'through the proxy';\n");
    tarball = Bun.spawnSync(["tar", "-czf", "-", "-C", folder.path, "package"]).stdout;
  });
  afterAll(() => folder[Symbol.dispose]());

  for (const scheme of ["http", "https"] as const) {
    test(`installs from an ${scheme}:// registry through serve`, async () => {
      const registry = npmRegistry(tarball, scheme === "https" ? certificate : undefined);
      try {
        const place = folder.file(scheme);
        mkdirSync(place);
        writeFileSync(`${place}/package.json`, '{"name":"consumer","version":"1.0.0"}');
        writeFileSync(
          `${place}/.npmrc`,
          [
            ...[`registry=${scheme}://localhost:${registry.port}/`, `proxy=${proxyUrl()}`, `https-proxy=${proxyUrl()}`],
            ...["noproxy=", `cafile=${certificate.certFile}`, "audit=false", "fund=false", "update-notifier=false"],
            ...[`cache=${place}/.cache`, "fetch-retries=0"],
          ].join("\n"),
        );
        const env = { HOME: place, npm_config_userconfig: `${place}/.npmrc` };
        const run = await runProgram(["npm", "install", "tiny"], { cwd: place, env });
        expect(run.stderr).toBe("");
        expect(run.code).toBe(0);
        expect(await Bun.file(`${place}/node_modules/tiny/index.js`).text()).toContain("through the proxy");
        const asked = () => targets().filter((target) => target.includes(`localhost:${registry.port}`));
        await until(() => asked().length > 0, "it went through the proxy");
      } finally {
        await registry.stop(true);
      }
    });
  }
});
