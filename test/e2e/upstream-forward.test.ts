import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { startSquid, startTinyproxy, type ForeignProxy } from "../support/foreign.ts";
import { program } from "../support/programs.ts";
import { dialRaw, RawServer } from "../support/raw.ts";
import { runProgram, startSeikan } from "../support/seikan.ts";

setDefaultTimeout(60_000);

/** Says what it got; the origin of every request here. */
const origin = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  async fetch(request) {
    const secrets = ["proxy-authorization", "authorization"].filter((name) => request.headers.has(name));
    return Response.json({ path: new URL(request.url).pathname, body: await request.text(), secrets });
  },
});
afterAll(() => origin.stop(true));
const url = `http://127.0.0.1:${origin.port}/page`;

const curl = (port: number, ...args: string[]) =>
  runProgram(["curl", "-sS", "-x", `http://127.0.0.1:${port}`, "-w", "\n%{http_code}", ...args]);

/** Absolute-form requests go to an upstream HTTP proxy as what they are: many refuse CONNECT to port 80. */
describe.skipIf(program("squid") === undefined)("a request forwarded through squid, which refuses CONNECT", () => {
  let open: ForeignProxy;
  let digest: ForeignProxy;

  beforeAll(async () => {
    const noConnect = ["acl CONNECT method CONNECT", "http_access deny CONNECT"];
    [open, digest] = await Promise.all([
      startSquid(["http_port 127.0.0.1:PORT", ...noConnect, "http_access allow all"]),
      startSquid(
        [
          ...["http_port 127.0.0.1:PORT", "auth_param digest program LIBRARY/digest_file_auth FOLDER/users"],
          ...["auth_param digest children 1", "auth_param digest realm squid", "acl known proxy_auth REQUIRED"],
          ...[...noConnect, "http_access allow known", "http_access deny all"],
        ],
        { users: "ann:secret\n" },
      ),
    ]);
  });
  afterAll(() => Promise.all([open, digest].map((proxy) => proxy?.[Symbol.asyncDispose]())));

  test("arrives, body and all", async () => {
    await using serve = await startSeikan(["serve", "-l", "127.0.0.1:0", "--via", `http://127.0.0.1:${open.port}`]);
    const { stdout } = await curl(serve.port, "-d", "some body", url);
    const [answer, status] = stdout.split("\n");
    expect(status).toBe("200");
    expect(JSON.parse(answer!)).toEqual({ path: "/page", body: "some body", secrets: [] });
  });

  test("arrives twice over one upstream connection", async () => {
    await using serve = await startSeikan(["serve", "-l", "127.0.0.1:0", "--via", `http://127.0.0.1:${open.port}`]);
    const { stdout } = await curl(serve.port, url, url.replace("page", "next"));
    expect(stdout).toContain('"path":"/page"');
    expect(stdout).toContain('"path":"/next"');
  });

  test("answers a Digest challenge, and keeps the credentials from the origin", async () => {
    const via = `http://ann:secret@127.0.0.1:${digest.port}`;
    await using serve = await startSeikan(["serve", "-l", "127.0.0.1:0", "--via", via]);
    for (let round = 0; round < 2; round++) {
      const { stdout } = await curl(serve.port, url);
      const [answer, status] = stdout.split("\n");
      expect(status).toBe("200");
      expect(JSON.parse(answer!)).toEqual({ path: "/page", body: "", secrets: [] });
    }
  });

  test("is a 502 that does not ask the client for credentials when ours are wrong", async () => {
    const via = `http://ann:wrong@127.0.0.1:${digest.port}`;
    await using serve = await startSeikan(["serve", "-l", "127.0.0.1:0", "--via", via]);
    const { stdout } = await curl(serve.port, url);
    expect(stdout).toContain("refused our credentials");
    expect(stdout).not.toContain("wrong");
    expect(stdout.trim().split("\n").at(-1)).toBe("502");
  });
});

test.skipIf(program("tinyproxy") === undefined)("a request forwarded through tinyproxy arrives", async () => {
  await using upstream = await startTinyproxy(["ConnectPort 1", "BasicAuth ann secret"]);
  const via = `http://ann:secret@127.0.0.1:${upstream.port}`;
  await using serve = await startSeikan(["serve", "-l", "127.0.0.1:0", "--via", via]);
  const { stdout } = await curl(serve.port, "-d", "some body", url);
  const [answer, status] = stdout.split("\n");
  expect(status).toBe("200");
  expect(JSON.parse(answer!)).toMatchObject({ path: "/page", body: "some body" });
});

test("--proxy-header reaches the upstream proxy with forwarded requests, too", async () => {
  using proxy = new RawServer();
  const via = `http://127.0.0.1:${proxy.port}`;
  await using serve = await startSeikan(["serve", "-l", "127.0.0.1:0", "--via", via, "--proxy-header", "X-Team: blue"]);
  using client = await dialRaw(serve.port);
  client.send("GET http://origin.test/a HTTP/1.1\r\nHost: origin.test\r\n\r\n");
  const head = await (await proxy.next()).sees("\r\n\r\n");
  expect(head).toStartWith("GET http://origin.test/a HTTP/1.1\r\nHost: origin.test\r\n");
  expect(head).toContain("\r\nX-Team: blue\r\n");
});
