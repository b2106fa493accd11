import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { certificateFor, certificateFrom } from "../support/certificates.ts";
import { freePort, TempFolder } from "../support/process.ts";
import { RawServer } from "../support/raw.ts";
import { runSeikan, startSeikan, type Outcome, type Running, type RunOptions } from "../support/seikan.ts";
import { until } from "../support/wait.ts";

setDefaultTimeout(60_000);

const BANNER = "SSH-2.0-test\r\n";
const ISSUER = "corp-inspection.test";
const { certFile, keyFile } = certificateFor("localhost", "127.0.0.1");
const intercepting = certificateFrom(ISSUER, "localhost", "127.0.0.1");

/** A target that speaks first, one that does not, one that hangs up. */
let speaking: RawServer;
let silent: RawServer;
let closing: RawServer;
/** seikan serve: for everybody, for ann only, behind TLS, behind an interceptor's TLS, and one that forbids all. */
let open: Running;
let closed: Running;
let secure: Running;
let intercepted: Running;
let forbidding: Running;
let target: string;

const serve = (...args: string[]) => startSeikan(["serve", ...args]);
const tlsListener = (cert: string, key: string) =>
  serve("-l", "https://127.0.0.1:0", "--tls-cert", cert, "--tls-key", key);

beforeAll(async () => {
  speaking = new RawServer((socket) => void socket.send(BANNER));
  silent = new RawServer();
  closing = new RawServer((socket) => void socket.end());
  target = `127.0.0.1:${speaking.port}`;
  [open, closed, secure, intercepted, forbidding] = await Promise.all([
    serve("-l", "127.0.0.1:0"),
    serve("-l", "127.0.0.1:0", "--auth", "ann:pa55-w0rd"),
    tlsListener(certFile, keyFile),
    tlsListener(intercepting.certFile, intercepting.keyFile),
    serve("-l", "127.0.0.1:0", "--deny-net", "127.0.0.0/8"),
  ]);
});
afterAll(async () => {
  for (const server of [speaking, silent, closing]) server?.[Symbol.dispose]();
  await Promise.all([open, closed, secure, intercepted, forbidding].map((one) => one?.[Symbol.asyncDispose]()));
});

const check = (...args: string[]) => runSeikan(["connect", "--check", ...args]);

/** The lines of the report, without the time that each step took and with single spaces; steps keep their glyph. */
function linesOf({ stdout }: Outcome): string[] {
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) =>
      line
        .replace(/ +/g, " ")
        .trim()
        .replace(/^([✓!✗]) [\d.]+ m?s /, "$1 ")
        .replace(/, [\d.]+ m?s in all$/, ", N ms in all")
        .replace(/round trip [\d.]+ ms$/, "round trip N ms"),
    );
}

interface Verdict {
  readonly ok: boolean;
  readonly target?: string;
  readonly hops: string[];
  readonly ms: number;
  readonly error?: { readonly code: string; readonly message: string; readonly hints: string[] };
}

interface Checked {
  readonly code: number;
  readonly steps: Record<string, unknown>[];
  readonly verdict: Verdict;
  readonly stdout: string;
}

/** The same as events: every line is one, with its time, and the verdict is the last. */
async function checkJson(args: readonly string[], options?: RunOptions): Promise<Checked> {
  const { code, stdout, stderr } = await runSeikan(["connect", "--check", "--json", ...args], options);
  expect(stderr).toBe("");
  expect(stdout).toEndWith("\n");
  const events = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  for (const { event, time } of events) {
    expect(event).toBeString();
    expect(new Date(time as string).toISOString()).toBe(time as string);
  }
  const verdict = events.at(-1)!;
  expect([verdict.event, typeof verdict.ok, typeof verdict.ms]).toEqual(["check", "boolean", "number"]);
  expect(events.filter(({ event }) => event === "check")).toHaveLength(1);
  expect(verdict.ok).toBe(code === 0);
  const steps = events.filter(({ event }) => event === "check-step");
  for (const { ms } of steps) expect(ms).toBeGreaterThanOrEqual(0);
  return { code, steps, verdict: verdict as unknown as Verdict, stdout };
}

const kindsOf = ({ steps }: Checked) => steps.map(({ step }) => step);
const stepOf = ({ steps }: Checked, kind: string) => steps.find(({ step }) => step === kind);

/** A hop that answers each request with these bytes, whatever it was. */
function answering(bytes: string): RawServer {
  return new RawServer((socket) => {
    socket.sees("\r\n\r\n").then(
      () => socket.send(bytes),
      () => {},
    );
  });
}

const refusal = (status: string, body: string, ...fields: string[]) =>
  [`HTTP/1.1 ${status}`, ...fields, `Content-Length: ${body.length}`, "", body].join("\r\n");

const http = (port: number) => `http://127.0.0.1:${port}`;
const ws = (port: number) => `ws://127.0.0.1:${port}`;

describe("a connection that works is shown step by step", () => {
  test("directly, with the look-up of a name", async () => {
    const name = `localhost:${speaking.port}`;
    const outcome = await check(name);
    expect([outcome.code, outcome.stderr]).toEqual([0, ""]);
    const [head, lookup, ...rest] = linesOf(outcome);
    expect(head).toBe(`${name} direct (no proxy is set)`);
    expect(lookup).toMatch(/^✓ look up localhost( (127\.0\.0\.1|::1))+$/);
    expect(rest).toEqual([
      `✓ TCP ${target}`,
      `✓ first byte ${JSON.stringify(BANNER)}`,
      `works: ${name} is reached, N ms in all`,
    ]);

    const checked = await checkJson([name]);
    expect(kindsOf(checked)).toEqual(["lookup", "tcp", "first-byte"]);
    expect(checked.steps[0]).toMatchObject({ host: "localhost" });
    expect(checked.steps[0]!.addresses as string[]).toContain("127.0.0.1");
    expect(checked.steps[1]).toMatchObject({ address: target });
    expect(checked.steps[2]).toMatchObject({ outcome: "data" });
    expect(checked.verdict).toMatchObject({ ok: true, target: name, hops: [] });
  });

  test("through an HTTP proxy, with its answer", async () => {
    const hop = http(open.port);
    expect(linesOf(await check(target, "--via", hop))).toEqual([
      `${target} ${hop} (--via)`,
      `✓ TCP 127.0.0.1:${open.port}`,
      `✓ CONNECT ${target} ${hop}: 200 Connection established`,
      `✓ first byte ${JSON.stringify(BANNER)}`,
      `works: ${target} is reached, N ms in all`,
    ]);
    const checked = await checkJson([target, "--via", hop]);
    expect(kindsOf(checked)).toEqual(["tcp", "answer", "first-byte"]);
    expect(stepOf(checked, "answer")).toMatchObject({ hop, request: `CONNECT ${target}`, status: 200 });
    expect(checked.verdict).toMatchObject({ ok: true, target, hops: [hop] });
  });

  test("through the proxy of the environment, which is named as what chose it", async () => {
    const hop = http(open.port);
    const outcome = await runSeikan(["connect", "--check", target], { env: { HTTPS_PROXY: hop, ALL_PROXY: hop } });
    expect(outcome.code).toBe(0);
    expect(linesOf(outcome)[0]).toMatch(new RegExp(`^${target} ${hop} \\((HTTPS|ALL)_PROXY\\)$`));
  });

  test("through a SOCKS 5 proxy", async () => {
    const hop = `socks5://127.0.0.1:${open.port}`;
    expect(linesOf(await check(target, "--via", hop))).toEqual([
      `${target} ${hop} (--via)`,
      `✓ TCP 127.0.0.1:${open.port}`,
      `✓ CONNECT ${target} SOCKS proxy 127.0.0.1:${open.port}: succeeded`,
      `✓ first byte ${JSON.stringify(BANNER)}`,
      `works: ${target} is reached, N ms in all`,
    ]);
    const checked = await checkJson([target, "--via", hop]);
    expect(kindsOf(checked)).toEqual(["tcp", "answer", "first-byte"]);
    expect(stepOf(checked, "answer")).not.toHaveProperty("status");
  });

  test("through a tunnel: upgrade, round trip, CONNECT", async () => {
    const hop = ws(open.port);
    expect(linesOf(await check(target, "--via", hop))).toEqual([
      `${target} ${hop} (--via)`,
      `✓ TCP 127.0.0.1:${open.port}`,
      `✓ WebSocket upgrade of /-/tunnel ${hop}: 101 Switching Protocols`,
      `✓ tunnel ready ${hop}: round trip N ms`,
      `✓ CONNECT ${target} ${hop}: 200 Connection established`,
      `✓ first byte ${JSON.stringify(BANNER)}`,
      `works: ${target} is reached, N ms in all`,
    ]);
    const checked = await checkJson([target, "--via", hop]);
    expect(kindsOf(checked)).toEqual(["tcp", "answer", "tunnel", "answer", "first-byte"]);
    expect(stepOf(checked, "answer")).toMatchObject({ hop, status: 101 });
    expect(stepOf(checked, "tunnel")!.roundTripMs).toBeGreaterThan(0);
  });

  test("through a tunnel over TLS: version, subject, issuer and expiry", async () => {
    const hop = `wss://localhost:${secure.port}`;
    const args = [target, "--via", hop, "--proxy-cacert", certFile];
    const outcome = await check(...args);
    expect([outcome.code, outcome.stderr]).toEqual([0, ""]);
    const tls = linesOf(outcome).find((line) => line.includes("TLS"));
    const inDays = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
    expect(tls).toMatch(/^✓ TLS with localhost:\d+ TLSv1\.3, CN=localhost, issued by CN=localhost, valid until /);
    expect(tls).toMatch(/ valid until \d{4}-\d\d-\d\d \((29|30) days\)$/);
    expect([inDays(29), inDays(30)]).toContain(/until (\S+)/.exec(tls!)![1]!);

    const checked = await checkJson(args);
    expect(kindsOf(checked)).toEqual(["lookup", "tcp", "tls", "answer", "tunnel", "answer", "first-byte"]);
    const step = stepOf(checked, "tls")!;
    expect(step).toMatchObject({ peer: `localhost:${secure.port}`, version: "TLSv1.3" });
    expect(step).toMatchObject({ subject: "CN=localhost", issuer: "CN=localhost" });
    expect(Date.parse(step.expires as string)).toBeGreaterThan(Date.now());
  });

  test("with a certificate that ends soon: it works, and is marked", async () => {
    const outcome = await check("--via", `wss://localhost:${intercepted.port}`, "--proxy-cacert", intercepting.caFile);
    expect(outcome.code).toBe(0);
    const tls = linesOf(outcome).find((line) => line.includes("TLS"));
    expect(tls).toMatch(/^! TLS with localhost:\d+ TLSv1\.3, CN=localhost, issued by CN=corp-inspection\.test, valid /);
    expect(tls).toMatch(/ \([45] days\)$/);
  });

  test("with TLS to the target, inside the proxy's tunnel", async () => {
    const secret = `localhost:${secure.port}`;
    const args = [secret, "--tls", "--cacert", certFile, "--via", http(open.port)];
    const checked = await checkJson(args);
    expect([checked.code, kindsOf(checked)]).toEqual([0, ["tcp", "answer", "tls", "first-byte"]]);
    expect(stepOf(checked, "tls")).toMatchObject({ peer: secret, issuer: "CN=localhost" });
  });

  test("to a UDP target: as far as anybody can tell who sends it nothing", async () => {
    const udp = `udp:127.0.0.1:${freePort()}`;
    const direct = await checkJson([udp]);
    expect([direct.code, kindsOf(direct), direct.verdict.target]).toEqual([0, ["udp"], udp]);
    const tunnelled = await checkJson([udp, "--via", ws(open.port)]);
    expect([tunnelled.code, kindsOf(tunnelled)]).toEqual([0, ["tcp", "answer", "tunnel", "answer"]]);
    expect(tunnelled.steps.at(-1)).toMatchObject({ hop: ws(open.port), status: 101 });
  });

  test("through a chain of two: a proxy, and behind it a tunnel over TLS", async () => {
    const hops = [http(open.port), `wss://localhost:${secure.port}`];
    const args = [target, "--via", hops[0]!, "--via", hops[1]!, "--proxy-cacert", certFile];
    const outcome = await check(...args);
    expect(outcome.code).toBe(0);
    const lines = linesOf(outcome);
    expect(lines[0]).toBe(`${target} ${hops.join(" → ")} (--via)`);
    expect(lines.slice(1).map((line) => line.split(" ").slice(0, 2).join(" "))).toEqual([
      ...["✓ TCP", "✓ CONNECT", "✓ TLS", "✓ WebSocket", "✓ tunnel", "✓ CONNECT", "✓ first", `works: ${target}`],
    ]);
    expect(lines[2]).toBe(`✓ CONNECT localhost:${secure.port} ${hops[0]}: 200 Connection established`);
    expect(lines[6]).toBe(`✓ CONNECT ${target} ${hops[1]}: 200 Connection established`);

    const checked = await checkJson(args);
    expect(checked.verdict).toMatchObject({ ok: true, target, hops });
    expect(checked.steps.filter(({ step }) => step === "answer").map(({ hop }) => hop)).toEqual([
      ...[hops[0], hops[1], hops[1]],
    ]);
  });

  test("with a password that is right", async () => {
    for (const scheme of ["http", "socks5", "ws"]) {
      const { code, verdict } = await checkJson([
        target,
        "--via",
        `${scheme}://ann:pa55-w0rd@127.0.0.1:${closed.port}`,
      ]);
      expect([code, verdict.hops]).toEqual([0, [`${scheme}://***@127.0.0.1:${closed.port}`]]);
    }
  });

  test("and leaves nothing behind at the far end: the tunnel is closed, not cut", async () => {
    await using server = await serve("-l", "127.0.0.1:0");
    expect((await check("--via", ws(server.port))).code).toBe(0);
    await until(() => server.stderr().includes("tunnel closed"), "the server sees the tunnel's end");
    expect(server.stderr()).not.toMatch(/tunnel closed.*end=/);
  });
});

describe("without TARGET the way is gone as far as the last hop", () => {
  test("for a tunnel: until it carries", async () => {
    const hop = ws(open.port);
    const outcome = await check("--via", hop);
    expect(outcome.code).toBe(0);
    expect(linesOf(outcome).slice(1)).toEqual([
      `✓ TCP 127.0.0.1:${open.port}`,
      `✓ WebSocket upgrade of /-/tunnel ${hop}: 101 Switching Protocols`,
      `✓ tunnel ready ${hop}: round trip N ms`,
      `works: ${hop} is ready, N ms in all`,
    ]);
    const checked = await checkJson(["--via", hop]);
    expect(checked.verdict).toMatchObject({ ok: true, hops: [hop] });
    expect(checked.verdict).not.toHaveProperty("target");
  });

  test("for proxies: until they accept a connection, TLS included", async () => {
    for (const hop of [http(open.port), `socks5://127.0.0.1:${open.port}`]) {
      const checked = await checkJson(["--via", hop]);
      expect([checked.code, kindsOf(checked)]).toEqual([0, ["tcp"]]);
    }
    const over = await checkJson(["--via", `https://localhost:${secure.port}`, "--proxy-cacert", certFile]);
    expect([over.code, kindsOf(over)]).toEqual([0, ["lookup", "tcp", "tls"]]);
  });

  test("for the last of two hops: through the first one", async () => {
    const checked = await checkJson(["--via", `socks5h://127.0.0.1:${open.port}`, "--via", ws(closed.port)]);
    expect(checked.code).toBe(4);
    expect(kindsOf(checked)).toEqual(["tcp", "answer", "answer"]);
    expect(checked.verdict.error?.message).toContain(ws(closed.port));
    const dead = await checkJson(["--via", http(open.port), "--via", http(freePort())]);
    expect([dead.code, dead.verdict.error?.code]).toEqual([3, "hop-refused"]);
  });
});

describe("the first byte", () => {
  test("is shown as the target sends it, controls escaped", async () => {
    using wild = new RawServer((socket) => void socket.send('\x1b[2J\x9b31m\x07"\x7f\r\n'));
    const { code, stdout } = await check(`127.0.0.1:${wild.port}`);
    expect(code).toBe(0);
    expect(stdout).toContain(String.raw`"\u001b[2J\x9b31m\u0007\"\x7f\r\n"`);
    // oxlint-disable-next-line no-control-regex
    expect(stdout).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
  });

  test("is awaited for a second where the client speaks first", async () => {
    const outcome = await check(`127.0.0.1:${silent.port}`);
    expect(outcome.code).toBe(0);
    expect(linesOf(outcome).at(-2)).toBe(
      "✓ first byte none within 1 s: the client speaks first there, as in HTTP and TLS",
    );
    const checked = await checkJson([`127.0.0.1:${silent.port}`, "--via", ws(open.port)]);
    expect([checked.code, checked.steps.at(-1)!.outcome]).toEqual([0, "silent"]);
  });

  test("that never comes because the target hangs up is marked", async () => {
    const outcome = await check(`127.0.0.1:${closing.port}`);
    expect(outcome.code).toBe(0);
    expect(linesOf(outcome).at(-2)).toBe("! first byte the target closed the connection at once");
    for (const hop of [http(open.port), ws(open.port), `socks5://127.0.0.1:${open.port}`]) {
      const checked = await checkJson([`127.0.0.1:${closing.port}`, "--via", hop]);
      expect([checked.code, checked.steps.at(-1)!.outcome]).toEqual([0, "closed"]);
    }
  });
});

/** Fails with these, as text and as events; resolves to both. */
async function fails(
  args: readonly string[],
  expected: { exit: number; code: string; says: string | RegExp; hints: (string | RegExp)[] },
): Promise<{ lines: string[]; checked: Checked }> {
  const [outcome, checked] = await Promise.all([check(...args), checkJson(args)]);
  const lines = linesOf(outcome);
  expect([outcome.code, outcome.stderr]).toEqual([expected.exit, ""]);
  expect(lines.at(-1)).toBe(`does not work: ${expected.code}, exit code ${expected.exit}`);
  const failed = lines.filter((line) => line.startsWith("✗ "));
  expect(failed).toHaveLength(1);
  expect(failed[0]).toMatch(expected.says);
  const hints = lines.filter((line) => /^(hint|it says): /.test(line)).map((line) => line.replace(/^hint: /, ""));
  expect(hints).toHaveLength(expected.hints.length);
  expected.hints.forEach((hint, i) => expect(hints[i]).toMatch(hint));
  expect(checked.code).toBe(expected.exit);
  expect(checked.verdict).toMatchObject({ ok: false, error: { code: expected.code } });
  expect(checked.verdict.error!.message).toMatch(expected.says);
  expect(checked.verdict.error!.hints).toHaveLength(expected.hints.length);
  return { lines, checked };
}

describe("a connection that fails says where and why:", () => {
  test("a name that nobody knows", async () => {
    const { checked } = await fails(["no-such-host.invalid:443"], {
      exit: 3,
      code: "name-not-found",
      says: "no-such-host.invalid",
      hints: [/resolver/],
    });
    expect(checked.steps).toEqual([]);
  });

  test("a port on which nobody listens", async () => {
    const port = freePort();
    const { checked } = await fails([`localhost:${port}`], {
      exit: 3,
      code: "connect-refused",
      says: new RegExp(`connection refused by localhost:${port} \\(.*127\\.0\\.0\\.1.*\\)`),
      hints: [/listening on that port/],
    });
    expect(kindsOf(checked)).toEqual(["lookup"]);
  });

  test("a hop on whose port nobody listens: the hop is named, not the target", async () => {
    const port = freePort();
    await fails([target, "--via", http(port)], {
      exit: 3,
      code: "connect-refused",
      says: `connection refused by 127.0.0.1:${port}`,
      hints: [/listening on that port/],
    });
  });

  test("a proxy that wants credentials, with its schemes", async () => {
    using proxy = answering(
      refusal("407 Who are you", "", "Proxy-Authenticate: Negotiate", "Proxy-Authenticate: NTLM"),
    );
    const hop = http(proxy.port);
    const { lines, checked } = await fails([target, "--via", hop], {
      exit: 4,
      code: "hop-auth",
      says: `${hop} wants credentials (407); it offers negotiate, ntlm`,
      hints: [/--proxy-auth-command/],
    });
    expect(lines).toContain(`! CONNECT ${target} ${hop}: 407 Who are you`);
    expect(stepOf(checked, "answer")).toMatchObject({ hop, status: 407, reason: "Who are you" });
    await fails([target, "--via", http(closed.port)], {
      exit: 4,
      code: "hop-auth",
      says: "wants credentials (407); it offers basic",
      hints: [/SCHEME:\/\/USER:PASS@HOST:PORT.*--proxy-auth-file/],
    });
  });

  test("a proxy that refuses the credentials", async () => {
    using proxy = answering(refusal("407 No", "", 'Proxy-Authenticate: Basic realm="x"'));
    await fails([target, "--via", `http://ann:wrong@127.0.0.1:${proxy.port}`], {
      exit: 4,
      code: "hop-auth",
      says: "refused our credentials (407); it offers basic",
      hints: [/user and password/],
    });
  });

  test("a tunnel that wants credentials, or refuses them", async () => {
    const hop = ws(closed.port);
    const { lines } = await fails([target, "--via", hop], {
      exit: 4,
      code: "hop-auth",
      says: `${hop} wants credentials (401); it offers basic`,
      hints: [/SCHEME:\/\/USER:PASS@HOST:PORT/],
    });
    expect(lines).toContain(`! WebSocket upgrade of /-/tunnel ${hop}: 401 Unauthorized`);
    using refusing = answering(refusal("401 No", "", 'WWW-Authenticate: Basic realm="x"'));
    await fails(["--via", `ws://ann:wrong@127.0.0.1:${refusing.port}`], {
      exit: 4,
      code: "hop-auth",
      says: "refused our credentials (401)",
      hints: [/user and password/],
    });
  });

  test("a SOCKS proxy that wants credentials, or refuses them", async () => {
    await fails([target, "--via", `socks5://127.0.0.1:${closed.port}`], {
      exit: 4,
      code: "hop-auth",
      says: `127.0.0.1:${closed.port} wants a user and password`,
      hints: [/socks5:\/\/USER:PASS@HOST:PORT/],
    });
    const { verdict } = await checkJson([target, "--via", `socks5://ann:wrong@127.0.0.1:${closed.port}`]);
    expect(verdict.error).toMatchObject({ code: "hop-auth" });
  });

  test("a target behind a tunnel that refuses, with the reason of the far end", async () => {
    const gone = `127.0.0.1:${freePort()}`;
    const { lines } = await fails([gone, "--via", ws(open.port)], {
      exit: 3,
      code: "hop-refused",
      says: `${ws(open.port)} refused CONNECT ${gone}: 502`,
      hints: [`connection refused by ${gone}`],
    });
    expect(lines.filter((line) => line.startsWith("✓")).map((line) => line.split(" ")[1])).toEqual([
      ...["TCP", "WebSocket", "tunnel"],
    ]);
    const nowhere = await checkJson(["no-such-host.invalid:1", "--via", ws(open.port)]);
    expect([nowhere.code, nowhere.verdict.error!.hints[0]]).toEqual([
      3,
      expect.stringContaining("no-such-host.invalid"),
    ]);
  });

  test("a target that the far end of a tunnel forbids", async () => {
    await fails([target, "--via", ws(forbidding.port)], {
      exit: 3,
      code: "hop-refused",
      says: `refused CONNECT ${target}: 403`,
      hints: [/--deny-net/],
    });
  });

  for (const [status, body] of [
    ["200 OK", "<html><title>Welcome</title><p>It works!</p></html>"],
    ["400 Bad Request", "not a websocket handshake"],
    ["426 Upgrade Required", "upgrade!"],
  ] as const) {
    test(`something on the way that strips Upgrade: ${status}`, async () => {
      using proxy = answering(refusal(status, body));
      const { checked } = await fails([target, "--via", ws(proxy.port)], {
        exit: 3,
        code: "hop-refused",
        says: `${ws(proxy.port)} refused WebSocket upgrade of /-/tunnel: ${status}`,
        hints: [/^it says: [^<>]+$/, /saw no upgrade: a proxy on the way may have stripped it/],
      });
      expect(stepOf(checked, "answer")).toMatchObject({ status: Number(status.slice(0, 3)) });
    });
  }

  // Only statuses from 300 on are odd: an upgrade that was answered 200 has a green tick, right above its failure.
  test("an answer that is no agreement has no tick, 200 to an upgrade included", async () => {
    using proxy = answering(refusal("200 OK", "welcome"));
    const lines = linesOf(await check("--via", ws(proxy.port)));
    expect(lines).toContain(`! WebSocket upgrade of /-/tunnel ${ws(proxy.port)}: 200 OK`);
  });

  test("a tunnel that is not at this path", async () => {
    const hop = `${ws(open.port)}/elsewhere`;
    await fails([target, "--via", hop], {
      exit: 3,
      code: "hop-refused",
      says: "refused WebSocket upgrade of /elsewhere: 404",
      hints: [/^it says: /, /is \/elsewhere the right path\?/],
    });
  });

  test("a redirection, a login page's for example", async () => {
    using proxy = answering(refusal("302 Found", "", "Location: https://login.test/"));
    await fails(["--via", ws(proxy.port)], {
      exit: 3,
      code: "hop-refused",
      says: "302 Found",
      hints: [/redirects/],
    });
  });

  test("a proxy that answers in place of the tunnel: 407", async () => {
    using proxy = answering(refusal("407 Proxy Authentication Required", "", "Proxy-Authenticate: NTLM"));
    await fails(["--via", ws(proxy.port)], {
      exit: 4,
      code: "hop-auth",
      says: "407 Proxy Authentication Required",
      hints: [/hop of its own, --via http:/],
    });
  });

  test("a 101 that is not ours", async () => {
    const fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: bm90IG91cnMgYXQgYWxsISEh"];
    using proxy = answering(["HTTP/1.1 101 Switching Protocols", ...fields, "", ""].join("\r\n"));
    await fails(["--via", ws(proxy.port)], {
      exit: 3,
      code: "hop-protocol",
      says: "does not complete the WebSocket upgrade: its Sec-WebSocket-Accept is wrong",
      hints: [/answers in its place/],
    });
  });

  test("a 101 that is withheld", async () => {
    await fails([target, "--via", ws(silent.port), "--connect-timeout", "700ms"], {
      exit: 124,
      code: "connect-timeout",
      says: `${ws(silent.port)} withholds its answer to the WebSocket upgrade`,
      hints: [/collects answers first/],
    });
  });

  test("a proxy that does not answer", async () => {
    await fails([target, "--via", http(silent.port), "--connect-timeout", "700ms"], {
      exit: 124,
      code: "connect-timeout",
      says: `${http(silent.port)} does not answer within the connect timeout`,
      hints: [/says nothing: is that the right port/],
    });
  });

  test("a tunnel that opens and then says nothing", async () => {
    using mute = new RawServer((socket) => {
      socket.sees("\r\n\r\n").then(
        (head) => {
          const key = /sec-websocket-key: (\S+)/i.exec(head)![1]!;
          const accept = new Bun.CryptoHasher("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
          const fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Protocol: seikan.v1"];
          const answer = ["HTTP/1.1 101 OK", ...fields, `Sec-WebSocket-Accept: ${accept.digest("base64")}`, "", ""];
          socket.send(answer.join("\r\n"));
        },
        () => {},
      );
    });
    await fails([target, "--via", ws(mute.port), "--connect-timeout", "700ms"], {
      exit: 124,
      code: "connect-timeout",
      says: `the tunnel ${ws(mute.port)} is open and gives no answer`,
      hints: [],
    });
  });

  test("an interceptor of TLS, named by its issuer", async () => {
    const hop = `wss://localhost:${intercepted.port}`;
    const { checked } = await fails([target, "--via", hop], {
      exit: 3,
      code: "tls-certificate",
      says: new RegExp(`certificate of localhost:${intercepted.port}, issued by CN=${ISSUER}, cannot be trusted`),
      hints: [/--proxy-cacert/, /something on the way intercepts TLS/],
    });
    expect(stepOf(checked, "tls")).toMatchObject({ subject: "CN=localhost", issuer: `CN=${ISSUER}` });
    const behind = await checkJson([`localhost:${intercepted.port}`, "--tls", "--via", http(open.port)]);
    expect([behind.code, behind.verdict.error?.code]).toEqual([3, "tls-certificate"]);
    expect(behind.verdict.error?.message).toContain(`CN=${ISSUER}`);
  });

  test("a certificate for another name", async () => {
    const resolve = ["--resolve", `other.test:${secure.port}:127.0.0.1`];
    const args = ["--via", `https://other.test:${secure.port}`, "--proxy-cacert", certFile, ...resolve];
    const { verdict } = await checkJson(args);
    expect(verdict.error).toMatchObject({ code: "tls-certificate" });
    expect(verdict.error?.message).toContain("another name");
  });

  // The step is told before the handshake is judged: whatever was wrong with it, its line has a green tick.
  test("a certificate that is not trusted has no tick", async () => {
    const lines = linesOf(await check("--via", `wss://localhost:${secure.port}`));
    expect(lines.filter((line) => line.startsWith("✓")).map((line) => line.split(" ")[1])).not.toContain("TLS");
  });

  for (const [scheme, args] of [
    ["https", (port: number) => [target, "--via", `https://localhost:${port}`]],
    ["wss", (port: number) => [target, "--via", `wss://localhost:${port}`]],
    ["--tls", (port: number) => [`localhost:${port}`, "--tls"]],
  ] as const) {
    test(`TLS to a port that does not speak it (${scheme})`, async () => {
      const outcome = await check(...args(open.port));
      expect(outcome.code).toBe(3);
      expect(linesOf(outcome).at(-1)).toBe("does not work: tls-failed, exit code 3");
      expect(outcome.stdout).toContain(`TLS with localhost:${open.port} failed`);
    });

    // `handshake` reports a failed one as well, so `✓ TLS with … TLSv1.2` stands there for a port that speaks none.
    // And the hint is only given where the handshake ends without an answer.
    test(`TLS to a port that does not speak it (${scheme}) shows no TLS, and hints at that`, async () => {
      const checked = await checkJson(args(open.port));
      expect(kindsOf(checked)).not.toContain("tls");
      expect(checked.verdict.error?.hints.join()).toContain("speak TLS");
    });
  }

  for (const [scheme, other] of [
    ["http", "https:// instead of http://"],
    ["ws", "wss:// instead of ws://"],
  ] as const) {
    test(`no TLS to a port that speaks it (${scheme})`, async () => {
      await fails([target, "--via", `${scheme}://localhost:${secure.port}`], {
        exit: 3,
        code: "hop-closed",
        says: `${scheme}://localhost:${secure.port} closed the connection during the handshake`,
        hints: [other],
      });
      // An alert is what other servers answer.
      using alerting = answering("\x15\x03\x03\x00\x02\x02\x0a");
      await fails([target, "--via", `${scheme}://127.0.0.1:${alerting.port}`], {
        exit: 3,
        code: "hop-protocol",
        says: `${scheme}://127.0.0.1:${alerting.port} does not answer in HTTP`,
        hints: [`it speaks TLS: try ${other}`],
      });
    });
  }

  test("something else than a proxy behind the port", async () => {
    await fails(["example.com:443", "--via", http(speaking.port)], {
      exit: 3,
      code: "hop-protocol",
      says: `${http(speaking.port)} does not answer in HTTP`,
      hints: [/right host and port/],
    });
    const { verdict } = await checkJson(["example.com:443", "--via", `socks5h://127.0.0.1:${speaking.port}`]);
    expect(verdict.error).toMatchObject({ code: "hop-protocol" });
  });

  // The decoder's error goes up as it is: in a chain nobody knows which hop it was.
  test("something else than a SOCKS proxy behind the port: the hop is named", async () => {
    const { verdict } = await checkJson(["example.com:443", "--via", `socks5h://127.0.0.1:${speaking.port}`]);
    expect(verdict.error?.message).toContain(`127.0.0.1:${speaking.port}`);
  });

  // Only the other modes of connect have a Lifetime.
  test("the whole run takes longer than --timeout", async () => {
    const startedAt = performance.now();
    const { code } = await check("--via", ws(silent.port), "--connect-timeout", "4s", "--timeout", "300ms");
    expect([code, performance.now() - startedAt < 3500]).toEqual([124, true]);
  });
});

describe("what a peer says", () => {
  test("has its controls escaped: reason phrases, bodies, fields", async () => {
    using wild = answering(refusal("400 B\xe4d\x9b31m", "one\x1b[2J\x07two\x9b", 'Proxy-Status: x; details="\x9b31m"'));
    for (const hop of [http(wild.port), ws(wild.port)]) {
      const { code, stdout } = await check(target, "--via", hop);
      expect(code).toBe(3);
      expect(stdout).toContain("400 Bäd\\x9b31m");
      expect(stdout).toContain(String.raw`one\x1b[2J\x07two`);
      // oxlint-disable-next-line no-control-regex
      expect(stdout).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
      const checked = await checkJson([target, "--via", hop]);
      expect(stepOf(checked, "answer")).toMatchObject({ status: 400, reason: "Bäd\x9b31m" });
      // oxlint-disable-next-line no-control-regex
      expect(checked.stdout).not.toMatch(/[\x00-\x09\x0b-\x1f]/);
    }
  });

  test("cannot add lines of its own", async () => {
    using wild = answering(refusal("403 Forbidden", "no\n\n  ✓ 1 ms TCP 1.2.3.4\n\nworks:  all is well\r\n"));
    const outcome = await check(target, "--via", http(wild.port));
    expect(outcome.code).toBe(3);
    const lines = linesOf(outcome);
    expect(lines.filter((line) => line.startsWith("works:"))).toEqual([]);
    expect(lines.filter((line) => line.startsWith("✓"))).toEqual([`✓ TCP 127.0.0.1:${wild.port}`]);
  });
});

describe("credentials are never shown", () => {
  const secret = "hush-hush";
  // Its refusals come at once, unlike serve's.
  const wanting = (status: 401 | 407) =>
    answering(refusal(`${status} No`, "", "WWW-Authenticate: Basic", "Proxy-Authenticate: Basic"));

  async function isHidden(args: readonly string[], options: RunOptions = {}): Promise<void> {
    const ways = [[], ["--json"], ["--log-level", "debug"]];
    const outcomes = ways.map((more) => runSeikan(["connect", "--check", ...args, ...more], options));
    for (const { stdout, stderr } of await Promise.all(outcomes)) {
      const said = stdout + stderr;
      expect(said.length).toBeGreaterThan(20);
      expect(said).not.toContain(secret);
      expect(said).not.toContain(Buffer.from(`ann:${secret}`).toString("base64"));
    }
  }

  test("those in the URL of a hop", async () => {
    using proxy = wanting(407);
    using tunnel = wanting(401);
    // Refused, and not even asked for.
    await isHidden([target, "--via", `http://ann:${secret}@127.0.0.1:${proxy.port}`]);
    await isHidden([target, "--via", `ws://ann:${secret}@127.0.0.1:${tunnel.port}`]);
    for (const scheme of ["http", "ws", "socks5h"]) {
      await isHidden([target, "--via", `${scheme}://ann:${secret}@127.0.0.1:${open.port}`]);
    }
    await isHidden([target, "--via", `socks5h://ann:${secret}@127.0.0.1:${closed.port}`]);
    await isHidden(["--via", `http://ann:${secret}@127.0.0.1:${freePort()}`]);
    await isHidden([target, "--via", `nonsense://ann:${secret}@127.0.0.1:1`]);
  });

  test("those in the environment, in files and in fields", async () => {
    using proxy = wanting(407);
    using tunnel = wanting(401);
    await isHidden([target], { env: { HTTPS_PROXY: `http://ann:${secret}@127.0.0.1:${proxy.port}` } });
    await isHidden([target], { env: { SEIKAN_VIA: `ws://ann:${secret}@127.0.0.1:${tunnel.port}` } });
    await isHidden([target, "--via", http(proxy.port)], { env: { SEIKAN_PROXY_AUTH: `ann:${secret}` } });
    using folder = new TempFolder();
    await Bun.write(folder.file("auth"), `Bearer ${secret}\n`);
    await isHidden([target, "--via", ws(tunnel.port), "--proxy-auth-file", folder.file("auth")]);
    await isHidden([target, "--via", ws(tunnel.port), "--proxy-header", `X-Token: ${secret}`]);
  });

  // The hop is shown with `?***`, as it should be; the step, the error and the hint show the path as it is.
  test("those in the query of a WebSocket's URL", async () => {
    await isHidden([target, "--via", `ws+raw://127.0.0.1:${open.port}/bridge?token=${secret}`]);
    await isHidden(["--via", `ws://127.0.0.1:${open.port}/-/tunnel?token=${secret}`]);
  });
});

describe("--check is not for", () => {
  const table: [what: string, args: () => string[], says: RegExp][] = [
    ["listeners", () => [target, "-L", "0"], /neither -L nor a command/],
    ["commands", () => [target, "--", "true"], /neither -L nor a command/],
    ["nothing at all", () => [], /needs a TARGET, a --via, or both/],
    ["a direct way without TARGET", () => ["--via", "direct"], /needs a TARGET, a --via, or both/],
  ];
  for (const [what, args, says] of table) {
    test(`${what}: a usage error, before anything is dialled`, async () => {
      const before = speaking.accepted.length;
      const outcome = await check(...args());
      expect([outcome.code, outcome.stdout]).toEqual([2, ""]);
      expect(outcome.stderr).toMatch(says);
      const { code, stdout, stderr } = await runSeikan(["connect", "--json", "--check", ...args()]);
      expect([code, stdout]).toEqual([2, ""]);
      expect(JSON.parse(stderr)).toMatchObject({ event: "error", error: { code: "usage" } });
      expect(speaking.accepted).toHaveLength(before);
    });
  }
});
