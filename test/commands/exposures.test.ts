import { describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import { AGENT_OPTIONS } from "../../src/commands/agent-options.ts";
import { checkUnique, formatUpstream, parseExposure, renamed, type Upstream } from "../../src/commands/exposures.ts";
import { tcpTarget, udpTarget, type Target } from "../../src/core/address.ts";
import { SeikanError } from "../../src/core/errors.ts";
import { parseRegistration, type ExposureSpec } from "../../src/wire/registration.ts";

const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

const unix = (path: string): Target => ({ kind: "unix", path });
const service = (target: Target, changes: Partial<Upstream & { kind: "service" }> = {}): Upstream => ({
  ...{ kind: "service", target, tls: false, insecure: false },
  ...changes,
});
const localhost = (port: number) => service(tcpTarget("localhost", port));
const files = (directory: string, listing = false): Upstream => ({ kind: "files", directory, listing });

const specOf = (text: string): ExposureSpec => parseExposure(text).spec;
const upstreamOf = (text: string): Upstream => parseExposure(text).upstream;

/** Everything that a refusal says. */
function refusalOf(text: string): SeikanError {
  try {
    throw new Error(`no refusal but ${Bun.inspect(parseExposure(text))}`);
  } catch (error) {
    if (!(error instanceof SeikanError)) throw error;
    expect(error.code).toBe("usage");
    return error;
  }
}

/** What follows `SPEC: `. */
function reasonOf(text: string): string {
  const { message } = refusalOf(text);
  // Header values may be secrets.
  const start = `${text.replace(/(re(?:quest|sponse)-header)=.*$/s, "$1=***")}: `;
  expect(message).toStartWith(start);
  return message.slice(start.length);
}

/** As the server will see it. */
function registered(spec: ExposureSpec): ExposureSpec | undefined {
  const rest = { agent: "a", key: "k".repeat(43), connection: "c".repeat(22), server: "" };
  return parseRegistration(JSON.stringify({ ...rest, exposures: [spec] })).exposures[0];
}

describe("a site", () => {
  const table: [text: string, upstream: Upstream][] = [
    ["3000", localhost(3000)],
    ["http://localhost:3000", localhost(3000)],
    ["http://localhost:3000/", localhost(3000)],
    ["HTTP://LOCALHOST:3000", localhost(3000)],
    ["http://app.test", service(tcpTarget("app.test", 80))],
    ["http://[::1]", service(tcpTarget("::1", 80))],
    ["http://[::1]:3000", service(tcpTarget("::1", 3000))],
    ["localhost:3000", localhost(3000)],
    ["[::1]:3000", service(tcpTarget("::1", 3000))],
    ["192.0.2.1:80", service(tcpTarget("192.0.2.1", 80))],
    ["https://app.test", service(tcpTarget("app.test", 443), { tls: true })],
    ["https://app.test:8443", service(tcpTarget("app.test", 8443), { tls: true })],
    ["https://app.test,upstream-insecure=yes", service(tcpTarget("app.test", 443), { tls: true, insecure: true })],
    ["https://app.test,upstream-insecure=no", service(tcpTarget("app.test", 443), { tls: true })],
    ["unix:/run/app.sock", service(unix("/run/app.sock"))],
    ["unix:/run/a=b.sock", service(unix("/run/a=b.sock"))],
    ["file:/srv/www", files("/srv/www")],
    ["file:///srv/www", files("/srv/www")],
    ["file:/srv/a=b", files("/srv/a=b")],
    ["file:www", files(resolve("www"))],
    ["file:.", files(resolve("."))],
    ["file:/srv/www,listing=yes", files("/srv/www", true)],
    ["file:/srv/www,listing=off", files("/srv/www")],
  ];
  for (const [text, upstream] of table) {
    test(`leads where ${text} says, with and without a name`, () => {
      expect(upstreamOf(text)).toEqual(upstream);
      expect(upstreamOf(`web=${text}`)).toEqual(upstream);
      expect(specOf(`web=${text}`)).toEqual({ kind: "http", name: "web" });
      expect(specOf(text)).toEqual({ kind: "http", name: expect.stringMatching(LABEL) });
    });
  }

  test("has a name that somebody chose, in lower case, or one of its own", () => {
    expect(parseExposure("Web=3000")).toMatchObject({ spec: { name: "web" }, isNameFree: false });
    expect(parseExposure("3000,name=Web")).toMatchObject({ spec: { name: "web" }, isNameFree: false });
    expect(parseExposure("3000")).toMatchObject({ isNameFree: true });
    expect(specOf("one=3000,name=two").name).toBe("two");
  });

  test("may have a whole host, from which it gets its name", () => {
    expect(parseExposure("host:www.Example.org=3000")).toMatchObject({
      spec: { kind: "http", name: "www-example-org", host: "www.example.org" },
      isNameFree: false,
      upstream: localhost(3000),
    });
    expect(specOf("site=host:www.example.org=http://localhost:3000")).toEqual({
      ...{ kind: "http", name: "site", host: "www.example.org" },
    });
    expect(specOf("host:*.dev.example.org=3000")).toEqual({
      ...{ kind: "http", name: "any-dev-example-org", host: "*.dev.example.org" },
    });
    expect(upstreamOf("host:www.example.org=file:/srv/www")).toEqual(files("/srv/www"));
    expect(upstreamOf("host:www.example.org=unix:/run/a")).toEqual(service(unix("/run/a")));
  });

  test("has a name that is a DNS label, however long its host is", () => {
    const host = `${"a".repeat(62)}.${"b".repeat(63)}.example.org`;
    expect(specOf(`host:${host}=3000`).name).toBe("a".repeat(62));
  });

  // Without a path that is the working directory, and whatever lies in it.
  test("of files names their directory", () => {
    refusalOf("file:");
  });

  // What is no letter, digit or hyphen goes on into the name, and the server refuses it.
  for (const host of ["_dmarc.example.org", "bücher.example.org", "a_b.example.org"]) {
    test(`has a name that is a DNS label, for the host ${host}`, () => {
      expect(specOf(`host:${host}=3000`).name).toMatch(LABEL);
    });
  }
});

describe("a port at the server", () => {
  const table: [text: string, spec: ExposureSpec, upstream: Upstream][] = [
    ["tcp:5432=localhost:5432", { kind: "tcp", name: "tcp-5432", port: 5432 }, localhost(5432)],
    ["tcp:5432=5433", { kind: "tcp", name: "tcp-5432", port: 5432 }, localhost(5433)],
    ["tcp:0=[::1]:22", { kind: "tcp", name: "tcp-0", port: 0 }, service(tcpTarget("::1", 22))],
    ["tcp:65535=tcp://h.test:22", { kind: "tcp", name: "tcp-65535", port: 65535 }, service(tcpTarget("h.test", 22))],
    ["tcp:22=unix:/run/ssh", { kind: "tcp", name: "tcp-22", port: 22 }, service(unix("/run/ssh"))],
    ["db=tcp:5432=localhost:5432", { kind: "tcp", name: "db", port: 5432 }, localhost(5432)],
    ["tcp:5432=localhost:5432,name=db", { kind: "tcp", name: "db", port: 5432 }, localhost(5432)],
    ["udp:53=1.1.1.1:53", { kind: "udp", name: "udp-53", port: 53 }, service(udpTarget("1.1.1.1", 53))],
    ["udp:53=udp:1.1.1.1:53", { kind: "udp", name: "udp-53", port: 53 }, service(udpTarget("1.1.1.1", 53))],
    ["udp:0=5353", { kind: "udp", name: "udp-0", port: 0 }, service(udpTarget("localhost", 5353))],
    ["dns=udp:0=[::1]:53", { kind: "udp", name: "dns", port: 0 }, service(udpTarget("::1", 53))],
  ];
  for (const [text, spec, upstream] of table) {
    test(`is ${text}`, () => {
      expect(parseExposure(text)).toMatchObject({ spec, upstream, isNameFree: false });
      expect(Object.keys(specOf(text)).toSorted()).toEqual(Object.keys(spec).toSorted());
    });
  }

  for (const [text, reason] of [
    ["tcp:65536=3000", '"65536" is no port'],
    ["tcp:x=3000", '"x" is no port'],
    ["tcp:=3000", '"" is no port'],
    ["udp:-1=3000", '"-1" is no port'],
    ["tcp:80=http://localhost:3000", "behind tcp: comes HOST:PORT"],
    ["tcp:80=https://localhost:3000", "behind tcp: comes HOST:PORT"],
    ["udp:80=http://localhost:3000", "behind udp: comes HOST:PORT"],
    ["tcp:80=file:/srv", "files are served over HTTP only"],
    ["udp:80=file:/srv", "files are served over HTTP only"],
    ["tcp:53=udp:1.1.1.1:53", "write udp:PORT=HOST:PORT"],
    ["udp:1.1.1.1:53", "write udp:PORT=HOST:PORT"],
  ] as const) {
    test(`is not ${text}`, () => {
      expect(reasonOf(text)).toBe(reason);
    });
  }

  // A stream cannot carry datagrams.
  for (const text of ["udp:53=unix:/run/dns", "udp:53=tcp://localhost:53"]) {
    test(`leads datagrams to a stream nowhere: ${text}`, () => {
      refusalOf(text);
    });
  }

  // "=HOST:PORT" was forgotten, and a site that leads to a host named tcp is none anybody wants.
  test("is not tcp:5432 alone", () => {
    refusalOf("tcp:5432");
  });
});

describe("a TLS server name", () => {
  test("leads its connections on as they are", () => {
    expect(parseExposure("tls:Mail.example.org=localhost:993")).toMatchObject({
      spec: { kind: "tls", name: "mail-example-org", host: "mail.example.org" },
      upstream: localhost(993),
    });
    expect(specOf("mail=tls:mail.example.org=993")).toEqual({ kind: "tls", name: "mail", host: "mail.example.org" });
    expect(specOf("tls:*.example.org=993")).toEqual({ kind: "tls", name: "any-example-org", host: "*.example.org" });
  });

  for (const [text, reason] of [
    ["tls:=localhost:993", "tls: names a host"],
    ["host:=localhost:993", "host: names a host"],
    ["tls:a.test=https://localhost:993", "behind tls: comes HOST:PORT"],
    ["tls:a.test=file:/srv", "files are served over HTTP only"],
  ] as const) {
    test(`is not ${text}`, () => {
      expect(reasonOf(text)).toBe(reason);
    });
  }
});

describe("a private exposure", () => {
  test("has a name, and leads to a TCP port", () => {
    expect(parseExposure("db=tcp://localhost:5432")).toMatchObject({
      spec: { kind: "private", name: "db" },
      isNameFree: false,
      upstream: localhost(5432),
    });
    expect(specOf("tcp://[::1]:5432,name=db")).toEqual({ kind: "private", name: "db" });
  });

  test("without a name gets one that is hard to guess", () => {
    const names = [1, 2].map(() => specOf("tcp://localhost:5432").name);
    expect(names[0]).not.toBe(names[1]);
    for (const name of names) expect(name).toMatch(/^[a-z0-9]{10}$/);
  });

  // The scheme is known in any case, but not what it stands for.
  test("is one however its scheme is written", () => {
    expect(specOf("db=TCP://localhost:5432").kind).toBe("private");
  });

  test("needs its port", () => {
    expect(refusalOf("db=tcp://localhost").message).toBe('cannot read target "localhost": expected HOST:PORT');
  });
});

describe("the options behind commas", () => {
  test("are all read", () => {
    const read = parseExposure(
      "web=http://localhost:3000,auth=alice:se:cret,auth=bob:,allow=10.0.0.0/8,host-header=app.test:80," +
        "request-header=X-A: 1,request-header=-X-B,response-header=X-C:,health=/up?x=1,sticky=cookie,proxy-protocol=v2",
    );
    expect(read).toEqual({
      spec: {
        ...{ kind: "http", name: "web" },
        auth: ["alice:se:cret", "bob:"],
        clients: ["10.0.0.0/8"],
        hostHeader: "app.test:80",
        requestFields: [
          ["X-A", "1"],
          ["X-B", null],
        ],
        responseFields: [["X-C", ""]],
        sticky: "cookie",
      },
      isNameFree: false,
      upstream: localhost(3000),
      health: "/up?x=1",
      proxyProtocol: true,
    });
    expect(registered(read.spec)).toEqual(read.spec);
  });

  test("are none where none are given", () => {
    expect(parseExposure("web=3000")).toEqual({
      ...{ spec: { kind: "http", name: "web" }, isNameFree: false, upstream: localhost(3000) },
      ...{ health: undefined, proxyProtocol: false },
    });
  });

  test("are the ones that the help names", () => {
    const [known = ""] = refusalOf("web=3000,gopher=1").hints;
    const [, helped = ""] = AGENT_OPTIONS.expose.help.split("Behind commas: ");
    const keys = helped.split(", ").map((part) => part.slice(0, part.indexOf("=")));
    expect(known.replace("the keys are ", "").split(", ").toSorted()).toEqual(keys.toSorted());
  });

  test("may have commas in their values", () => {
    expect(specOf("web=3000,auth=alice:a,b,,c").auth).toEqual(["alice:a,b,,c"]);
    expect(specOf("web=3000,auth=al,ice:x,sticky=cookie")).toMatchObject({ auth: ["al,ice:x"], sticky: "cookie" });
    expect(specOf("web=3000,request-header=Accept: a/b, c/d;q=0.1,name=two")).toMatchObject({
      requestFields: [["Accept", "a/b, c/d;q=0.1"]],
      name: "two",
    });
    expect(specOf("web=3000,allow=10.0.0.0/8,192.0.2.1, 2001:db8::/32,sticky=address")).toMatchObject({
      clients: ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"],
      sticky: "address",
    });
    expect(parseExposure("web=3000,health=/a,b").health).toBe("/a,b");
  });

  test("may have equals signs in their values", () => {
    expect(specOf("web=3000,auth=alice:a=b").auth).toEqual(["alice:a=b"]);
    expect(specOf("web=3000,response-header=Set-Cookie: a=b; Path=/").responseFields).toEqual([
      ["Set-Cookie", "a=b; Path=/"],
    ]);
  });

  test("may come more than once: lists collect, of the others the last one counts", () => {
    expect(specOf("web=3000,allow=10.0.0.0/8,sticky=cookie,allow=192.0.2.1,sticky=address,name=a,name=b")).toEqual({
      ...{ kind: "http", name: "b", clients: ["10.0.0.0/8", "192.0.2.1"], sticky: "address" },
    });
  });

  test("name the service as the Host, where that is wanted", () => {
    const hostOf = (text: string) => specOf(`${text},host-header=target`).hostHeader;
    expect(hostOf("http://app.test:3000")).toBe("app.test:3000");
    expect(hostOf("http://[::1]:3000")).toBe("[::1]:3000");
    expect(hostOf("unix:/run/app.sock")).toBe("localhost");
    expect(hostOf("file:/srv")).toBe("localhost");
  });

  for (const text of ["v2", "2"]) {
    test(`ask for a PROXY header with proxy-protocol=${text}`, () => {
      for (const place of ["3000", "tcp:0=22", "db=tcp://localhost:22", "tls:a.test=443"])
        expect(parseExposure(`${place},proxy-protocol=${text}`).proxyProtocol).toBe(true);
    });
  }

  test("about visitors' addresses are for every kind", () => {
    for (const place of ["3000", "tcp:0=22", "udp:0=53", "tls:a.test=443", "db=tcp://localhost:22"]) {
      expect(specOf(`${place},allow=10.0.0.0/8,sticky=address`)).toMatchObject({
        ...{ clients: ["10.0.0.0/8"], sticky: "address" },
      });
    }
  });
});

describe("an exposure is refused", () => {
  const table: [text: string, reason: string][] = [
    // Names.
    ["a.b=3000", '"a.b" is no DNS label: letters, digits and hyphens, 63 at most, no hyphen at either end'],
    ["-a=3000", '"-a" is no DNS label: letters, digits and hyphens, 63 at most, no hyphen at either end'],
    ["3000,name=", '"" is no DNS label: letters, digits and hyphens, 63 at most, no hyphen at either end'],
    ["3000,name=a_b", '"a_b" is no DNS label: letters, digits and hyphens, 63 at most, no hyphen at either end'],
    // Places.
    ["http://localhost:3000/app", "a local service has no path here"],
    ["http://localhost:3000?a=b", "a local service has no path here"],
    ["https://localhost/#a", "a local service has no path here"],
    ["web=udp:1.1.1.1:53", "write udp:PORT=HOST:PORT"],
    ["host:a.test=udp:1.1.1.1:53", "write udp:PORT=HOST:PORT"],
    // Options that are none.
    ["3000,yes", '"yes" is no KEY=VALUE'],
    ["3000,", '"" is no KEY=VALUE'],
    ["3000,Auth=a:b", '"Auth=a:b" is no KEY=VALUE'],
    // Options in the wrong place.
    ["tcp:0=22,host-header=a", "host-header= is about HTTP"],
    ["tcp:0=22,request-header=A: b", "request-header= is about HTTP"],
    ["udp:0=53,response-header=A: b", "response-header= is about HTTP"],
    ["tls:a.test=443,health=/up", "health= is about HTTP"],
    ["db=tcp://localhost:22,health=/up", "health= is about HTTP"],
    ["tcp:0=22,sticky=cookie", "cookies are about HTTP"],
    ["tls:a.test=443,sticky=cookie", "cookies are about HTTP"],
    ["3000,listing=yes", "listing= is about file: exposures"],
    ["tcp:0=22,listing=yes", "listing= is about file: exposures"],
    ["file:/srv,proxy-protocol=v2", "files need no PROXY header"],
    ["udp:0=53,proxy-protocol=v2", "the PROXY header is for TCP"],
    // Values.
    ["3000,host-header=", '"" is no host'],
    ["3000,host-header=a b", '"a b" is no host'],
    ["3000,host-header=http://a", '"http://a" is no host'],
    ["3000,host-header=u@a", '"u@a" is no host'],
    ["3000,host-header=a,b", '"a,b" is no host'],
    ["3000,request-header=X-A", "a header is 'Name: value', or -Name to remove it"],
    ["3000,request-header=", "a header is 'Name: value', or -Name to remove it"],
    ["3000,request-header=: b", "a header is 'Name: value', or -Name to remove it"],
    ["3000,request-header=X A: b", "a header is 'Name: value', or -Name to remove it"],
    ["3000,response-header=X-A: ü€", "a header is 'Name: value', or -Name to remove it"],
    ["3000,response-header=X-A: a\r\nX-B: b", "a header is 'Name: value', or -Name to remove it"],
    ["3000,response-header=X-A\r\nX-B: b", "a header is 'Name: value', or -Name to remove it"],
    ["3000,response-header=-", "a header is 'Name: value', or -Name to remove it"],
    ["3000,response-header=Content-Length: 5", "Content-Length frames or routes the message: it cannot be changed"],
    ["3000,response-header=-TRANSFER-ENCODING", "TRANSFER-ENCODING frames or routes the message: it cannot be changed"],
    ["3000,request-header=Connection: close", "Connection frames or routes the message: it cannot be changed"],
    ["3000,request-header=Upgrade: x", "Upgrade frames or routes the message: it cannot be changed"],
    ["3000,request-header=TE: trailers", "TE frames or routes the message: it cannot be changed"],
    ["3000,response-header=Trailer: x", "Trailer frames or routes the message: it cannot be changed"],
    ["3000,request-header=Host: a", "Host frames or routes the message: it cannot be changed so; use host-header="],
    ["3000,request-header=-host", "host frames or routes the message: it cannot be changed so; use host-header="],
  ];
  for (const [text, reason] of table) {
    test(`as ${JSON.stringify(text)}`, () => {
      expect(reasonOf(text)).toBe(reason);
      expect(refusalOf(text).hints.join()).toStartWith("for example http://localhost:3000");
    });
  }

  const others: [text: string, message: string][] = [
    ["", 'cannot read target "": expected HOST:PORT'],
    ["web", 'cannot read target "web": expected HOST:PORT'],
    ["web=", 'cannot read target "web=": expected HOST:PORT'],
    ["0", 'cannot read target "localhost:0": expected HOST:PORT'],
    ["65536", 'cannot read target "localhost:65536": expected HOST:PORT'],
    ["ftp://localhost:21", 'cannot read target "ftp://localhost:21": expected HOST:PORT'],
    ["http://:3000", 'cannot read target ":3000": expected HOST:PORT'],
    ["http://::1", 'cannot read target "::1": expected HOST:PORT'],
    ["unix:", '"unix:" lacks a path'],
    ["3000,gopher=yes", '3000,gopher=yes: unknown key "gopher"'],
    ["3000,allow=office", 'expected an address or CIDR such as 10.0.0.0/8, got "office"'],
    ["3000,allow=10.0.0.0/33", 'expected an address or CIDR such as 10.0.0.0/8, got "10.0.0.0/33"'],
    ["3000,allow=", 'expected an address or CIDR such as 10.0.0.0/8, got ""'],
    ["3000,sticky=header", "sticky=header: expected cookie or address"],
    ["3000,sticky=", "sticky=: expected cookie or address"],
    ["3000,health=up", "health=up: expected a path such as /up"],
    ["3000,health=/a b", "health=/a b: expected a path such as /up"],
    ["3000,proxy-protocol=v1", "proxy-protocol=v1: expected v2"],
    ["3000,proxy-protocol=yes", "proxy-protocol=yes: expected v2"],
    ["https://a.test,upstream-insecure=maybe", 'expected yes or no, got "maybe"'],
    ["file:/srv,listing=", 'expected yes or no, got ""'],
  ];
  for (const [text, message] of others) {
    test(`as ${JSON.stringify(text)}`, () => {
      expect(refusalOf(text).message).toBe(message);
    });
  }
});

describe("a password in an exposure that is refused", () => {
  const said = (text: string) => {
    const { message, hints } = refusalOf(text);
    return [message, ...hints].join("\n");
  };

  for (const text of [
    "3000,auth=alice:hunter2,gopher=1",
    "3000,sticky,auth=alice:hunter2",
    "3000,auth=alice:hunter2,host-header=a b",
    "tcp:0=22,auth=alice:hunter2",
    "tcp:0=22,auth=alice:hunter2,auth=bob:hunter2",
    "3000,auth=alice:x:hunter2,listing=yes",
    "3000,auth=:hunter2",
    "a.b=3000,auth=alice:hunter2",
    "http://localhost/x,auth=alice:hunter2,health=/up",
    "3000,auth=alice:hunter2,allow=office",
    "3000,auth=alice:hunter2,health=up",
  ]) {
    test(`is not shown: ${text}`, () => {
      expect(said(text)).not.toContain("hunter2");
    });
  }

  // Only what stands before the first comma of USER:PASS is hidden, and only behind a colon.
  for (const text of [
    "tcp:0=22,auth=alice:a,hunter2",
    "tcp:0=22,auth=al,ice:hunter2",
    "3000,auth=alice:a,b,hunter2,gopher=1",
    "3000,auth=hunter2",
  ]) {
    test(`is not shown behind a comma, or without a user: ${text}`, () => {
      expect(said(text)).not.toContain("hunter2");
    });
  }

  // A service's URL takes no user, and says so with all of it.
  test("is not shown as a part of a URL", () => {
    expect(said("http://alice:hunter2@localhost:3000")).not.toContain("hunter2");
  });

  test("that is none is told what it looks like", () => {
    for (const entry of ["alice", ":x", ""]) expect(said(`3000,auth=${entry}`)).toContain("auth= wants USER:PASS");
  });
});

describe("names that nobody chose", () => {
  test("are DNS labels, and differ", () => {
    const names = Array.from({ length: 500 }, () => specOf("3000").name);
    for (const name of names) expect(name).toMatch(LABEL);
    expect(new Set(names).size).toBe(names.length);
  });

  test("give way to others, and nothing else changes", () => {
    const exposure = parseExposure("3000,auth=alice:x,health=/up");
    const other = renamed(exposure);
    expect(other.spec.name).toMatch(LABEL);
    expect(other.spec.name).not.toBe(exposure.spec.name);
    expect({ ...other, spec: { ...other.spec, name: exposure.spec.name } }).toEqual(exposure);
  });

  test("are unique in an agent, like all others", () => {
    checkUnique([parseExposure("a=3000"), parseExposure("b=3000"), parseExposure("3000")]);
    const twice = ["a=3000", "b=3000", "tcp:0=22,name=A"].map(parseExposure);
    expect(() => checkUnique(twice)).toThrow("two exposures are named a");
    expect(() => checkUnique(["tcp:0=22", "tcp:0=23"].map(parseExposure))).toThrow("two exposures are named tcp-0");
  });
});

test("where an exposure leads is said in few words", () => {
  for (const [text, words] of [
    ["3000", "localhost:3000"],
    ["https://app.test", "https://app.test:443"],
    ["http://[::1]:80", "[::1]:80"],
    ["unix:/run/app.sock", "unix:/run/app.sock"],
    ["udp:0=53", "udp:localhost:53"],
    ["file:/srv/www", "files in /srv/www"],
  ] as const) {
    expect(formatUpstream({ upstream: upstreamOf(text) })).toBe(words);
  }
});
