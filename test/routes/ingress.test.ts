import { describe, expect, test } from "bun:test";
import { parseAddressRange, type Network } from "../../src/core/address.ts";
import { SeikanError } from "../../src/core/errors.ts";
import type { Client, RouteContext } from "../../src/routes/context.ts";
import { Exposure, Member } from "../../src/routes/exposure.ts";
import {
  admit,
  hostOf,
  isTrusted,
  probeNonce,
  probePath,
  siteErrorStyle,
  SiteVisit,
  visitorOf,
} from "../../src/routes/ingress.ts";
import type { Visitor } from "../../src/routes/sites.ts";
import { fieldValue, fieldValues } from "../../src/wire/fields.ts";
import { RequestReader, type RequestHead } from "../../src/wire/http1.ts";
import type { ExposureSpec } from "../../src/wire/registration.ts";
import { codeOf } from "../support/decode.ts";
import { PlayedAgent } from "../support/played-agent.ts";
import { reset, until } from "../support/wait.ts";

const VIA = "seikan-1a2b";
const PEER: Client = { address: "192.0.2.7", port: 5000, exposed: true, isSecure: false };
/** Believed, and so is everything in its network. */
const PROXY: Client = { ...PEER, address: "10.0.0.1" };
const TRUSTED = ["10.0.0.0/8", "2001:db8:ffff::/48"].map(parseAddressRange);
const WEB: ExposureSpec = { kind: "http", name: "web" };

/** A request head as the parser reads it. */
function requested(startLine: string, ...fields: string[]): RequestHead {
  let head: RequestHead | undefined;
  const reader = new RequestReader({ onHead: (found) => void (head = found), onBody() {}, onComplete() {} });
  reader.feed(Buffer.from(`${[`${startLine} HTTP/1.1`, ...fields].join("\r\n")}\r\n\r\n`, "latin1"));
  if (head === undefined) throw new Error("no head was read");
  return head;
}

const get = (...fields: string[]) => requested("GET /a?b=c", "Host: web.test", ...fields);

describe("the host of a request", () => {
  const table: [host: string | undefined, target: string, found: string | undefined][] = [
    ["web.test", "/", "web.test"],
    ["web.test:8080", "/", "web.test"],
    ["web.test:", "/", "web.test"],
    ["Web.TEST", "/", "web.test"],
    ["web.test.", "/", "web.test"],
    ["web.test.:80", "/", "web.test"],
    ["192.0.2.1:80", "/", "192.0.2.1"],
    ["0x7f.1", "/", "127.0.0.1"],
    ["[2001:DB8::1]:80", "/", "2001:db8::1"],
    ["[::1]", "/", "::1"],
    ["[::ffff:127.0.0.1]", "/", "127.0.0.1"],
    ["web.test", "*", "web.test"],
    // Absolute-form: the target alone counts.
    ["other.test", "http://web.test/a", "web.test"],
    ["other.test", "http://Web.Test:8080?b", "web.test"],
    ["other.test", "https://web.test", "web.test"],
    ["other.test", "HTTP://web.test/", "web.test"],
    ["other.test", "http://[::1]:80/", "::1"],
    [undefined, "http://web.test/", "web.test"],
    // None.
    [undefined, "/", undefined],
    ["", "/", undefined],
    [":80", "/", undefined],
    ["web.test:80:80", "/", undefined],
    ["::1", "/", undefined],
    ["web test", "/", undefined],
    ["web.test/a", "/", undefined],
    ["a@web.test", "/", undefined],
    ["a%2eb.test", "/", undefined],
    ["*.web.test", "/", undefined],
    ["web..test", "/", undefined],
    ["256.256.256.256", "/", undefined],
    [`${"a".repeat(64)}.${"b".repeat(190)}`, "/", undefined],
  ];
  for (const [host, target, found] of table) {
    test(`is ${found ?? "none"} for ${target} with the Host ${JSON.stringify(host)}`, () => {
      const head = requested(`GET ${target}`, ...(host === undefined ? [] : [`Host: ${host}`]));
      expect(hostOf(head)).toBe(found);
    });
  }

  test("is not the user of a URL that has one", () => {
    expect(hostOf(requested("GET http://web.test@evil.test/", "Host: evil.test"))).not.toBe("evil.test");
  });
});

describe("a probe", () => {
  const nonce = "0123456789abcdef";

  test("is a GET for its path, in either form", () => {
    expect(probeNonce(requested(`GET ${probePath(nonce)}`, "Host: a"))).toBe(nonce);
    expect(probeNonce(requested(`GET http://web.test${probePath(nonce)}`, "Host: a"))).toBe(nonce);
    expect(probeNonce(requested(`GET ${probePath("z".repeat(64))}`, "Host: a"))).toBe("z".repeat(64));
  });

  for (const line of [
    `HEAD ${probePath(nonce)}`,
    `POST ${probePath(nonce)}`,
    `GET /a${probePath(nonce)}`,
    `GET ${probePath(nonce)}?a`,
    `GET ${probePath(nonce)}/`,
    `GET ${probePath("short")}`,
    `GET ${probePath("z".repeat(65))}`,
    `GET ${probePath("ABCDEFGHIJKLMNOP")}`,
    `GET ${probePath("../../../etc/passwd")}`,
    `GET ${probePath("")}`,
    "GET /",
    "OPTIONS *",
  ]) {
    test(`is not ${line}`, () => {
      expect(probeNonce(requested(line, "Host: a"))).toBeUndefined();
    });
  }
});

describe("a peer", () => {
  test("is trusted by its address", () => {
    for (const [address, is] of [
      ["10.0.0.1", true],
      ["10.255.255.255", true],
      ["::ffff:10.0.0.1", true],
      ["2001:db8:ffff::1", true],
      ["11.0.0.1", false],
      ["2001:db8::1", false],
      ["", false],
      ["10.0.0.1, 10.0.0.2", false],
      ["proxy.test", false],
    ] as const) {
      expect([address, isTrusted(address, TRUSTED)]).toEqual([address, is]);
    }
    expect(isTrusted("10.0.0.1", [])).toBe(false);
  });
});

describe("a visitor", () => {
  const lies = [
    ...["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: bank.test"],
    ...["Forwarded: for=203.0.113.9;proto=https;host=bank.test", "X-Real-IP: 203.0.113.9"],
  ];

  test("is the peer, whatever it says", () => {
    for (const trusted of [[], TRUSTED]) {
      expect(visitorOf(get(...lies), PEER, trusted)).toEqual({
        ...{ address: "192.0.2.7", port: 5000, isSecure: false, host: "web.test", member: undefined },
      });
    }
    expect(visitorOf(get(), { ...PEER, isSecure: true }, TRUSTED).isSecure).toBe(true);
  });

  test("is whom a proxy that is trusted speaks for", () => {
    expect(visitorOf(get(...lies), PROXY, TRUSTED)).toEqual({
      ...{ address: "203.0.113.9", port: 0, isSecure: true, host: "web.test", member: undefined },
    });
  });

  test("is that proxy where it speaks for nobody", () => {
    expect(visitorOf(get(), PROXY, TRUSTED)).toEqual({
      ...{ address: "10.0.0.1", port: 5000, isSecure: false, host: "web.test", member: undefined },
    });
  });

  const from = (...values: string[]) =>
    visitorOf(get(...values.map((value) => `X-Forwarded-For: ${value}`)), PROXY, TRUSTED).address;

  test("is the last one that no trusted proxy stands for; what is before it is hearsay", () => {
    expect(from("203.0.113.9, 10.0.0.2")).toBe("203.0.113.9");
    expect(from("6.6.6.6, 203.0.113.9, 10.0.0.3, 10.0.0.2")).toBe("203.0.113.9");
    expect(from("6.6.6.6", "10.0.0.9,203.0.113.9", "10.0.0.2")).toBe("203.0.113.9");
    expect(from(" 203.0.113.9 ,\t10.0.0.2 ")).toBe("203.0.113.9");
    expect(from("10.0.0.5, 203.0.113.9")).toBe("203.0.113.9");
  });

  test("may come over IPv6", () => {
    expect(from("2001:DB8::0009")).toBe("2001:db8::9");
    expect(from("2001:db8::9, 2001:db8:ffff::1")).toBe("2001:db8::9");
    expect(from("::ffff:203.0.113.9, ::ffff:10.0.0.2")).toBe("203.0.113.9");
    const proxy = { ...PROXY, address: "2001:db8:ffff::1" };
    expect(visitorOf(get("X-Forwarded-For: 2001:db8::9"), proxy, TRUSTED).address).toBe("2001:db8::9");
  });

  for (const nothing of ["", ",", " , "]) {
    test(`is the proxy itself where that says ${JSON.stringify(nothing)}`, () => {
      expect(from(nothing)).toBe("10.0.0.1");
    });
  }

  for (const junk of ["unknown", "_hidden", "visitor.test", "1.2.3.4.5", "<script>", "for=1.2.3.4"]) {
    test(`is nobody we know where that says ${JSON.stringify(junk)}`, () => {
      expect(from(junk)).toBe("");
      // And nobody whom the junk hides.
      expect(from(`203.0.113.9, ${junk}`)).toBe("");
    });
  }

  // Some proxies name the port, too; their visitors then count as the proxy itself.
  for (const [text, address] of [
    ["203.0.113.9:5000", "203.0.113.9"],
    ["[2001:db8::9]:5000", "2001:db8::9"],
    ["[2001:db8::9]", "2001:db8::9"],
  ] as const) {
    test(`may be written as ${text}`, () => {
      expect(from(text)).toBe(address);
    });
  }

  // Whoever sits in the network of the proxies is the first of the hops.
  test("may be a neighbour of the proxies", () => {
    expect(from("10.0.0.77")).toBe("10.0.0.77");
    expect(from("10.0.0.77, 10.0.0.2")).toBe("10.0.0.77");
  });

  test("speaks TLS where the proxy says so", () => {
    const isSecure = (value: string, client = PROXY) =>
      visitorOf(get(`X-Forwarded-Proto: ${value}`), client, TRUSTED).isSecure;
    expect(["https", "HTTPS", " https ", "http", "", "wss"].map((value) => isSecure(value))).toEqual([
      ...[true, true, true, false, false, false],
    ]);
    expect(isSecure("http", { ...PROXY, isSecure: true })).toBe(false);
    expect(visitorOf(get(), { ...PROXY, isSecure: true }, TRUSTED).isSecure).toBe(true);
  });

  test("comes back with the cookie of a member, among others", () => {
    const member = (...fields: string[]) => visitorOf(get(...fields), PEER, []).member;
    expect(member("Cookie: seikan-member=abc")).toBe("abc");
    expect(member("Cookie: a=1; seikan-member=abc; b=2")).toBe("abc");
    expect(member("Cookie: a=1", "Cookie: seikan-member=a=b")).toBe("a=b");
    expect(member("Cookie: xseikan-member=abc; Seikan-Member=abc")).toBeUndefined();
    expect(member("X-Cookie: seikan-member=abc")).toBeUndefined();
  });
});

/** A site without anybody who serves it. */
const siteWith = (changes: Partial<ExposureSpec> = {}) => new Exposure("http:web.test", { ...WEB, ...changes });

describe("a site", () => {
  const visitor = (address: string): Visitor => ({
    ...{ address, port: 5000, isSecure: false, host: "web.test", member: undefined },
  });
  const verdict = async (changes: Partial<ExposureSpec>, address = "192.0.2.7", ...fields: string[]) => {
    try {
      await admit(siteWith(changes), get(...fields), visitor(address));
      return "admitted";
    } catch (error) {
      if (error instanceof SeikanError) return `${error.code}: ${error.message}`;
      throw error;
    }
  };
  const basic = (text: string) => `Authorization: Basic ${Buffer.from(text).toString("base64")}`;

  test("is there for everybody, where nothing else is said", async () => {
    for (const address of ["192.0.2.7", "2001:db8::1", ""]) expect(await verdict({}, address)).toBe("admitted");
  });

  test("is there for visitors of its networks only", async () => {
    const clients = ["10.0.0.0/8", "2001:db8::/32"];
    for (const address of ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"])
      expect([address, await verdict({ clients }, address)]).toEqual([address, "admitted"]);
    for (const address of ["11.0.0.1", "::1", "", "unknown"]) {
      expect([address, await verdict({ clients }, address)]).toEqual([
        address,
        "visitor-denied: this site is not for visitors from your address",
      ]);
    }
  });

  test("asks for a password where it has users", async () => {
    const auth = ["alice:se:cret"];
    expect(await verdict({ auth })).toBe("auth-required: this site wants a password");
    expect(await verdict({ auth }, "192.0.2.7", "Authorization: Bearer x")).toStartWith("auth-required: ");
    expect(await verdict({ auth }, "192.0.2.7", "Proxy-Authorization: Basic YWxpY2U6c2U6Y3JldA==")).toStartWith(
      "auth-required: ",
    );
    expect(await verdict({ auth }, "192.0.2.7", basic("alice:se:cret"))).toBe("admitted");
    expect(await verdict({ auth }, "192.0.2.8", basic("alice:secret"))).toBe("auth-required: wrong user or password");
  });

  test("asks nobody for a password who may not come anyway", async () => {
    const spec = { auth: ["alice:x"], clients: ["10.0.0.0/8"] };
    expect(await verdict(spec, "192.0.2.7", basic("alice:x"))).toStartWith("visitor-denied: ");
  });

  test("tells its errors as the visitor asked, and as an origin", () => {
    expect(siteErrorStyle(get("Accept: text/html"))).toEqual({ asOrigin: true, accept: "text/html" });
    expect(siteErrorStyle(get())).toEqual({ asOrigin: true, accept: "" });
    expect(siteErrorStyle(undefined)).toEqual({ asOrigin: true, accept: "" });
  });
});

interface Settings {
  readonly spec?: Partial<ExposureSpec>;
  readonly client?: Client;
  readonly trusted?: readonly Network[];
  readonly via?: string | undefined;
  readonly site?: Exposure;
  readonly member?: string;
}

function visitOf(head: RequestHead, { spec, client = PEER, trusted = [], via = VIA, site, member }: Settings = {}) {
  const context = { via, trustedProxies: trusted, limits: { connectMs: 10_000 } } as unknown as RouteContext;
  const visitor = visitorOf(head, client, trusted);
  return new SiteVisit(context, head, site ?? siteWith(spec), { ...visitor, ...(member && { member }) }, client);
}

/** The request as it goes on; `of` gives the values of a field. */
function prepared(head: RequestHead, settings: Settings = {}) {
  const { target, fields } = visitOf(head, settings).prepare();
  return { target, fields, of: (name: string) => fieldValues(fields, name) };
}

const pairs = (fields: readonly string[]) =>
  Array.from({ length: fields.length / 2 }, (_, index) => [fields[2 * index]!, fields[2 * index + 1]!] as const);

const refusal = (head: RequestHead, settings: Settings = {}) => codeOf(() => prepared(head, settings));

describe("a request on its way to a site", () => {
  test("says who asks, and keeps everything else", () => {
    const { target, fields } = prepared(get("Accept: */*", "X-Custom: 1", "x-custom: 2", "User-Agent: curl"));
    expect(target).toBe("/a?b=c");
    const others = ["Host", "web.test", "Accept", "*/*", "X-Custom", "1", "x-custom", "2", "User-Agent", "curl"];
    expect(fields.slice(0, others.length)).toEqual(others);
    expect(Object.fromEntries(pairs(fields.slice(others.length)))).toEqual({
      Via: `1.1 ${VIA}`,
      Forwarded: "for=192.0.2.7;host=web.test;proto=http",
      "X-Forwarded-For": "192.0.2.7",
      "X-Real-IP": "192.0.2.7",
      "X-Forwarded-Proto": "http",
      "X-Forwarded-Host": "web.test",
    });
    expect(fields).toHaveLength(others.length + 12);
  });

  const lies = [
    ...["Forwarded: for=6.6.6.6;proto=https;host=bank.test", "forwarded: for=6.6.6.7", "X-Forwarded-For: 6.6.6.6"],
    ...["X-FORWARDED-FOR: 6.6.6.7", "X-Real-IP: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: bank.test"],
    ...["X-Forwarded-Port: 443", "X-Forwarded-Prefix: /admin", "X-Forwarded-User: root", "X-Forwarded-: 1"],
  ];

  test("says nothing of what a visitor says about itself", () => {
    for (const trusted of [[], TRUSTED]) {
      expect(prepared(get(...lies), { trusted }).fields).toEqual(prepared(get(), { trusted }).fields);
    }
  });

  test("says what a proxy that is trusted says, and names that", () => {
    const { of } = prepared(get(...lies, "X-Forwarded-For: 203.0.113.9, 10.0.0.2"), {
      ...{ client: PROXY, trusted: TRUSTED },
    });
    expect(of("x-forwarded-for")).toEqual(["6.6.6.6, 6.6.6.7, 203.0.113.9, 10.0.0.2, 10.0.0.1"]);
    expect(of("forwarded")).toEqual([
      "for=6.6.6.6;proto=https;host=bank.test, for=6.6.6.7, for=10.0.0.1;host=web.test;proto=https",
    ]);
    expect(of("x-real-ip")).toEqual(["203.0.113.9"]);
    expect(of("x-forwarded-proto")).toEqual(["https"]);
    expect(of("x-forwarded-host")).toEqual(["web.test"]);
    // Nobody says where these come from.
    for (const name of ["x-forwarded-port", "x-forwarded-prefix", "x-forwarded-user"]) expect(of(name)).toEqual([]);
  });

  test("says that it came over TLS", () => {
    const { of } = prepared(get(), { client: { ...PEER, isSecure: true } });
    expect(of("x-forwarded-proto")).toEqual(["https"]);
    expect(of("forwarded")).toEqual(["for=192.0.2.7;host=web.test;proto=https"]);
  });

  test("quotes IPv6 and ports, as RFC 7239 wants it", () => {
    const head = requested("GET /", "Host: [2001:db8::1]:8080");
    const { of } = prepared(head, { client: { ...PEER, address: "2001:db8::7" } });
    expect(of("forwarded")).toEqual(['for="[2001:db8::7]";host="[2001:db8::1]:8080";proto=http']);
    expect([of("x-forwarded-for"), of("x-real-ip")]).toEqual([["2001:db8::7"], ["2001:db8::7"]]);
    expect(of("x-forwarded-host")).toEqual(["[2001:db8::1]:8080"]);
    expect(prepared(requested("GET /", "Host: web.test:8080")).of("forwarded")).toEqual([
      'for=192.0.2.7;host="web.test:8080";proto=http',
    ]);
  });

  test("quotes a Host that would say more than a host", () => {
    const { of } = prepared(requested("GET /", 'Host: a";for=6.6.6.6;x="\\'));
    expect(of("forwarded")).toEqual(['for=192.0.2.7;host="a;for=6.6.6.6;x=";proto=http']);
  });

  test("from a unix socket comes from nobody who has an address", () => {
    const { of } = prepared(get(), { client: { ...PEER, address: "", port: 0 } });
    expect(of("forwarded")).toEqual(["for=unknown;host=web.test;proto=http"]);
    expect([of("x-forwarded-for"), of("x-real-ip")]).toEqual([[], []]);
  });

  test("shows the password to the site, but not where it was ours", () => {
    const head = get("Authorization: Basic YTpi", "authorization: Bearer x");
    expect(prepared(head).of("authorization")).toEqual(["Basic YTpi", "Bearer x"]);
    expect(prepared(head, { spec: { auth: ["a:b"] } }).of("authorization")).toEqual([]);
    const requestFields: [string, string][] = [["Authorization", "Bearer site"]];
    expect(prepared(head, { spec: { auth: ["a:b"], requestFields } }).of("authorization")).toEqual(["Bearer site"]);
  });

  for (const [cookies, left] of [
    [["seikan-member=abc"], []],
    [["a=1; seikan-member=abc"], ["a=1"]],
    [["seikan-member=abc; a=1"], ["a=1"]],
    [["a=1; seikan-member=abc; b=2"], ["a=1; b=2"]],
    [["seikan-member=1; a=1; seikan-member=2"], ["a=1"]],
    [
      ["a=1", "seikan-member=abc", "b=2"],
      ["a=1", "b=2"],
    ],
    [["xseikan-member=abc"], ["xseikan-member=abc"]],
    [["a=seikan-member=abc; b=2"], ["a=seikan-member=abc; b=2"]],
    [["seikan-members=abc"], ["seikan-members=abc"]],
    [["a=1;b=2"], ["a=1;b=2"]],
  ] as const) {
    test(`keeps our cookie for us: ${cookies.join(" and ")}`, () => {
      const fields = cookies.map((value) => `Cookie: ${value}`);
      expect(prepared(get(...fields), { spec: { sticky: "cookie" } }).of("cookie")).toEqual([...left]);
    });
  }

  test("keeps what looks like our cookie in other fields", () => {
    const head = get("X-Note: seikan-member=abc", "Cookie: seikan-member=abc");
    const { of } = prepared(head, { spec: { sticky: "cookie" } });
    expect([of("x-note"), of("cookie")]).toEqual([["seikan-member=abc"], []]);
  });

  test("goes on with the fields that the site sets, and without those it removes", () => {
    const requestFields: [string, string | null][] = [
      ["X-Set", "new"],
      ["X-Added", ""],
      ["x-REMOVED", null],
      ["X-Absent", null],
    ];
    const head = get("X-Set: 1", "x-set: 2", "X-Removed: 1", "X-Kept: 1");
    const { fields, of } = prepared(head, { spec: { requestFields } });
    expect([of("x-set"), of("x-added"), of("x-removed"), of("x-kept")]).toEqual([["new"], [""], [], ["1"]]);
    expect(fields).not.toContain("X-Absent");
  });

  test("goes on with what the site says about ourselves, too", () => {
    const requestFields: [string, string | null][] = [
      ["X-Forwarded-For", null],
      ["X-Real-IP", "192.0.2.99"],
      ["Via", null],
    ];
    const { of } = prepared(get(), { spec: { requestFields } });
    expect([of("x-forwarded-for"), of("x-real-ip"), of("via")]).toEqual([[], ["192.0.2.99"], []]);
  });

  test("has the Host that the site wants, and tells the one that was asked for", () => {
    const { of } = prepared(get(), { spec: { hostHeader: "localhost:3000" } });
    expect(of("host")).toEqual(["localhost:3000"]);
    expect(of("x-forwarded-host")).toEqual(["web.test"]);
    expect(of("forwarded")).toEqual(["for=192.0.2.7;host=web.test;proto=http"]);
  });

  test("loses what belongs to one hop", () => {
    const { fields } = prepared(
      get(
        ...["Connection: close, X-Hop", "X-Hop: 1", "x-hop: 2", "Keep-Alive: timeout=5", "Proxy-Connection: close"],
        ...["TE: gzip", "Upgrade: h2c", "HTTP2-Settings: AA", "Proxy-Authorization: Basic YTpi", "Seikan-Agent: home"],
      ),
    );
    expect(fields).toEqual([...prepared(get()).fields]);
  });

  test("cannot make us lose what we say", () => {
    const nominated = [
      ...["Forwarded", "X-Forwarded-For", "X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Host", "Via"],
    ];
    const { fields } = prepared(get(`Connection: ${nominated.join(", ")}`));
    expect(fields).toEqual([...prepared(get()).fields]);
    // Nor what a trusted proxy said.
    const settings = { client: PROXY, trusted: TRUSTED };
    const { of } = prepared(get("Connection: X-Forwarded-For", "X-Forwarded-For: 203.0.113.9"), settings);
    expect(of("x-forwarded-for")).toEqual(["203.0.113.9, 10.0.0.1"]);
  });

  for (const name of ["Host", "Content-Length", "Transfer-Encoding"]) {
    test(`is refused when its Connection names ${name}`, () => {
      expect(refusal(get(`Connection: ${name}`))).toBe("bad-request");
    });
  }

  test("is refused when it has been here before", () => {
    for (const via of [`1.1 ${VIA}`, `1.0 fred, 1.1 ${VIA}`, `1.1 ${VIA.toUpperCase()}`, `HTTP/1.1 ${VIA} (seikan)`])
      expect([via, refusal(get(`Via: ${via}`))]).toEqual([via, "loop"]);
    expect(refusal(get("Via: 1.0 fred", `Via: 1.1 ${VIA}`))).toBe("loop");
    // Also when it tries to hide that.
    expect(refusal(get("Connection: Via", `Via: 1.1 ${VIA}`))).toBe("loop");
  });

  test("goes on when others were on its way, and names them", () => {
    const { of } = prepared(get("Via: 1.0 fred", `Via: 1.1 ${VIA}x (${VIA})`));
    expect(of("via")).toEqual(["1.0 fred", `1.1 ${VIA}x (${VIA})`, `1.1 ${VIA}`]);
    expect(prepared(get(), { via: undefined }).of("via")).toEqual([`1.1 ${VIA}`]);
  });

  test("in absolute-form goes on in origin-form, to the host of its URL", () => {
    for (const [url, target, host] of [
      ["http://web.test/a?b", "/a?b", "web.test"],
      ["http://web.test:8080", "/", "web.test:8080"],
      ["http://WEB.test:80?b", "/?b", "web.test"],
    ] as const) {
      const { target: path, of } = prepared(requested(`GET ${url}`, "Host: other.test"));
      expect([url, path, of("host")]).toEqual([url, target, [host]]);
    }
    expect(prepared(requested("OPTIONS *", "Host: web.test")).target).toBe("*");
    expect(refusal(requested("GET http://a@web.test/", "Host: web.test"))).toBe("bad-request");
  });

  // Over TLS that is the absolute form of an ordinary request (RFC 9112 section 3.2.2).
  test("in absolute-form may be one for https://", () => {
    const { target, of } = prepared(requested("GET https://web.test/a", "Host: web.test"), {
      client: { ...PEER, isSecure: true },
    });
    expect([target, of("host")]).toEqual(["/a", ["web.test"]]);
  });

  test("may ask for a WebSocket, and for nothing else instead of HTTP", () => {
    const fields = ["Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13"];
    const { of } = prepared(get(...fields, "Upgrade: websocket"));
    expect([of("connection"), of("upgrade"), of("sec-websocket-version")]).toEqual([
      ...[["Upgrade"], ["websocket"], ["13"]],
    ]);
    expect(prepared(get(...fields, "Upgrade: h2c")).of("upgrade")).toEqual([]);
  });

  test("is framed as it came", () => {
    const post = (...fields: string[]) => prepared(requested("POST /", "Host: web.test", ...fields)).of;
    expect(post("Content-Length: 5")("content-length")).toEqual(["5"]);
    const chunked = post("Transfer-Encoding: chunked", "TE: trailers");
    expect([chunked("transfer-encoding"), chunked("te"), chunked("connection")]).toEqual([
      ...[["chunked"], ["trailers"], ["TE"]],
    ]);
  });

  test("is no TRACE, and expects nothing that we do not know", () => {
    expect(refusal(requested("TRACE /", "Host: web.test"))).toBe("method-refused");
    expect(refusal(get("Expect: the-unexpected"))).toBe("expectation-failed");
    expect(prepared(get("Expect: 100-continue")).of("expect")).toEqual(["100-continue"]);
  });
});

/** A site of agents that the test plays: `a`, `b`, … */
class PlayedSite implements Disposable {
  readonly exposure: Exposure;
  readonly agents: PlayedAgent[];

  constructor(count: number, changes: Partial<ExposureSpec> = {}) {
    this.exposure = siteWith(changes);
    this.agents = Array.from({ length: count }, (_, index) => new PlayedAgent(String.fromCodePoint(97 + index)));
    for (const { agent } of this.agents) this.exposure.members.push(new Member(agent, this.exposure.spec));
  }

  get busy(): number[] {
    return this.exposure.members.map(({ inFlight }) => inFlight);
  }

  visit(settings: Settings = {}, ...fields: string[]): SiteVisit {
    return visitOf(get(...fields), { ...settings, site: this.exposure });
  }

  [Symbol.dispose](): void {
    for (const agent of this.agents) agent[Symbol.dispose]();
  }
}

describe("a visit", () => {
  const setCookies = (visit: SiteVisit, ...fields: string[]) => fieldValues(visit.answerFields(fields), "set-cookie");

  test("occupies its member until it is over", async () => {
    using site = new PlayedSite(1);
    const visit = site.visit();
    expect([visit.origin, visit.way, visit.idle]).toEqual(["", undefined, undefined]);
    await visit.reach();
    expect(site.busy).toEqual([1]);
    expect(visit.way?.agent).toBe("a");
    expect(visit.idle).toBe(site.agents[0]!.agent.idle);
    visit.settled();
    expect(site.busy).toEqual([0]);
  });

  test("on a connection that is there already occupies its member, too", async () => {
    using site = new PlayedSite(1);
    const first = site.visit();
    await first.reach();
    first.settled();
    const second = site.visit();
    expect(second.accepts(first.origin)).toBe(true);
    expect([second.origin, site.busy]).toEqual([first.origin, [1]]);
    second.settled();
    expect(site.busy).toEqual([0]);
    site.exposure.members[0]!.isHealthy = false;
    expect(site.visit().accepts(first.origin)).toBe(false);
    expect(site.busy).toEqual([0]);
  });

  test("that reaches nobody occupies nobody", async () => {
    using site = new PlayedSite(1);
    site.agents[0]!.reply = new SeikanError("connect-refused", "refused");
    const visit = site.visit();
    const outcome = await visit.reach().catch((error: SeikanError) => error.code);
    visit.settled();
    expect([outcome, site.busy]).toEqual(["connect-refused", [0]]);
  });

  // The visitor went away while its member was asked.
  test("that is over before its member answers occupies nobody", async () => {
    using site = new PlayedSite(1);
    site.agents[0]!.reply = "silence";
    const visit = site.visit();
    const reached = visit.reach();
    const asked = await site.agents[0]!.stream();
    visit.settled();
    site.agents[0]!.answer(asked, "agree");
    (await reached).abort(reset());
    expect(site.busy).toEqual([0]);
  });

  test("sets the cookie of its member, once", async () => {
    using site = new PlayedSite(2, { sticky: "cookie" });
    const first = site.visit();
    await first.reach();
    const cookies = setCookies(first, "Content-Type", "text/plain");
    expect(cookies).toEqual([expect.stringMatching(/^seikan-member=[0-9a-f]{16}; Path=\/; HttpOnly; SameSite=Lax$/)]);
    const second = site.visit({}, `Cookie: ${cookies[0]!.split(";")[0]}`);
    await second.reach();
    expect([second.origin, setCookies(second)]).toEqual([first.origin, []]);
  });

  test("sets another cookie when its member has gone", async () => {
    using site = new PlayedSite(2, { sticky: "cookie" });
    const [gone, other] = site.exposure.members;
    gone!.isHealthy = false;
    const visit = site.visit({}, `Cookie: seikan-member=${gone!.id}`);
    await visit.reach();
    expect(setCookies(visit)[0]).toStartWith(`seikan-member=${other!.id};`);
  });

  test("sets no cookie where none is wanted", async () => {
    for (const sticky of [undefined, "address"] as const) {
      using site = new PlayedSite(2, sticky === undefined ? {} : { sticky });
      const visit = site.visit();
      await visit.reach();
      expect(setCookies(visit)).toEqual([]);
    }
  });

  // A proxy in front sends several visitors over one connection.
  test("does not take a connection to another member than its cookie's", async () => {
    using site = new PlayedSite(2, { sticky: "cookie" });
    const [a, b] = site.exposure.members;
    const settings: Settings = { client: PROXY, trusted: TRUSTED };
    const first = site.visit(settings, "X-Forwarded-For: 203.0.113.1", `Cookie: seikan-member=${a!.id}`);
    await first.reach();
    first.settled();
    const second = site.visit(settings, "X-Forwarded-For: 203.0.113.2", `Cookie: seikan-member=${b!.id}`);
    expect(second.accepts(first.origin)).toBe(false);
  });

  test("changes the fields of the answer as the site wants it", async () => {
    const responseFields: [string, string | null][] = [
      ["Server", null],
      ["X-Frame-Options", "DENY"],
      ["Set-Cookie", null],
    ];
    using site = new PlayedSite(1, { responseFields, sticky: "cookie" });
    const visit = site.visit();
    await visit.reach();
    const answered = ["Content-Type", "text/plain", "server", "nginx", "SERVER", "x", "x-frame-options", "ALLOW"];
    const fields = visit.answerFields([...answered, "Set-Cookie", "a=1"]);
    expect(fields.slice(0, 4)).toEqual(["Content-Type", "text/plain", "X-Frame-Options", "DENY"]);
    expect(fieldValue(fields, "server")).toBeUndefined();
    // What the site removes are its own cookies.
    expect(fieldValues(fields, "set-cookie")).toEqual([expect.stringMatching(/^seikan-member=/)]);
  });

  test("leaves the fields of the answer alone where nothing is said", () => {
    const fields = ["Server", "nginx", "Set-Cookie", "a=1", "Set-Cookie", "b=2"];
    expect(visitOf(get()).answerFields([...fields])).toEqual(fields);
  });

  test("tells its agent whom it is for: the visitor, not the proxy in front", async () => {
    using site = new PlayedSite(1);
    await site.visit({ client: PROXY, trusted: TRUSTED }, "X-Forwarded-For: 203.0.113.9").reach();
    const stream = await site.agents[0]!.stream();
    expect(stream.field("forwarded")).toBe('for="203.0.113.9:0"');
    await until(() => stream.asked !== undefined, "it was asked");
    expect(stream.asked).toBe("CONNECT web.agent.internal:80");
  });
});
