import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { certificateFor } from "../support/certificates.ts";
import { startSquid, startTinyproxy, type ForeignProxy } from "../support/foreign.ts";
import { freePort, spawnSeikan } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { runProgram, runSeikan, startSeikan } from "../support/seikan.ts";
import { pattern, until } from "../support/wait.ts";

setDefaultTimeout(60_000);

const hasSquid = program("squid") !== undefined;
const hasTinyproxy = program("tinyproxy") !== undefined;
const hasHtpasswd = program("htpasswd") !== undefined;

let origin: RawServer;
let target: string;
beforeAll(() => {
  origin = new RawServer(echo);
  target = `127.0.0.1:${origin.port}`;
});
afterAll(() => origin[Symbol.dispose]());

const connect = (...args: string[]) => runSeikan(["connect", ...args], { stdin: "ping" });

/** A megabyte there and back, with both ends closed one after the other. */
async function carries(...args: string[]): Promise<void> {
  const bytes = pattern(1024 * 1024, 11);
  await using child = spawnSeikan(["connect", target, ...args]);
  child.write(bytes);
  // Some proxies take the first FIN for the end of both directions: everything is back before it is sent.
  await child.receives(bytes.length);
  child.closeStdin();
  expect(await child.exited()).toBe(0);
  expect(Bun.hash(child.bytes)).toBe(Bun.hash(bytes));
  expect(child.stderr).toBe("");
}

describe.skipIf(!hasSquid || !hasHtpasswd)("squid", () => {
  const { cert, key, certFile } = certificateFor("localhost", "127.0.0.1");
  let open: ForeignProxy;
  let basic: ForeignProxy;
  let digest: ForeignProxy;
  let tls: ForeignProxy;

  beforeAll(async () => {
    const hashed = (await runProgram(["htpasswd", "-nbm", "ann", "pa:ss w%rd"])).stdout;
    const required = ["acl known proxy_auth REQUIRED", "http_access deny !known", "http_access allow all"];
    [open, basic, digest, tls] = await Promise.all([
      startSquid(["http_port 127.0.0.1:PORT", "acl bad port 9", "http_access deny bad", "http_access allow all"]),
      startSquid(
        [
          ...["http_port 127.0.0.1:PORT", "auth_param basic program LIBRARY/basic_ncsa_auth FOLDER/users"],
          ...["auth_param basic children 1", "auth_param basic realm squid", ...required],
        ],
        { users: hashed },
      ),
      startSquid(
        [
          ...["http_port 127.0.0.1:PORT", "auth_param digest program LIBRARY/digest_file_auth FOLDER/users"],
          ...["auth_param digest children 1", "auth_param digest realm squid", "auth_param digest nonce_max_count 3"],
          ...required,
        ],
        // Its helper takes no colon in a password.
        { users: "ann:pa ss/w%rd\n" },
      ),
      startSquid(
        ["https_port 127.0.0.1:PORT tls-cert=FOLDER/cert.pem tls-key=FOLDER/key.pem", "http_access allow all"],
        {
          "cert.pem": cert,
          "key.pem": key,
        },
      ),
    ]);
  });
  afterAll(async () => {
    await Promise.all([open, basic, digest, tls].map((proxy) => proxy?.[Symbol.asyncDispose]()));
  });

  const userinfo = `ann:${encodeURIComponent("pa:ss w%rd")}`;
  const digestUserinfo = `ann:${encodeURIComponent("pa ss/w%rd")}`;

  test("a tunnel through it carries everything", async () => {
    await carries("--via", `http://127.0.0.1:${open.port}`);
  });

  test("stdin EOF half-closes through it, and the reply still comes", async () => {
    using hand = new RawServer();
    await using child = spawnSeikan(["connect", `127.0.0.1:${hand.port}`, "--via", `http://127.0.0.1:${open.port}`]);
    child.write("question");
    const inner = await hand.next();
    await inner.sees("question");
    inner.send("answer").end();
    expect(await child.exited()).toBe(0);
    expect(child.stdout).toBe("answer");
  });

  test("Basic: with the right password it carries, with a wrong or no one it is 4 and says what is asked", async () => {
    await carries("--via", `http://${userinfo}@127.0.0.1:${basic.port}`);
    const wrong = await connect(target, "--via", `http://ann:nope@127.0.0.1:${basic.port}`);
    expect([wrong.code, wrong.stdout]).toEqual([4, ""]);
    expect(wrong.stderr).toContain("407");
    expect(wrong.stderr.toLowerCase()).toContain("basic");
    expect(wrong.stderr).not.toContain("nope");
    const none = await connect(target, "--via", `http://127.0.0.1:${basic.port}`);
    expect([none.code, none.stdout]).toEqual([4, ""]);
    expect(none.stderr.toLowerCase()).toContain("basic");
  });

  test("Digest: with the right password it carries, with a wrong or no one it is 4 and says what is asked", async () => {
    await carries("--via", `http://${digestUserinfo}@127.0.0.1:${digest.port}`);
    const wrong = await connect(target, "--via", `http://ann:nope@127.0.0.1:${digest.port}`);
    expect([wrong.code, wrong.stdout]).toEqual([4, ""]);
    expect(wrong.stderr.toLowerCase()).toContain("digest");
    const none = await connect(target, "--via", `http://127.0.0.1:${digest.port}`);
    expect([none.code, none.stdout]).toEqual([4, ""]);
    expect(none.stderr.toLowerCase()).toContain("digest");
  });

  test("Digest goes on when its nonce is used up", async () => {
    await using proxy = await startSeikan([
      ...["connect", "-L", "127.0.0.1:0", target, "--via", `http://${digestUserinfo}@127.0.0.1:${digest.port}`],
    ]);
    for (let i = 0; i < 8; i++) {
      using client = await dialRaw(proxy.port);
      client.send(`ping ${i}`);
      await client.sees(`ping ${i}`);
    }
  });

  test("an https_port, with the certificate checked", async () => {
    await carries("--via", `https://localhost:${tls.port}`, "--proxy-cacert", certFile);
    await carries("--via", `https://localhost:${tls.port}`, "--proxy-insecure");
    const distrusted = await connect(target, "--via", `https://localhost:${tls.port}`);
    expect([distrusted.code, distrusted.stdout]).toEqual([3, ""]);
    expect(distrusted.stderr).toContain("certificate");
  });

  test("https:// to a plain port and http:// to a TLS port are told", async () => {
    const plain = await connect(target, "--via", `https://127.0.0.1:${open.port}`);
    expect([plain.code, plain.stdout]).toEqual([3, ""]);
    const secure = await connect(target, "--via", `http://localhost:${tls.port}`);
    expect([secure.code, secure.stdout]).toEqual([3, ""]);
    expect(secure.stderr).toContain(`http://localhost:${tls.port}`);
  });

  test("TLS to the target through TLS to the proxy", async () => {
    const secret = Bun.serve({ port: 0, hostname: "127.0.0.1", tls: { cert, key }, fetch: () => new Response("deep") });
    try {
      const args = [
        "--via",
        `https://localhost:${tls.port}`,
        "--proxy-cacert",
        certFile,
        "--tls",
        "--cacert",
        certFile,
      ];
      const request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
      await using child = spawnSeikan(["connect", `localhost:${secret.port}`, ...args]);
      child.write(request);
      expect(await child.exited()).toBe(0);
      expect(child.stdout).toEndWith("\r\n\r\ndeep");
    } finally {
      await secret.stop(true);
    }
  });

  test("403 by its rules and 503 for a target that is not there: 3, with its words", async () => {
    const denied = await connect("127.0.0.1:9", "--via", `http://127.0.0.1:${open.port}`);
    expect([denied.code, denied.stdout]).toEqual([3, ""]);
    expect(denied.stderr).toContain("403");
    expect(denied.stderr).toContain("it says:");
    expect(denied.stderr).not.toMatch(/<[a-z]/i);
    const gone = await connect(`127.0.0.1:${freePort()}`, "--via", `http://127.0.0.1:${open.port}`);
    expect([gone.code, gone.stdout]).toEqual([3, ""]);
    expect(gone.stderr).toContain("503");
  });

  test("a 407 that cannot be met names the schemes and a way out", async () => {
    const users = { users: "ann:x\n" };
    await using several = await startSquid(
      [
        ...["http_port 127.0.0.1:PORT", "auth_param ntlm program LIBRARY/ntlm_fake_auth", "auth_param ntlm children 1"],
        ...["auth_param digest program LIBRARY/digest_file_auth FOLDER/users", "auth_param digest children 1"],
        ...["auth_param digest realm r", "acl known proxy_auth REQUIRED", "http_access allow known"],
      ],
      users,
    );
    const { code, stderr } = await connect(target, "--via", `http://127.0.0.1:${several.port}`);
    expect(code).toBe(4);
    expect(stderr.toLowerCase()).toContain("ntlm");
    expect(stderr.toLowerCase()).toContain("digest");
    // Of the two, Digest can be met.
    await carries("--via", `http://ann:x@127.0.0.1:${several.port}`);
  });

  test("serve sends its clients on through it, with its credentials", async () => {
    await using proxy = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--via", `http://${digestUserinfo}@127.0.0.1:${digest.port}`],
    ]);
    await carries("--via", `http://127.0.0.1:${proxy.port}`);
  });

  test.skipIf(!hasTinyproxy)("a chain of three: http, then socks5h, then https", async () => {
    await using first = await startTinyproxy();
    await using second = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "s:t", "--access-log", "json"]);
    const hops = [
      `http://127.0.0.1:${first.port}`,
      `socks5h://s:t@127.0.0.1:${second.port}`,
      `https://localhost:${tls.port}`,
    ];
    await carries(...hops.flatMap((hop) => ["--via", hop]), "--proxy-cacert", certFile);
    const isLogged = () => second.events().some((event) => event.target === `localhost:${tls.port}`);
    await until(isLogged, "the second hop logs it");

    const last = await connect("127.0.0.1:1", ...hops.flatMap((hop) => ["--via", hop]), "--proxy-cacert", certFile);
    expect(last.code).toBe(3);
    expect(last.stderr).toContain(`https://localhost:${tls.port}`);
    const wrong = hops.with(1, `socks5h://s:wrong@127.0.0.1:${second.port}`);
    const refused = await connect(target, ...wrong.flatMap((hop) => ["--via", hop]), "--proxy-cacert", certFile);
    expect(refused.code).toBe(4);
    expect(refused.stderr).toContain(`127.0.0.1:${second.port}`);
    expect(refused.stderr).not.toContain("wrong user or password for");
  });

  test("a chain through the same proxy twice, and in the other order", async () => {
    await using socks = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    const trust = ["--proxy-cacert", certFile];
    await carries("--via", `https://localhost:${tls.port}`, "--via", `http://127.0.0.1:${open.port}`, ...trust);
    await carries(
      ...["--via", `socks5h://127.0.0.1:${socks.port}`, "--via", `https://localhost:${tls.port}`],
      ...[
        "--via",
        `http://${digestUserinfo}@127.0.0.1:${digest.port}`,
        "--via",
        `http://${userinfo}@127.0.0.1:${basic.port}`,
      ],
      ...trust,
    );
  });
});

describe.skipIf(!hasTinyproxy)("tinyproxy", () => {
  test("without users: it carries, and a first FIN is not held against it", async () => {
    await using proxy = await startTinyproxy();
    await carries("--via", `http://127.0.0.1:${proxy.port}`);
    const gone = await connect(`127.0.0.1:${freePort()}`, "--via", `http://127.0.0.1:${proxy.port}`);
    expect([gone.code, gone.stdout]).toEqual([3, ""]);
    expect(gone.stderr).toMatch(/refused CONNECT .*: 5\d\d/);
  });

  test("with BasicAuth: the right user, a wrong one, none", async () => {
    await using proxy = await startTinyproxy(["BasicAuth ann secret"]);
    await carries("--via", `http://ann:secret@127.0.0.1:${proxy.port}`);
    for (const userinfo of ["ann:wrong@", ""]) {
      const { code, stdout, stderr } = await connect(target, "--via", `http://${userinfo}127.0.0.1:${proxy.port}`);
      expect([code, stdout]).toEqual([4, ""]);
      // 1.11.1 answers 401 where it means 407.
      expect(stderr).toMatch(/40[17]/);
    }
  });

  test("a port it does not allow: 3 and its words", async () => {
    await using proxy = await startTinyproxy(["ConnectPort 443"]);
    const { code, stdout, stderr } = await connect(target, "--via", `http://127.0.0.1:${proxy.port}`);
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain("403");
    expect(stderr).toContain("it says:");
  });
});
