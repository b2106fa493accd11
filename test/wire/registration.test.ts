import { describe, expect, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import {
  parseEvent,
  parseHealth,
  parseProbe,
  parseRegistered,
  parseRegistration,
  type Registration,
} from "../../src/wire/registration.ts";

type Shape = Record<string, unknown>;

const GOOD: Registration = {
  agent: "laptop",
  key: "k".repeat(43),
  connection: "c".repeat(22),
  server: "wss://tunnel.example.com",
  exposures: [],
};
const WEB = { kind: "http", name: "web" } as const;

const registered = (changes: Shape = {}) => parseRegistration(JSON.stringify({ ...GOOD, ...changes }));
const exposed = (changes: Shape = {}) => registered({ exposures: [{ ...WEB, ...changes }] }).exposures[0];

/** The sentence of a refusal; fails unless it is the peer's fault. */
function refusalOf(work: () => unknown): string {
  try {
    return `no refusal but ${Bun.inspect(work())}`;
  } catch (error) {
    if (!(error instanceof SeikanError)) throw error;
    expect(error.code).toBe("bad-request");
    return error.message;
  }
}

describe("a registration", () => {
  test("is read as it is", () => {
    const full: Registration = {
      ...GOOD,
      events: true,
      exposures: [
        {
          kind: "http",
          name: "web",
          host: "www.example.org",
          auth: ["alice:secret", "bob:a:b"],
          clients: ["10.0.0.0/8", "2001:db8::1"],
          hostHeader: "localhost:3000",
          requestFields: [
            ["X-A", "1"],
            ["X-B", null],
          ],
          responseFields: [["X-C", ""]],
          sticky: "cookie",
          healthy: false,
        },
        { kind: "tcp", name: "db", port: 0 },
        { kind: "udp", name: "dns", port: 65535, sticky: "address" },
        { kind: "tls", name: "raw", host: "*.dev.example.org" },
        { kind: "private", name: "x" },
      ],
    };
    expect(parseRegistration(JSON.stringify(full))).toEqual(full);
  });

  test("takes the names of the agent and of hosts in any case, and keeps them in lower case", () => {
    expect(registered({ agent: "Laptop.Home_1" }).agent).toBe("laptop.home_1");
    expect(exposed({ host: "WWW.Example.ORG" })?.host).toBe("www.example.org");
  });

  test("of a later version is read without what is not known", () => {
    expect(registered({ compression: "zstd" })).toEqual(GOOD);
    expect(exposed({ cache: true })).toEqual(WEB);
  });

  const fits: [what: string, changes: Shape][] = [
    ["an agent's name of one character", { agent: "a" }],
    ["an agent's name of 100 characters", { agent: "a".repeat(100) }],
    ["a key of 22 characters", { key: "A_-9".repeat(5) + "zz" }],
    ["a key of 64 characters", { key: "k".repeat(64) }],
    ["a connection of 16 characters", { connection: "c".repeat(16) }],
    ["a connection of 64 characters", { connection: "c".repeat(64) }],
    ["a server of 300 characters", { server: "s".repeat(300) }],
    ["an empty server", { server: "" }],
    ["no events", { events: false }],
    ["1000 exposures", { exposures: Array.from({ length: 1000 }, (_, index) => ({ ...WEB, name: `web-${index}` })) }],
  ];
  for (const [what, changes] of fits) {
    test(`may have ${what}`, () => {
      expect(registered(changes)).toEqual({ ...GOOD, ...changes } as Registration);
    });
  }

  const wrong: [what: string, changes: Shape, path: string][] = [
    ["no agent", { agent: undefined }, "agent"],
    ["an empty agent", { agent: "" }, "agent"],
    ["an agent of 101 characters", { agent: "a".repeat(101) }, "agent"],
    ["an agent with a space", { agent: "my laptop" }, "agent"],
    ["an agent with a line end", { agent: "laptop\n" }, "agent"],
    ["an agent that begins with a hyphen", { agent: "-laptop" }, "agent"],
    ["an agent that ends with a dot", { agent: "laptop." }, "agent"],
    ["an agent beyond ASCII", { agent: "läptop" }, "agent"],
    ["an agent that is a number", { agent: 7 }, "agent"],
    ["no key", { key: undefined }, "key"],
    ["a key of 21 characters", { key: "k".repeat(21) }, "key"],
    ["a key of 65 characters", { key: "k".repeat(65) }, "key"],
    ["a key in plain base64", { key: `${"k".repeat(42)}+` }, "key"],
    ["no connection", { connection: undefined }, "connection"],
    ["a connection of 15 characters", { connection: "c".repeat(15) }, "connection"],
    ["a connection of 65 characters", { connection: "c".repeat(65) }, "connection"],
    ["a connection with a space", { connection: `${"c".repeat(20)} c` }, "connection"],
    ["no server", { server: undefined }, "server"],
    ["a server of 301 characters", { server: "s".repeat(301) }, "server"],
    ["a server that is null", { server: null }, "server"],
    ["no exposures", { exposures: undefined }, "exposures"],
    ["exposures that are no list", { exposures: {} }, "exposures"],
    ["1001 exposures", { exposures: Array.from({ length: 1001 }, () => WEB) }, "exposures"],
    ["an exposure that is a string", { exposures: [WEB, "web"] }, "exposures.1"],
    ["an exposure that is null", { exposures: [null] }, "exposures.0"],
    ["events that are a word", { events: "yes" }, "events"],
  ];
  for (const [what, changes, path] of wrong) {
    test(`is refused with ${what}, and told where`, () => {
      expect(refusalOf(() => registered(changes))).toStartWith(`malformed registration: ${path}: `);
    });
  }

  for (const [what, text] of [
    ["nothing", ""],
    ["half of it", JSON.stringify(GOOD).slice(0, -1)],
    ["two of them", `${JSON.stringify(GOOD)}${JSON.stringify(GOOD)}`],
    ["a form", "agent=laptop"],
  ] as const) {
    test(`is no JSON: ${what}`, () => {
      expect(refusalOf(() => parseRegistration(text))).toBe("malformed registration: it is no JSON");
    });
  }

  for (const text of ["null", "[]", "7", '"laptop"', "true"]) {
    test(`is no ${text}`, () => {
      expect(refusalOf(() => parseRegistration(text))).toStartWith("malformed registration: ");
    });
  }
});

describe("an exposure of a registration", () => {
  const fits: [what: string, changes: Shape][] = [
    ["a name of one character", { name: "a" }],
    ["a name of digits", { name: "42" }],
    ["a name of 63 characters", { name: `a${"-".repeat(61)}z` }],
    ["a host of 253 characters", { host: "h".repeat(253) }],
    ["port 0", { kind: "tcp", port: 0 }],
    ["port 65535", { kind: "udp", port: 65535 }],
    ["users of 1000 characters", { auth: [`a:${"b".repeat(998)}`] }],
    ["no user in its list", { auth: [] }],
    ["a network", { clients: ["2001:db8:1111:2222:3333:4444:5555:0/112"] }],
    ["a Host of 300 characters", { hostHeader: "h".repeat(300) }],
    ["a field's name of 200 characters", { requestFields: [["n".repeat(200), "v"]] }],
    ["a field's value of 8000 characters", { responseFields: [["n", "v".repeat(8000)]] }],
    ["a field to remove", { requestFields: [["n", null]] }],
    ["sticky cookies", { sticky: "cookie" }],
    ["sticky addresses", { sticky: "address" }],
  ];
  for (const [what, changes] of fits) {
    test(`may have ${what}`, () => {
      expect(exposed(changes)).toEqual({ ...WEB, ...changes } as never);
    });
  }

  const wrong: [what: string, changes: Shape, path: string][] = [
    ["no kind", { kind: undefined }, "kind"],
    ["an unknown kind", { kind: "gopher" }, "kind"],
    ["a kind in upper case", { kind: "HTTP" }, "kind"],
    ["a kind that Object has", { kind: "constructor" }, "kind"],
    ["no name", { name: undefined }, "name"],
    ["an empty name", { name: "" }, "name"],
    ["a name of 64 characters", { name: "a".repeat(64) }, "name"],
    ["a name in upper case", { name: "Web" }, "name"],
    ["a name with a dot", { name: "a.b" }, "name"],
    ["a name with an underscore", { name: "a_b" }, "name"],
    ["a name with a space", { name: "a b" }, "name"],
    ["a name with a line end", { name: "a\n" }, "name"],
    ["a name that begins with a hyphen", { name: "-a" }, "name"],
    ["a name that ends with a hyphen", { name: "a-" }, "name"],
    ["a name that is a wildcard", { name: "*" }, "name"],
    ["a name beyond ASCII", { name: "bücher" }, "name"],
    ["a host of 254 characters", { host: "h".repeat(254) }, "host"],
    ["a host that is null", { host: null }, "host"],
    ["a negative port", { port: -1 }, "port"],
    ["port 65536", { port: 65536 }, "port"],
    ["a broken port", { port: 80.5 }, "port"],
    ["a port in quotes", { port: "80" }, "port"],
    ["a port that is null", { port: null }, "port"],
    ["users that are no list", { auth: "alice:secret" }, "auth"],
    ["a user that is a number", { auth: ["a:b", 7] }, "auth.1"],
    ["a user of 1001 characters", { auth: ["u".repeat(1001)] }, "auth.0"],
    ["a network that is an object", { clients: [{}] }, "clients.0"],
    ["a network of 101 characters", { clients: ["1".repeat(101)] }, "clients.0"],
    ["a Host of 301 characters", { hostHeader: "h".repeat(301) }, "hostHeader"],
    ["fields that are an object", { requestFields: { n: "v" } }, "requestFields"],
    ["a field that is a name alone", { requestFields: [["n"]] }, "requestFields.0.1"],
    [
      "a field whose name is null",
      {
        requestFields: [
          ["n", "v"],
          [null, "v"],
        ],
      },
      "requestFields.1.0",
    ],
    ["a field whose name has 201 characters", { requestFields: [["n".repeat(201), "v"]] }, "requestFields.0.0"],
    ["a field whose value is a number", { responseFields: [["n", 1]] }, "responseFields.0.1"],
    ["a field whose value has 8001 characters", { responseFields: [["n", "v".repeat(8001)]] }, "responseFields.0.1"],
    ["an unknown way to be sticky", { sticky: "header" }, "sticky"],
    ["a health that is a word", { healthy: "yes" }, "healthy"],
  ];
  for (const [what, changes, path] of wrong) {
    test(`is refused with ${what}, and told where`, () => {
      expect(refusalOf(() => exposed(changes))).toStartWith(`malformed registration: exposures.0.${path}: `);
    });
  }
});

describe("a health report", () => {
  test("is read", () => {
    expect(parseHealth('{"name":"web","healthy":false}')).toEqual({ name: "web", healthy: false });
  });

  for (const [text, path] of [
    ['{"healthy":true}', "name"],
    ['{"name":7,"healthy":true}', "name"],
    ['{"name":"web"}', "healthy"],
    ['{"name":"web","healthy":1}', "healthy"],
    ['{"name":"web","healthy":null}', "healthy"],
  ] as const) {
    test(`is refused: ${text}`, () => {
      expect(refusalOf(() => parseHealth(text))).toStartWith(`malformed health report: ${path}: `);
    });
  }

  test("is JSON", () => {
    expect(refusalOf(() => parseHealth("healthy"))).toBe("malformed health report: it is no JSON");
  });
});

describe("a probe", () => {
  test("is read with a nonce of 16 to 64 letters and digits", () => {
    for (const nonce of ["0123456789abcdef", "z".repeat(64)])
      expect(parseProbe(JSON.stringify({ name: "web", nonce }))).toEqual({ name: "web", nonce });
  });

  for (const nonce of [undefined, 7, "", "a".repeat(15), "a".repeat(65), "A".repeat(16), `${"a".repeat(16)}.b`]) {
    test(`is refused with the nonce ${JSON.stringify(nonce)}`, () => {
      const text = JSON.stringify({ name: "web", nonce });
      expect(refusalOf(() => parseProbe(text))).toStartWith("malformed probe: nonce: ");
    });
  }

  test("is refused without a name", () => {
    expect(refusalOf(() => parseProbe('{"nonce":"0123456789abcdef"}'))).toStartWith("malformed probe: name: ");
  });
});

describe("the answer to a registration", () => {
  test("is read, with and without URLs", () => {
    const answer = {
      exposures: [
        { name: "web", url: "https://web.tunnel.example.com", address: "web.tunnel.example.com:443" },
        { name: "db", address: "db.agent.internal" },
      ],
      warnings: ["the server has no --domain"],
    };
    expect(parseRegistered(JSON.stringify(answer))).toEqual(answer);
  });

  for (const [text, path] of [
    ['{"warnings":[]}', "exposures"],
    ['{"exposures":[]}', "warnings"],
    ['{"exposures":[],"warnings":"none"}', "warnings"],
    ['{"exposures":[],"warnings":[7]}', "warnings.0"],
    ['{"exposures":[{"address":"a"}],"warnings":[]}', "exposures.0.name"],
    ['{"exposures":[{"name":"a"}],"warnings":[]}', "exposures.0.address"],
    ['{"exposures":[{"name":"a","address":"a","url":null}],"warnings":[]}', "exposures.0.url"],
  ] as const) {
    test(`is refused: ${text}`, () => {
      expect(refusalOf(() => parseRegistered(text))).toStartWith(`malformed answer to the registration: ${path}: `);
    });
  }
});

describe("an event", () => {
  const request = {
    ...{ event: "request", exposure: "web", peer: "192.0.2.1:5000", method: "GET", target: "/", status: 200 },
    ...{ up: 10, down: 20, ms: 3 },
  };

  test("is read, with and without what went wrong", () => {
    expect(parseEvent(JSON.stringify(request))).toEqual(request as never);
    const failed = { ...request, status: 502, why: "connection refused" };
    expect(parseEvent(JSON.stringify(failed))).toEqual(failed as never);
  });

  for (const [what, changes, path] of [
    ["of another kind", { event: "disk-full" }, "event"],
    ["without an exposure", { exposure: undefined }, "exposure"],
    ["with a status in words", { status: "OK" }, "status"],
    ["without bytes", { down: null }, "down"],
    ["with a reason that is none", { why: {} }, "why"],
  ] as const) {
    test(`is refused ${what}`, () => {
      const text = JSON.stringify({ ...request, ...changes });
      expect(refusalOf(() => parseEvent(text))).toStartWith(`malformed event: ${path}: `);
    });
  }
});
