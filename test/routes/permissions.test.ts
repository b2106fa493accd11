import { describe, expect, test } from "bun:test";
import { networkInterfaces } from "node:os";
import { parseAuthority, parseIp, tcpTarget, type IpAddress, type TcpTarget } from "../../src/core/address.ts";
import { SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import { parsePattern } from "../../src/core/pattern.ts";
import { isPublicAddress, Permissions, type Grant } from "../../src/routes/permissions.ts";
import { tcpDialer } from "../../src/transports/tcp.ts";
import { soon } from "../support/pairs.ts";
import { RawServer } from "../support/raw.ts";

interface Rules {
  /** Undefined: not given. Empty: given without a list. */
  readonly allow?: readonly string[];
  readonly deny?: readonly string[];
  readonly own?: readonly TcpTarget[];
}

function permissions({ allow, deny = [], own = [] }: Rules = {}): Permissions {
  return new Permissions({ allow: allow?.map(parsePattern), deny: deny.map(parsePattern) }, () => own);
}

/** `a.test:80=10.0.0.1` or `10.0.0.1:80`: undefined when it may be dialled. */
function verdict(rules: Rules, text: string, exposed = true): ErrorCode | undefined {
  const [authority = "", address] = text.split("=");
  const target = parseAuthority(authority);
  if (target === undefined) throw new Error(`no target: ${authority}`);
  return codeOf(() => permissions(rules).checkAddress(parseIp(address ?? target.host)!, target, exposed));
}

function nameVerdict(rules: Rules, authority: string, exposed = true): ErrorCode | undefined {
  return codeOf(() => permissions(rules).checkName(parseAuthority(authority)!, { exposed, user: undefined }));
}

function codeOf(check: () => void): ErrorCode | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    if (error instanceof SeikanError) return error.code;
    throw error;
  }
}

/** http-rules.md G1: first, last and an inner address of each range; the neighbours in front and behind are public. */
const PRIVATE: readonly [range: string, inside: string[], outside: string[]][] = [
  ["0.0.0.0/8", ["0.0.0.0", "0.0.0.1", "0.255.255.255"], ["1.0.0.0"]],
  ["10.0.0.0/8", ["10.0.0.0", "10.1.2.3", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]],
  ["100.64.0.0/10", ["100.64.0.0", "100.100.100.200", "100.127.255.255"], ["100.63.255.255", "100.128.0.0"]],
  ["127.0.0.0/8", ["127.0.0.0", "127.0.0.1", "127.255.255.255"], ["126.255.255.255", "128.0.0.0"]],
  ["169.254.0.0/16", ["169.254.0.0", "169.254.169.254", "169.254.255.255"], ["169.253.255.255", "169.255.0.0"]],
  ["172.16.0.0/12", ["172.16.0.0", "172.20.1.1", "172.31.255.255"], ["172.15.255.255", "172.32.0.0"]],
  ["192.0.0.0/24", ["192.0.0.0", "192.0.0.170", "192.0.0.255"], ["191.255.255.255", "192.0.1.0"]],
  ["192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0"]],
  ["192.168.0.0/16", ["192.168.0.0", "192.168.1.1", "192.168.255.255"], ["192.167.255.255", "192.169.0.0"]],
  ["198.18.0.0/15", ["198.18.0.0", "198.19.255.255"], ["198.17.255.255", "198.20.0.0"]],
  ["198.51.100.0/24", ["198.51.100.0", "198.51.100.255"], ["198.51.99.255", "198.51.101.0"]],
  ["203.0.113.0/24", ["203.0.113.0", "203.0.113.255"], ["203.0.112.255", "203.0.114.0"]],
  ["224.0.0.0/4", ["224.0.0.0", "239.255.255.255"], ["223.255.255.255"]],
  ["240.0.0.0/4", ["240.0.0.0", "255.255.255.254", "255.255.255.255"], []],
  ["::", ["::"], []],
  ["::1", ["::1"], []],
  ["::/96 (IPv4-compatible)", ["::127.0.0.1", "::10.0.0.1", "::2"], []],
  ["::ffff:0:0/96", ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe"], ["::ffff:8.8.8.8"]],
  ["64:ff9b::/96", ["64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe"], ["64:ff9b::8.8.8.8"]],
  ["64:ff9b:1::/48", ["64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"], ["64:ff9b:2::"]],
  ["100::/64", ["100::", "100::ffff:ffff:ffff:ffff"], ["100:0:0:2::"]],
  ["2001::/23", ["2001::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:1ff:ffff::"], ["2001:200::"]],
  ["2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db7::", "2001:db9::"]],
  ["2002::/16", ["2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::"], ["2002:808:808::"]],
  ["fc00::/7", ["fc00::", "fd12:3456::1", "fdff:ffff::"], ["fbff::", "fe00::"]],
  ["fe80::/10", ["fe80::", "fe80::1", "febf:ffff::"], ["fe7f::"]],
  ["fec0::/10", ["fec0::", "feff:ffff::"], []],
  ["ff00::/8", ["ff00::", "ff02::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], []],
];

describe("the addresses that are not public", () => {
  for (const [range, inside, outside] of PRIVATE) {
    test(`are those of ${range}, and no others beside it`, () => {
      for (const address of inside) expect([address, isPublicAddress(parseIp(address)!)]).toEqual([address, false]);
      for (const address of outside) expect([address, isPublicAddress(parseIp(address)!)]).toEqual([address, true]);
    });
  }

  test("do not hold well-known public ones", () => {
    for (const address of ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::1"]) {
      expect([address, isPublicAddress(parseIp(address)!)]).toEqual([address, true]);
    }
  });

  test("hold every address of this machine", () => {
    const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
    expect(addresses.length).toBeGreaterThan(0);
    for (const { address } of addresses) expect(isPublicAddress(parseIp(address.split("%")[0]!)!)).toBe(false);
  });
});

describe("an exposed server without rules", () => {
  test("dials public addresses", () => {
    expect(verdict({}, "8.8.8.8:443")).toBeUndefined();
    expect(verdict({}, "[2606:4700:4700::1111]:443")).toBeUndefined();
    expect(verdict({}, "a.test:443=8.8.8.8")).toBeUndefined();
  });

  test("dials no address that is not public, as a literal or behind a name", () => {
    for (const [, inside] of PRIVATE) {
      for (const address of inside) {
        const ip = parseIp(address)!;
        const check = (host: string) => codeOf(() => permissions().checkAddress(ip, tcpTarget(host, 80), true));
        expect([address, check(ip.toString()), check("rebind.test")]).toEqual([
          address,
          "address-denied",
          "address-denied",
        ]);
      }
    }
  });

  // http-rules.md G2: either it means the address it is, or it is no target at all.
  const spellings: [string, string][] = [
    ["127.1", "127.0.0.1"],
    ["127.0.1", "127.0.0.1"],
    ["0177.0.0.1", "127.0.0.1"],
    ["0177.1", "127.0.0.1"],
    ["0x7f.1", "127.0.0.1"],
    ["0x7F.0x0.0x0.0x1", "127.0.0.1"],
    ["0X7f000001", "127.0.0.1"],
    ["0x7f000001", "127.0.0.1"],
    ["2130706433", "127.0.0.1"],
    ["017700000001", "127.0.0.1"],
    ["0", "0.0.0.0"],
    ["127.0.0.1.", "127.0.0.1"],
    ["0x7f.1.", "127.0.0.1"],
    ["[::ffff:7f00:1]", "127.0.0.1"],
    ["[::FFFF:127.0.0.1]", "127.0.0.1"],
    ["[0:0:0:0:0:ffff:7f00:0001]", "127.0.0.1"],
    ["[0:0:0:0:0:0:0:1]", "::1"],
    ["[0000::0001]", "::1"],
    ["[::]", "::"],
    ["10.1", "10.0.0.1"],
    ["192.168.257", "192.168.1.1"],
    ["0xa9fea9fe", "169.254.169.254"],
    ["[FE80::1]", "fe80::1"],
  ];
  for (const [spelling, meaning] of spellings) {
    test(`sees through ${spelling}`, () => {
      const target = parseAuthority(`${spelling}:80`);
      expect(target?.host).toBe(meaning);
      expect(codeOf(() => permissions().checkName(target!, { exposed: true, user: undefined }))).toBe("address-denied");
    });
  }

  const nonsense = [
    ...["127.0.0.1%00", "127%2e0.0.1", "%31%32%37.0.0.1", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\t"],
    ...["256.256.256.256", "1.2.3.4.5", "99999999999", "４.４.４.４", "①②⑦.0.0.1", "127。0。0。1", "[127.0.0.1]"],
    ...["::1", "[::1", "::1]", "[::1%lo]", "[fe80::1%25eth0]", "[::1]x", "user@127.0.0.1", "127.0.0.1#a", "127.0.0.1/"],
  ];
  for (const spelling of nonsense) {
    test(`takes ${JSON.stringify(spelling)} for no host`, () => {
      expect(parseAuthority(`${spelling}:80`)).toBeUndefined();
    });
  }

  test("refuses names that a later hop would resolve", () => {
    expect(nameVerdict({}, "a.test:443")).toBe("target-denied");
    expect(nameVerdict({}, "localhost:443")).toBe("target-denied");
    expect(nameVerdict({}, "8.8.8.8:443")).toBeUndefined();
  });
});

describe("a server that is not exposed, without rules,", () => {
  test("dials anything", () => {
    for (const text of ["8.8.8.8:1", "10.0.0.1:22", "a.test:80=169.254.169.254", "[::1]:80"]) {
      expect(verdict({}, text, false)).toBeUndefined();
    }
    expect(nameVerdict({}, "a.test:443", false)).toBeUndefined();
  });
});

describe("--allow-net", () => {
  test("without a list lets an exposed server dial anything", () => {
    for (const text of ["8.8.8.8:1", "10.0.0.1:22", "a.test:80=127.0.0.1"])
      expect(verdict({ allow: [] }, text)).toBeUndefined();
    expect(nameVerdict({ allow: [] }, "a.test:443")).toBeUndefined();
  });

  const table: [allow: string[], target: string, code: ErrorCode | undefined][] = [
    [["a.test"], "a.test:80=8.8.8.8", undefined],
    [["a.test"], "b.test:80=8.8.8.8", "address-denied"],
    [["a.test"], "8.8.8.8:80", "address-denied"],
    // An exact name reaches private addresses, a wildcard does not.
    [["a.test"], "a.test:80=10.0.0.1", undefined],
    [["*.test"], "a.test:80=8.8.8.8", undefined],
    [["*.test"], "a.test:80=10.0.0.1", "address-denied"],
    [["*.test"], "a.test:80=::1", "address-denied"],
    [["*.test"], "a.test:80=::ffff:10.0.0.1", "address-denied"],
    [["*.test", "a.test"], "a.test:80=10.0.0.1", undefined],
    [["*.test"], "test:80=8.8.8.8", "address-denied"],
    [["*:443"], "a.test:443=8.8.8.8", undefined],
    [["*:443"], "a.test:443=10.0.0.1", "address-denied"],
    [["*:443"], "a.test:80=8.8.8.8", "address-denied"],
    [["a.test:443"], "a.test:443=10.0.0.1", undefined],
    [["a.test:443"], "a.test:22=10.0.0.1", "address-denied"],
    [["10.0.0.0/8"], "10.1.2.3:22", undefined],
    [["10.0.0.0/8"], "a.test:22=10.1.2.3", undefined],
    [["10.0.0.0/8"], "a.test:22=11.1.2.3", "address-denied"],
    [["10.0.0.0/8:22"], "10.1.2.3:80", "address-denied"],
    [["127.0.0.1"], "127.0.0.1:80", undefined],
    [["127.0.0.1"], "127.0.0.2:80", "address-denied"],
    [["127.0.0.1"], "a.test:80=::ffff:127.0.0.1", undefined],
    [["[::1]:80"], "[::1]:80", undefined],
    [["fc00::/7"], "[fd00::1]:80", undefined],
    [["fc00::/7"], "[fe80::1]:80", "address-denied"],
  ];
  for (const [allow, target, code] of table) {
    test(`${allow.join(" ")} ${code === undefined ? "lets" : "does not let"} an exposed server dial ${target}`, () => {
      expect(verdict({ allow }, target)).toBe(code);
    });
  }

  test("narrows a server that is not exposed, too", () => {
    expect(verdict({ allow: ["a.test"] }, "b.test:80=8.8.8.8", false)).toBe("address-denied");
    expect(verdict({ allow: ["*.test"] }, "a.test:80=10.0.0.1", false)).toBe("address-denied");
  });

  // parsePattern takes ":443" for an address.
  test("takes a port alone", () => {
    expect(verdict({ allow: [":443"] }, "a.test:443=8.8.8.8")).toBeUndefined();
  });

  test("decides about names that a later hop resolves", () => {
    expect(nameVerdict({ allow: ["a.test"] }, "a.test:80")).toBeUndefined();
    expect(nameVerdict({ allow: ["*.test"] }, "a.test:80")).toBeUndefined();
    expect(nameVerdict({ allow: ["a.test:443"] }, "a.test:80")).toBe("target-denied");
    expect(nameVerdict({ allow: ["a.test"] }, "b.test:80")).toBe("target-denied");
    expect(nameVerdict({ allow: ["10.0.0.0/8"] }, "b.test:80")).toBe("target-denied");
  });
});

describe("--deny-net", () => {
  const table: [rules: Rules, target: string, code: ErrorCode | undefined][] = [
    [{ deny: ["a.test"] }, "a.test:80=8.8.8.8", "address-denied"],
    [{ deny: ["a.test"] }, "b.test:80=8.8.8.8", undefined],
    [{ deny: ["*.test"] }, "a.test:80=8.8.8.8", "address-denied"],
    [{ deny: ["*:25"] }, "8.8.8.8:25", "address-denied"],
    [{ deny: ["8.8.0.0/16"] }, "a.test:80=8.8.8.8", "address-denied"],
    [{ deny: ["8.8.8.8"] }, "a.test:80=::ffff:8.8.8.8", "address-denied"],
    [{ deny: ["8.8.8.8"], allow: ["8.8.8.8"] }, "8.8.8.8:80", "address-denied"],
    [{ deny: ["8.8.8.8"], allow: [] }, "8.8.8.8:80", "address-denied"],
    [{ deny: ["8.8.8.8:80"], allow: [] }, "8.8.8.8:81", undefined],
  ];
  for (const [rules, target, code] of table) {
    test(`${rules.deny!.join()}${rules.allow === undefined ? "" : ` beside --allow-net=${rules.allow.join()}`}: ${target} ${code ?? "passes"}`, () => {
      expect(verdict(rules, target)).toBe(code);
      expect(verdict(rules, target, false)).toBe(code);
    });
  }

  test("with a network refuses names whose addresses nobody here sees", () => {
    expect(nameVerdict({ deny: ["10.0.0.0/8"] }, "a.test:80", false)).toBe("target-denied");
    expect(nameVerdict({ deny: ["10.0.0.0/8"], allow: [] }, "a.test:80")).toBe("target-denied");
    expect(nameVerdict({ deny: ["10.0.0.0/8"] }, "11.0.0.1:80", false)).toBeUndefined();
    expect(nameVerdict({ deny: ["b.test"] }, "a.test:80", false)).toBeUndefined();
    expect(nameVerdict({ deny: ["a.test"], allow: ["a.test"] }, "a.test:80", false)).toBe("target-denied");
  });
});

describe("own listeners", () => {
  const table: [own: string, target: string, denied: boolean][] = [
    ["127.0.0.1:8080", "127.0.0.1:8080", true],
    ["127.0.0.1:8080", "a.test:8080=127.0.0.1", true],
    ["127.0.0.1:8080", "[::ffff:7f00:1]:8080", true],
    ["127.0.0.1:8080", "0.0.0.0:8080", true],
    ["127.0.0.1:8080", "[::]:8080", true],
    ["127.0.0.1:8080", "127.0.0.1:8081", false],
    ["127.0.0.1:8080", "8.8.8.8:8080", false],
    ["0.0.0.0:8080", "127.0.0.1:8080", true],
    ["0.0.0.0:8080", "127.1.2.3:8080", true],
    ["0.0.0.0:8080", "8.8.8.8:8080", false],
    ["[::]:8080", "127.0.0.1:8080", true],
    ["[::]:8080", "[::1]:8080", true],
    ["[::1]:8080", "[::1]:8080", true],
    ["10.0.0.5:8080", "10.0.0.5:8080", true],
    ["10.0.0.5:8080", "10.0.0.6:8080", false],
  ];
  for (const [own, target, isDenied] of table) {
    test(`at ${own} are ${isDenied ? "" : "not "}reached by ${target}`, () => {
      const rules: Rules = { allow: [], own: [parseAuthority(own)!] };
      expect(verdict(rules, target, false)).toBe(isDenied ? "address-denied" : undefined);
    });
  }

  test("on every address are reached by none of this machine's", () => {
    const rules = permissions({ allow: [], own: [tcpTarget("0.0.0.0", 8080)] });
    for (const { address } of Object.values(networkInterfaces()).flatMap((list) => list ?? [])) {
      const ip = parseIp(address.split("%")[0]!)!;
      expect([address, codeOf(() => rules.checkAddress(ip, tcpTarget(ip.toString(), 8080), false))]).toEqual([
        address,
        "address-denied",
      ]);
    }
  });

  test("win over an explicit --allow-net", () => {
    expect(verdict({ allow: ["127.0.0.1:8080"], own: [tcpTarget("127.0.0.1", 8080)] }, "127.0.0.1:8080")).toBe(
      "address-denied",
    );
  });

  test("are looked up at each question", () => {
    const own: TcpTarget[] = [];
    const rules = new Permissions({ allow: undefined, deny: [] }, () => own);
    const ask = () => codeOf(() => rules.checkAddress(parseIp("127.0.0.1")!, tcpTarget("127.0.0.1", 8080), false));
    expect(ask()).toBeUndefined();
    own.push(tcpTarget("127.0.0.1", 8080));
    expect(ask()).toBe("address-denied");
  });
});

test("a dial that is denied sends nothing to the address", async () => {
  using server = new RawServer();
  const rules = permissions();
  const permit = (address: IpAddress, target: TcpTarget) => rules.checkAddress(address, target, true);
  const dial = tcpDialer()(tcpTarget("localhost", server.port), { deadline: soon(), permit });
  const outcome = await dial.then(
    () => "dialled",
    (error: SeikanError) => error.code,
  );
  expect(outcome).toBe("address-denied");
  const permitted = await tcpDialer()(tcpTarget("127.0.0.1", server.port), { deadline: soon() });
  await server.next();
  expect(server.accepted).toHaveLength(1);
  permitted.abort(new SeikanError("cancelled", "done"));
});

interface GrantedRules extends Rules {
  /** `USER: PATTERN agent:NAME …`, as `--grant` has them. */
  readonly grants?: Readonly<Record<string, string>>;
}

function granting({ allow, deny = [], grants = {} }: GrantedRules): Permissions {
  const read = (list: string): Grant => {
    const entries = list.split(" ");
    const agents = entries.flatMap((entry) => (entry.startsWith("agent:") ? [entry.slice("agent:".length)] : []));
    return { agents, targets: entries.filter((entry) => !entry.startsWith("agent:")).map(parsePattern) };
  };
  return new Permissions({
    allow: allow?.map(parsePattern),
    deny: deny.map(parsePattern),
    grants: new Map(Object.entries(grants).map(([user, list]) => [user, read(list)])),
  });
}

interface Question {
  readonly target: string;
  readonly user?: string;
  /** The agent that shall dial. */
  readonly agent?: string;
  readonly exposed?: boolean;
}

function grantedVerdict(rules: GrantedRules, { target, user, agent, exposed = true }: Question): ErrorCode | undefined {
  return codeOf(() => granting(rules).checkName(parseAuthority(target)!, { exposed, user }, agent));
}

describe("--grant", () => {
  const DB = "db.agent.internal:5432";

  const table: [what: string, rules: GrantedRules, question: Question, code: ErrorCode | undefined][] = [
    // Private names.
    ["a private name", { grants: { alice: "db.agent.internal" } }, { target: DB, user: "alice" }, undefined],
    [
      "another private name",
      { grants: { alice: "web.agent.internal" } },
      { target: DB, user: "alice" },
      "target-denied",
    ],
    [
      "a private name of another user",
      { grants: { bob: "db.agent.internal" } },
      { target: DB, user: "alice" },
      "target-denied",
    ],
    [
      "a private name to nobody in particular",
      { grants: { alice: "db.agent.internal" } },
      { target: DB },
      "target-denied",
    ],
    [
      "a private name with its port",
      { grants: { alice: "db.agent.internal:5432" } },
      { target: DB, user: "alice" },
      undefined,
    ],
    [
      "a private name with another port",
      { grants: { alice: "db.agent.internal:22" } },
      { target: DB, user: "alice" },
      "target-denied",
    ],
    ["all private names", { grants: { alice: "*.agent.internal" } }, { target: DB, user: "alice" }, undefined],
    // Everybody.
    ["everybody a private name", { grants: { "*": "db.agent.internal" } }, { target: DB, user: "alice" }, undefined],
    [
      "everybody a private name, also without a user",
      { grants: { "*": "db.agent.internal" } },
      { target: DB },
      undefined,
    ],
    [
      "everybody and one user different names",
      { grants: { "*": "a.agent.internal", alice: "db.agent.internal" } },
      { target: DB, user: "bob" },
      "target-denied",
    ],
    [
      "what everybody has to a user with names besides",
      { grants: { "*": "db.agent.internal", alice: "a.agent.internal" } },
      { target: DB, user: "alice" },
      undefined,
    ],
    // Agents that dial.
    [
      "an agent",
      { grants: { alice: "agent:home" } },
      { target: "nas.lan:22", user: "alice", agent: "home" },
      undefined,
    ],
    [
      "an agent, for addresses",
      { grants: { alice: "agent:home" } },
      { target: "10.0.0.1:22", user: "alice", agent: "home" },
      undefined,
    ],
    [
      "another agent",
      { grants: { alice: "agent:home" } },
      { target: "nas.lan:22", user: "alice", agent: "work" },
      "target-denied",
    ],
    [
      "an agent of another user",
      { grants: { bob: "agent:home" } },
      { target: "nas.lan:22", user: "alice", agent: "home" },
      "target-denied",
    ],
    ["all agents", { grants: { alice: "agent:*" } }, { target: "nas.lan:22", user: "alice", agent: "work" }, undefined],
    ["everybody an agent", { grants: { "*": "agent:home" } }, { target: "nas.lan:22", agent: "home" }, undefined],
    [
      "an agent, but not what it exposes",
      { grants: { alice: "agent:home" } },
      { target: DB, user: "alice", agent: "home" },
      "target-denied",
    ],
    [
      "all agents, but not what they expose",
      { grants: { alice: "agent:*" } },
      { target: DB, user: "alice", agent: "home" },
      "target-denied",
    ],
    [
      "an agent, but not a later hop",
      { grants: { alice: "agent:home" } },
      { target: "nas.lan:22", user: "alice" },
      "target-denied",
    ],
    [
      "a host, through any agent",
      { grants: { alice: "nas.lan" } },
      { target: "nas.lan:22", user: "alice", agent: "home" },
      undefined,
    ],
    [
      "a host, through a later hop",
      { grants: { alice: "nas.lan" } },
      { target: "nas.lan:22", user: "alice" },
      undefined,
    ],
    [
      "a network, for its addresses",
      { grants: { alice: "10.0.0.0/8" } },
      { target: "10.1.2.3:22", user: "alice", agent: "home" },
      undefined,
    ],
    [
      "a network, for other addresses",
      { grants: { alice: "10.0.0.0/8" } },
      { target: "11.1.2.3:22", user: "alice", agent: "home" },
      "target-denied",
    ],
    [
      "a network, for names",
      { grants: { alice: "10.0.0.0/8" } },
      { target: "nas.lan:22", user: "alice", agent: "home" },
      "target-denied",
    ],
    // A deny wins.
    [
      "what is denied by name",
      { grants: { alice: "db.agent.internal" }, deny: ["db.agent.internal"] },
      { target: DB, user: "alice" },
      "target-denied",
    ],
    [
      "what is denied by port",
      { grants: { alice: "agent:home" }, deny: [":22"] },
      { target: "nas.lan:22", user: "alice", agent: "home" },
      "target-denied",
    ],
    [
      "what is denied by its address",
      { grants: { alice: "agent:home" }, deny: ["10.0.0.0/8"] },
      { target: "10.0.0.1:22", user: "alice", agent: "home" },
      "target-denied",
    ],
    [
      "what is denied with everything around it",
      { grants: { "*": "nas.lan" }, deny: ["*.lan"] },
      { target: "nas.lan:22" },
      "target-denied",
    ],
    [
      "a private name beside denied networks",
      { grants: { alice: "db.agent.internal" }, deny: ["10.0.0.0/8"] },
      { target: DB, user: "alice" },
      undefined,
    ],
    // Beside --allow-net.
    [
      "more than --allow-net",
      { grants: { alice: "db.agent.internal" }, allow: ["a.test"] },
      { target: DB, user: "alice" },
      undefined,
    ],
    [
      "less than --allow-net",
      { grants: { alice: "db.agent.internal" }, allow: ["a.test"] },
      { target: "a.test:80", user: "bob" },
      undefined,
    ],
    [
      "an agent beside --allow-net",
      { grants: { alice: "agent:home" }, allow: ["a.test"] },
      { target: "nas.lan:22", user: "bob", agent: "home" },
      "target-denied",
    ],
    [
      "nothing beside --allow-net without a list",
      { allow: [] },
      { target: "nas.lan:22", agent: "home" },
      "target-denied",
    ],
  ];
  for (const [what, rules, question, code] of table) {
    const who = question.user ?? "nobody";
    const by = question.agent === undefined ? "" : ` at ${question.agent}`;
    test(`of ${what}: ${who} ${code === undefined ? "may" : "may not"} dial ${question.target}${by}`, () => {
      expect(grantedVerdict(rules, question)).toBe(code);
    });
  }

  // A network that is denied may be where the name leads, and nobody here sees it.
  test("cannot lead around a network that is denied, by a name", () => {
    const rules: GrantedRules = { grants: { alice: "agent:home" }, deny: ["10.0.0.0/8"] };
    expect(grantedVerdict(rules, { target: "nas.lan:22", user: "alice", agent: "home" })).toBe("target-denied");
  });

  // A wildcard never reaches private addresses, whoever grants it.
  test("of a port reaches no private address", () => {
    const rules: GrantedRules = { grants: { alice: ":22" } };
    expect(grantedVerdict(rules, { target: "8.8.8.8:22", user: "alice" })).toBeUndefined();
    expect(grantedVerdict(rules, { target: "10.0.0.1:22", user: "alice" })).toBe("address-denied");
  });

  test("tells a user whom an agent is not granted how that is done", () => {
    try {
      granting({}).checkName(parseAuthority(DB)!, { exposed: true, user: "alice" }, "home");
    } catch (error) {
      expect(error).toMatchObject({ code: "target-denied", hints: [expect.stringContaining("--grant USER=")] });
      return;
    }
    throw new Error("it may be dialled");
  });
});

describe("agents of a server without grants", () => {
  const questions: Question[] = [
    { target: "db.agent.internal:5432", agent: "home" },
    { target: "nas.lan:22", agent: "home" },
    { target: "10.0.0.1:22", agent: "home" },
    { target: "nas.lan:22", user: "alice", agent: "home" },
  ];
  for (const question of questions) {
    test(`dial ${question.target} for ${question.user ?? "nobody"} only where the server is not exposed`, () => {
      expect(grantedVerdict({}, { ...question, exposed: false })).toBeUndefined();
      expect(grantedVerdict({}, { ...question, exposed: true })).toBe("target-denied");
    });
  }

  test("dial for nobody what is denied", () => {
    const rules = { deny: ["db.agent.internal"] };
    const question = { target: "db.agent.internal:5432", agent: "home" };
    for (const exposed of [true, false]) expect(grantedVerdict(rules, { ...question, exposed })).toBe("target-denied");
  });
});
