import { afterEach, describe, expect, jest, test } from "bun:test";
import { SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { EventWriter, type AgentLine } from "../../src/routes/agent.ts";
import { AgentRegistry, type BindablePorts, type RegistrySettings } from "../../src/routes/agent-registry.ts";
import { AgentTokens, fullRights, hashOf, type AgentRights } from "../../src/routes/agent-tokens.ts";
import { Exposure } from "../../src/routes/exposure.ts";
import type { IdleConnection } from "../../src/routes/upstream.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import type { Listener, Peer } from "../../src/transports/transport.ts";
import { parseRegistration, type ExposureSpec, type Registered } from "../../src/wire/registration.ts";
import { soon } from "../support/pairs.ts";
import { CLIENT, keyOf, PlayedLine, silentLine } from "../support/played-agent.ts";
import { Recorder, within } from "../support/wait.ts";

const DOMAIN = "tunnel.test";
const SERVER = `wss://${DOMAIN}`;
const WEB: ExposureSpec = { kind: "http", name: "web" };
const FULL = fullRights("test");
const SHARING: AgentRights = { ...FULL, mayShare: true };

afterEach(() => jest.useRealTimers());

/** Ports that are only said to be open: who has which is what counts here. */
class Ports implements BindablePorts {
  readonly open_ = new Map<string, (stream: ByteStream, peer: Peer) => void>();
  readonly tried: number[] = [];
  /** Somebody else on this machine has these. */
  readonly taken = new Set<number>();
  readonly #first: number;
  readonly #last: number;

  constructor(first = 20_000, last = 20_009) {
    this.#first = first;
    this.#last = last;
  }

  get opened(): string[] {
    return [...this.open_.keys()].toSorted();
  }

  allows(port: number): boolean {
    return port >= this.#first && port <= this.#last;
  }

  candidates(count: number, fits: (port: number) => boolean): number[] {
    const all = Array.from({ length: Math.max(0, this.#last - this.#first + 1) }, (_, index) => this.#first + index);
    return all.filter(fits).slice(0, count);
  }

  async open(kind: "tcp" | "udp", port: number, accept: (stream: ByteStream, peer: Peer) => void): Promise<Listener> {
    this.tried.push(port);
    const id = `${kind}:${port}`;
    if (this.taken.has(port) || this.open_.has(id))
      throw new SeikanError("listen-failed", `cannot listen on 127.0.0.1:${port}: address in use`);
    this.open_.set(id, accept);
    return { addresses: [`127.0.0.1:${port}`], port, close: () => void this.open_.delete(id) };
  }
}

/** What a registration is made of, where it is not the usual. */
interface Asked {
  readonly key?: string;
  readonly connection?: string;
  readonly server?: string;
  readonly rights?: AgentRights;
  /** A connection that somebody else plays. */
  readonly line?: AgentLine;
}

/** A registry, and agents that come and go. */
class Rig implements Disposable {
  readonly ports: Ports;
  readonly registry: AgentRegistry;
  readonly visits: [Exposure, Peer][] = [];
  readonly #lines: PlayedLine[] = [];

  constructor(changes: Partial<RegistrySettings> = {}, ports = new Ports()) {
    this.ports = ports;
    this.registry = new AgentRegistry({
      ...{ domain: DOMAIN, publicOrigin: undefined, servesOutside: false, bindable: ports, isReserved: () => false },
      visit: (exposure, stream, peer) => {
        this.visits.push([exposure, peer]);
        stream.abort(new SeikanError("cancelled", "seen"));
      },
      ...changes,
    });
  }

  /** Registers as over the wire: what is asked for is read anew. */
  register(
    agent: string,
    exposures: readonly ExposureSpec[],
    line: AgentLine,
    { key = keyOf(agent), connection = line.id, server = SERVER, rights = FULL }: Asked = {},
  ): Promise<Registered> {
    const text = JSON.stringify({ agent, key, connection: connection.padEnd(16, "_"), server, exposures });
    return this.registry.register(parseRegistration(text), line, rights, CLIENT);
  }

  /** An agent comes; throws what it is told when it may not. */
  async join(agent: string, exposures: readonly ExposureSpec[] = [WEB], asked: Asked = {}) {
    const played = new PlayedLine((asked.connection ?? `${agent}-1`).padEnd(16, "_"));
    this.#lines.push(played);
    const { exposures: places, warnings } = await this.register(agent, exposures, played.line, {
      ...asked,
      connection: played.line.id,
    });
    const key = asked.key ?? keyOf(agent);
    return { played, line: played.line, key, places, warnings, leave: () => this.leave(key, played.line) };
  }

  /** The connection is lost, and the registry hears of it. */
  leave(key: string, line: AgentLine): void {
    line.session.abort(new SeikanError("peer-reset", "lost"));
    this.registry.lineClosed(key, line);
  }

  get agents(): string[] {
    return [...this.registry.agents].map(({ name }) => name).toSorted();
  }

  get exposures(): string[] {
    return [...this.registry.exposures].map(({ id }) => id).toSorted();
  }

  site(host: string): Exposure {
    const site = this.registry.find(host);
    if (site instanceof Exposure) return site;
    throw new Error(`there is no site ${host}`);
  }

  /** Who serves this host, as `agent/exposure`. */
  servers(host: string): string[] {
    return this.site(host).members.map(({ agent, spec }) => `${agent.name}/${spec.name}`);
  }

  /** Brings a visitor to this host; what its agents were asked. */
  async asked(host: string, { played }: { played: PlayedLine }): Promise<(string | undefined)[]> {
    await this.site(host).reach({ address: "192.0.2.1", port: 5000, isSecure: false, host, member: undefined }, soon());
    return played.asked;
  }

  [Symbol.dispose](): void {
    for (const line of this.#lines) line[Symbol.dispose]();
  }
}

async function failureOf(work: Promise<unknown>): Promise<SeikanError> {
  const outcome = await within(
    work.then(
      (value) => `no failure but ${Bun.inspect(value, { depth: 1 })}`,
      (error: unknown) => error,
    ),
    "the failure",
  );
  if (outcome instanceof SeikanError) return outcome;
  throw outcome instanceof Error ? outcome : new Error(String(outcome));
}

/** What a registration is told that is refused: code, status and sentence. */
async function refusal(work: Promise<unknown>): Promise<[ErrorCode, number, string]> {
  const { code, outcome, message } = await failureOf(work);
  return [code, outcome.status, message];
}

function thrownBy(work: () => unknown): [ErrorCode, string] {
  try {
    throw new Error(`no error but ${Bun.inspect(work(), { depth: 1 })}`);
  } catch (error) {
    if (error instanceof SeikanError) return [error.code, error.message];
    throw error;
  }
}

/** The rights of a token file's entry. */
function rightsOf(settings: string): AgentRights {
  return new AgentTokens({
    plain: [],
    listed: [],
    file: `[token.laptop]\nhash = "${hashOf("secret")}"\n${settings}`,
  }).identify("secret")!;
}

const turns = async (count = 50) => {
  for (let i = 0; i < count; i++) await Promise.resolve();
};

describe("an agent that registers", () => {
  test("is there with all it exposes, and gone with its connection", async () => {
    using rig = new Rig();
    const exposures: ExposureSpec[] = [
      ...[WEB, { kind: "http", name: "www", host: "www.example.org" }, { kind: "tls", name: "raw", host: "raw.test" }],
      ...[
        { kind: "tcp", name: "db", port: 20_000 },
        { kind: "udp", name: "dns", port: 20_000 },
      ],
      { kind: "private", name: "ssh" },
    ] as ExposureSpec[];
    const { leave } = await rig.join("laptop", exposures);
    expect(rig.agents).toEqual(["laptop"]);
    expect(rig.exposures).toEqual([
      ...["http:web.tunnel.test", "http:www.example.org", "private:ssh"],
      ...["tcp:20000", "tls:raw.test", "udp:20000"],
    ]);
    expect(rig.ports.opened).toEqual(["tcp:20000", "udp:20000"]);
    leave();
    expect([rig.agents, rig.exposures, rig.ports.opened]).toEqual([[], [], []]);
  });

  test("may expose nothing", async () => {
    using rig = new Rig();
    expect((await rig.join("laptop", [])).places).toEqual([]);
    expect([rig.agents, rig.exposures]).toEqual([["laptop"], []]);
  });

  const places: [what: string, settings: Partial<RegistrySettings>, server: string, url: string, address: string][] = [
    ["over TLS", {}, SERVER, "https://web.tunnel.test", "web.tunnel.test:443"],
    ["over TLS on a port", {}, "wss://tunnel.test:8443", "https://web.tunnel.test:8443", "web.tunnel.test:8443"],
    ["over TLS on its own port", {}, "wss://tunnel.test:443/", "https://web.tunnel.test", "web.tunnel.test:443"],
    ["in plain", {}, "ws://tunnel.test:8080", "http://web.tunnel.test:8080", "web.tunnel.test:8080"],
    [
      "without a domain",
      { domain: undefined },
      "ws://127.0.0.1:8080",
      "http://web.localhost:8080",
      "web.localhost:8080",
    ],
    ["over IPv6", { domain: undefined }, "ws://[::1]:8080", "http://web.localhost:8080", "web.localhost:8080"],
    [
      ...(["behind a proxy", { publicOrigin: { scheme: "https", port: undefined } }, "ws://10.0.0.1:8080"] as const),
      ...(["https://web.tunnel.test", "web.tunnel.test:443"] as const),
    ],
    [
      ...(["behind a proxy on a port", { publicOrigin: { scheme: "http", port: 81 } }, SERVER] as const),
      ...(["http://web.tunnel.test:81", "web.tunnel.test:81"] as const),
    ],
  ];
  for (const [what, settings, server, url, address] of places) {
    test(`is told the URL of its site, ${what}`, async () => {
      using rig = new Rig(settings);
      expect((await rig.join("laptop", [WEB], { server })).places).toEqual([{ name: "web", url, address }]);
    });
  }

  test("is told where the rest is", async () => {
    using rig = new Rig();
    const { places: told } = await rig.join("laptop", [
      { kind: "http", name: "www", host: "*.dev.example.org" },
      { kind: "tls", name: "raw", host: "raw.test" },
      { kind: "tcp", name: "db", port: 20_001 },
      { kind: "udp", name: "dns", port: 20_002 },
      { kind: "private", name: "ssh" },
    ]);
    expect(told).toEqual([
      { name: "www", url: "https://*.dev.example.org", address: "*.dev.example.org:443" },
      { name: "raw", url: "https://raw.test", address: "raw.test:443" },
      { name: "db", url: "tcp://tunnel.test:20001", address: "tunnel.test:20001" },
      { name: "dns", url: "udp://tunnel.test:20002", address: "tunnel.test:20002" },
      { name: "ssh", url: undefined, address: "ssh.agent.internal" },
    ] as never);
    using bare = new Rig({ domain: undefined });
    const db: ExposureSpec = { kind: "tcp", name: "db", port: 20_001 };
    const { places: byAddress } = await bare.join("laptop", [db], { server: "ws://[2001:db8::1]:8080" });
    expect(byAddress[0]?.url).toBe("tcp://[2001:db8::1]:20001");
  });

  test("is warned of sites that nobody elsewhere can reach", async () => {
    for (const [settings, server, exposures, count] of [
      [{ domain: undefined }, "ws://192.0.2.1:8080", [WEB], 1],
      [{ domain: undefined }, "ws://127.0.0.1:8080", [WEB], 0],
      [{ domain: undefined }, "ws://[::1]:8080", [WEB], 0],
      [{ domain: undefined }, "ws://192.0.2.1:8080", [{ ...WEB, host: "www.example.org" }], 0],
      [{ domain: undefined }, "ws://192.0.2.1:8080", [{ kind: "private", name: "db" }], 0],
      [{}, "ws://192.0.2.1:8080", [WEB], 0],
    ] as [Partial<RegistrySettings>, string, ExposureSpec[], number][]) {
      using rig = new Rig(settings);
      const { warnings } = await rig.join("laptop", exposures, { server });
      expect([server, exposures, warnings.length]).toEqual([server, exposures, count]);
    }
  });

  for (const host of [
    "",
    "*",
    "*.",
    "a b",
    "192.0.2.1",
    "[::1]",
    "a..b",
    "a.*.b",
    "*.*.b",
    "http://a",
    "a:80",
    "_a.b",
  ]) {
    test(`is refused the host ${JSON.stringify(host)}`, async () => {
      using rig = new Rig();
      for (const kind of ["http", "tls"] as const) {
        expect(await refusal(rig.join("laptop", [{ kind, name: "a", host }]))).toEqual([
          ...(["bad-request", 400, `"${host}" is no host name`] as const),
        ]);
      }
      expect(rig.agents).toEqual([]);
    });
  }

  test("is refused a TLS server name that is none", async () => {
    using rig = new Rig();
    expect((await refusal(rig.join("laptop", [{ kind: "tls", name: "a" }])))[0]).toBe("bad-request");
  });

  test("is refused the name of the server itself", async () => {
    for (const [domain, host] of [
      [DOMAIN, DOMAIN],
      [DOMAIN, "Tunnel.Test."],
      [undefined, "localhost"],
    ] as const) {
      using rig = new Rig({ domain });
      const refused = await refusal(rig.join("laptop", [{ ...WEB, host }]));
      expect(refused.slice(0, 2)).toEqual(["name-taken", 409]);
      expect(refused[2]).toEndWith(" is this server itself");
    }
  });

  // The server's own certificate would never be asked for again.
  test("is refused the name of the server itself for TLS, too", async () => {
    using rig = new Rig();
    const refused = await refusal(rig.join("laptop", [{ kind: "tls", name: "raw", host: DOMAIN }]));
    expect(refused.slice(0, 2)).toEqual(["name-taken", 409]);
  });

  const faults: [what: string, changes: Partial<ExposureSpec>][] = [
    ["a user without a password", { auth: ["alice"] }],
    ["a network that is none", { clients: ["office"] }],
  ];
  for (const [what, changes] of faults) {
    // It is answered as if the server were wrong, with 500.
    test(`is told that it is its fault: ${what}`, async () => {
      using rig = new Rig();
      expect((await refusal(rig.join("laptop", [{ ...WEB, ...changes }]))).slice(0, 2)).toEqual(["bad-request", 400]);
    });
  }

  for (const [what, field] of [
    ["that is more than one field", ["X-A: 1\r\nX-B", "2"]],
    ["that ends the head", ["A: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length", "0"]],
    ["that frames the message", ["Content-Length", "5"]],
    ["that frames the message otherwise", ["Transfer-Encoding", "chunked"]],
    ["whose value is more than one", ["X-A", "1\r\nX-B: 2"]],
  ] as const) {
    // Names are never looked at, and values only with each message: one answer may become two.
    test(`is refused a field ${what}`, async () => {
      for (const key of ["requestFields", "responseFields"] as const) {
        using rig = new Rig();
        expect(await refusal(rig.join("laptop", [{ ...WEB, [key]: [[...field]] }]))).toContain("bad-request");
      }
    });
  }
});

describe("the site of a host", () => {
  const sites: [string, ExposureSpec][] = [
    ["web.tunnel.test", WEB],
    ["www.example.org", { kind: "http", name: "www", host: "WWW.example.org." }],
    ["*.example.org", { kind: "http", name: "any", host: "*.example.org" }],
    ["*.dev.example.org", { kind: "http", name: "dev", host: "*.dev.example.org" }],
    ["a.dev.example.org", { kind: "http", name: "one", host: "a.dev.example.org" }],
  ];
  for (const [host, name] of [
    ["web.tunnel.test", "web"],
    ["www.example.org", "www"],
    ["other.example.org", "any"],
    ["a.b.example.org", "any"],
    ["b.dev.example.org", "dev"],
    ["b.c.dev.example.org", "dev"],
    ["a.dev.example.org", "one"],
    ["b.a.dev.example.org", "dev"],
    // A wildcard does not stand for the name above it.
    ["dev.example.org", "any"],
  ] as const) {
    test(`is the most exact one: ${name} for ${host}`, async () => {
      using rig = new Rig();
      await rig.join(
        "laptop",
        sites.map(([, spec]) => spec),
      );
      expect(rig.servers(host)).toEqual([`laptop/${name}`]);
    });
  }

  for (const host of ["example.org", "xexample.org", "web.example.com", "localhost", "192.0.2.1", DOMAIN]) {
    test(`is none for ${host}`, async () => {
      using rig = new Rig();
      await rig.join(
        "laptop",
        sites.map(([, spec]) => spec),
      );
      expect(rig.registry.find(host)).toBeUndefined();
    });
  }

  test("that could be ours is said to be missing", () => {
    using rig = new Rig();
    const [code, message] = thrownBy(() => rig.registry.find("gone.tunnel.test"));
    expect([code, message]).toEqual(["no-such-site", "there is no site gone.tunnel.test here"]);
    using bare = new Rig({ domain: undefined });
    expect(bare.registry.find("gone.localhost")).toBeUndefined();
  });

  test("is not what carries TLS as it is, and the other way round", async () => {
    using rig = new Rig();
    await rig.join("laptop", [{ kind: "http", name: "a", host: "a.test" }]);
    expect(rig.registry.hasPassthrough).toBe(false);
    await rig.join("other", [
      { kind: "tls", name: "b", host: "b.test" },
      { kind: "tls", name: "c", host: "*.c.test" },
    ]);
    expect(rig.registry.hasPassthrough).toBe(true);
    expect(rig.registry.find("b.test")).toBeUndefined();
    expect(rig.registry.passthrough("a.test")).toBeUndefined();
    expect(rig.registry.passthrough("B.Test.")?.spec.name).toBe("b");
    expect(rig.registry.passthrough("x.y.c.test")?.spec.name).toBe("c");
    for (const name of ["c.test", "", "not a name", "192.0.2.1"])
      expect(rig.registry.passthrough(name)).toBeUndefined();
  });

  test("may be one and the same for both", async () => {
    using rig = new Rig();
    await rig.join("laptop", [{ kind: "http", name: "a", host: "a.example.net" }]);
    expect(await refusal(rig.join("other", [{ kind: "tls", name: "a", host: "a.example.net" }]))).toContain(409);
    await rig.join("third", [{ kind: "tls", name: "any", host: "*.example.net" }]);
    expect(rig.servers("a.example.net")).toEqual(["laptop/a"]);
    // Somebody's site is not for somebody else's wildcard, of whatever kind.
    expect(rig.registry.passthrough("a.example.net")).toBeUndefined();
    expect(rig.registry.passthrough("b.example.net")?.members[0]?.agent.name).toBe("third");
  });

  test("is where the server's own paths are not", () => {
    const apexes = (domain: string | undefined, exposed: boolean) => {
      using rig = new Rig({ domain });
      return hosts.filter((host) => rig.registry.isApex(host, exposed));
    };
    const own = ["localhost", "127.0.0.1", "2001:db8::1"];
    const hosts = [...own, DOMAIN, "web.tunnel.test", "web.localhost", "a.test"];
    for (const exposed of [false, true]) expect(apexes(DOMAIN, exposed)).toEqual([...own, DOMAIN]);
    // Nobody inside needs another name: it may be one that somebody made point here.
    expect(apexes(undefined, false)).toEqual(own);
    expect(apexes(undefined, true)).toEqual([...own, DOMAIN, "web.tunnel.test", "a.test"]);
  });

  test("of the server itself is nobody's, a wildcard above it neither", async () => {
    using rig = new Rig();
    const parent = `*.${DOMAIN.slice(DOMAIN.indexOf(".") + 1)}`;
    for (const kind of ["http", "tls"] as const)
      for (const host of [DOMAIN, parent, "localhost"])
        expect(await refusal(rig.join("laptop", [{ kind, name: "a", host }]))).toContain(409);
  });

  test("of its own is for servers that know theirs, where they are reached from outside", async () => {
    using rig = new Rig({ domain: undefined, servesOutside: true });
    expect(await refusal(rig.join("laptop", [{ ...WEB, host: "tunnel.example.com" }]))).toContain(403);
    await rig.join("laptop", [WEB]);
  });
});

describe("a name that somebody has", () => {
  test("is refused to another agent", async () => {
    using rig = new Rig();
    await rig.join("laptop");
    const error = await failureOf(rig.join("laptop", [{ ...WEB, name: "other" }], { key: keyOf("another") }));
    expect([error.code, error.outcome.status, error.message]).toEqual([
      ...(["name-taken", 409, "an agent named laptop is connected already"] as const),
    ]);
    expect(error.hints).toEqual(["choose another with --name, or give both a token with the right to share"]);
  });

  const table: [what: string, first: ExposureSpec, second: ExposureSpec][] = [
    ["web.tunnel.test", WEB, { ...WEB, host: "WEB.tunnel.test." }],
    ["www.example.org", { ...WEB, host: "www.example.org" }, { ...WEB, name: "w", host: "www.example.org" }],
    ["*.example.org", { ...WEB, host: "*.example.org" }, { ...WEB, host: "*.example.org" }],
    ["raw.test", { kind: "tls", name: "a", host: "raw.test" }, { kind: "tls", name: "b", host: "raw.test" }],
    ["tcp port 20001", { kind: "tcp", name: "a", port: 20_001 }, { kind: "tcp", name: "b", port: 20_001 }],
    ["udp port 20001", { kind: "udp", name: "a", port: 20_001 }, { kind: "udp", name: "b", port: 20_001 }],
    ["db", { kind: "private", name: "db" }, { kind: "private", name: "db" }],
  ];
  for (const [what, first, second] of table) {
    test(`is refused to another agent: ${what}`, async () => {
      using rig = new Rig();
      const { leave } = await rig.join("one", [first]);
      const before = [rig.agents, rig.exposures, rig.ports.opened];
      const fine: ExposureSpec = { kind: "tcp", name: "fine", port: 20_005 };
      const error = await failureOf(rig.join("two", [fine, second]));
      expect([error.code, error.outcome.status, error.message]).toEqual([
        ...(["name-taken", 409, `${what} belongs to another agent`] as const),
      ]);
      expect(error.hints.join()).toContain("the right to share");
      expect([rig.agents, rig.exposures, rig.ports.opened]).toEqual(before);
      leave();
      await rig.join("two", [second]);
      expect(rig.agents).toEqual(["two"]);
    });
  }

  test("is another one in another kind, or more or less exact", async () => {
    using rig = new Rig();
    await rig.join("one", [
      ...[WEB, { kind: "tcp", name: "a", port: 20_001 }, { ...WEB, name: "w", host: "*.example.org" }],
    ] as ExposureSpec[]);
    await rig.join("two", [
      ...[
        { kind: "private", name: "web" },
        { kind: "udp", name: "a", port: 20_001 },
      ],
      ...[
        { ...WEB, name: "w", host: "a.example.org" },
        { ...WEB, name: "x", host: "*.a.example.org" },
      ],
      { kind: "tls", name: "t", host: "*.other.example.org" },
    ] as ExposureSpec[]);
    expect(rig.exposures).toHaveLength(8);
  });

  test("goes to one of two that want it at once", async () => {
    using rig = new Rig();
    const outcomes = await Promise.allSettled(["one", "two", "three"].map((agent) => rig.join(agent)));
    expect(outcomes.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected", "rejected"]);
    expect(rig.agents).toHaveLength(1);
    expect(rig.servers("web.tunnel.test")).toEqual([`${rig.agents[0]}/web`]);
  });

  test("does not hold up those who want another one", async () => {
    using rig = new Rig();
    await rig.join("one");
    const outcomes = await Promise.allSettled([rig.join("two"), rig.join("three", [{ ...WEB, name: "three" }])]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
  });
});

describe("agents that may share", () => {
  test("are a group, until the last one leaves", async () => {
    using rig = new Rig();
    const agents = [];
    for (const key of ["a", "b", "c"]) agents.push(await rig.join("web", [WEB], { rights: SHARING, key: keyOf(key) }));
    expect(rig.agents).toEqual(["web", "web", "web"]);
    expect(rig.servers("web.tunnel.test")).toEqual(["web/web", "web/web", "web/web"]);
    for (const [index, { leave }] of agents.entries()) {
      expect(rig.servers("web.tunnel.test")).toHaveLength(3 - index);
      leave();
    }
    expect(rig.exposures).toEqual([]);
  });

  test("share a port, and it stays open", async () => {
    using rig = new Rig();
    const db: ExposureSpec = { kind: "tcp", name: "db", port: 20_003 };
    const one = await rig.join("one", [db], { rights: SHARING });
    const two = await rig.join("two", [db], { rights: SHARING });
    expect(two.places).toEqual(one.places);
    expect(rig.ports.tried).toEqual([20_003]);
    one.leave();
    expect(rig.ports.opened).toEqual(["tcp:20003"]);
    two.leave();
    expect(rig.ports.opened).toEqual([]);
  });

  for (const [first, second] of [
    [SHARING, FULL],
    [FULL, SHARING],
  ] as const) {
    test(`are both of them: ${first.mayShare} and ${second.mayShare} are not enough`, async () => {
      using rig = new Rig();
      await rig.join("one", [WEB], { rights: first });
      expect((await refusal(rig.join("two", [WEB], { rights: second })))[1]).toBe(409);
      expect((await refusal(rig.join("one", [], { rights: second, key: keyOf("x") })))[1]).toBe(409);
    });
  }

  const differences: [what: string, changes: Partial<ExposureSpec>][] = [
    ["users", { auth: ["a:b"] }],
    ["networks", { clients: ["10.0.0.0/8"] }],
    ["a Host", { hostHeader: "a" }],
    ["fields", { requestFields: [["A", "b"]] }],
    ["a way to be sticky", { sticky: "cookie" }],
  ];
  for (const [what, changes] of differences) {
    test(`agree on the options: the other one has ${what}`, async () => {
      using rig = new Rig();
      await rig.join("one", [WEB], { rights: SHARING });
      const [code, status, message] = await refusal(rig.join("two", [{ ...WEB, ...changes }], { rights: SHARING }));
      expect([code, status]).toEqual(["name-taken", 409]);
      expect(message).toBe("web.tunnel.test with other options belongs to another agent");
    });
  }

  // It says that "web.tunnel.test with other options is connected already".
  test("and have one name are told what they do not agree on", async () => {
    using rig = new Rig();
    await rig.join("web", [WEB], { rights: SHARING, key: keyOf("a") });
    const differing = rig.join("web", [{ ...WEB, sticky: "cookie" }], { rights: SHARING, key: keyOf("b") });
    expect((await refusal(differing))[2]).toBe("web.tunnel.test with other options belongs to another agent");
  });

  // Each is asked by the name that the first one chose.
  test("are asked by the names that they gave", async () => {
    using rig = new Rig();
    const host = "www.example.org";
    const one = await rig.join("one", [{ kind: "http", name: "first", host }], { rights: SHARING });
    const two = await rig.join("two", [{ kind: "http", name: "second", host }], { rights: SHARING });
    expect(two.places[0]?.name).toBe("second");
    one.leave();
    expect(await rig.asked(host, two)).toEqual(["CONNECT second.agent.internal:80"]);
  });

  // Each is as well as the first one was.
  test("are as well as they say", async () => {
    using rig = new Rig();
    await rig.join("one", [WEB], { rights: SHARING });
    await rig.join("two", [{ ...WEB, healthy: false }], { rights: SHARING });
    expect(rig.site("web.tunnel.test").members.map(({ isHealthy }) => isHealthy)).toEqual([true, false]);
  });
});

describe("an agent that comes again", () => {
  test("with a further connection is one agent, until the last one is lost", async () => {
    using rig = new Rig();
    const first = await rig.join("laptop", [WEB], { connection: "first" });
    const second = await rig.join("laptop", [WEB], { connection: "second" });
    expect(second.places).toEqual(first.places);
    expect(rig.servers("web.tunnel.test")).toEqual(["laptop/web"]);
    expect([...rig.registry.agents][0]!.stats.connections).toBe(2);
    first.leave();
    expect(await rig.asked("web.tunnel.test", second)).toEqual(["CONNECT web.agent.internal:80"]);
    second.leave();
    expect([rig.agents, rig.exposures]).toEqual([[], []]);
  });

  test("with the same connection takes its place: the former one is a ghost", async () => {
    using rig = new Rig();
    const ghost = await rig.join("laptop", [WEB], { connection: "only" });
    const line = await rig.join("laptop", [WEB], { connection: "only" });
    expect((await within(ghost.line.session.closed, "the ghost is gone")).error?.message).toBe(
      "its agent connected anew",
    );
    // Hearing of the ghost's end changes nothing.
    rig.registry.lineClosed(ghost.key, ghost.line);
    expect(rig.agents).toEqual(["laptop"]);
    expect(await rig.asked("web.tunnel.test", line)).toEqual(["CONNECT web.agent.internal:80"]);
  });

  test("uses the connection with the fewest streams", async () => {
    using rig = new Rig();
    const lines = [
      await rig.join("laptop", [WEB], { connection: "first" }),
      await rig.join("laptop", [WEB], { connection: "second" }),
    ];
    for (let i = 0; i < 6; i++) await rig.asked("web.tunnel.test", lines[0]!);
    expect(lines.map(({ played }) => played.asked.length)).toEqual([3, 3]);
  });

  test("has from then on what it asks for now, and nothing else", async () => {
    using rig = new Rig();
    const db: ExposureSpec = { kind: "tcp", name: "db", port: 20_001 };
    await rig.join("laptop", [WEB, db], { connection: "first" });
    await rig.join("laptop", [WEB, { kind: "private", name: "ssh" }], { connection: "second" });
    expect(rig.exposures).toEqual(["http:web.tunnel.test", "private:ssh"]);
    expect(rig.ports.opened).toEqual([]);
  });

  // What it had stays as it was, and it is told that all is well.
  test("has from then on the options that it asks for now", async () => {
    using rig = new Rig();
    await rig.join("laptop", [WEB], { connection: "first" });
    await rig.join("laptop", [{ ...WEB, auth: ["alice:secret"] }], { connection: "second" });
    expect(rig.site("web.tunnel.test").policy.users).toBeDefined();
  });

  // Its health is only heard of when it comes for the first time.
  test("is from then on as well as it says now", async () => {
    using rig = new Rig();
    await rig.join("laptop", [WEB], { connection: "first" });
    await rig.join("laptop", [{ ...WEB, healthy: false }], { connection: "second" });
    expect(rig.site("web.tunnel.test").members[0]?.isHealthy).toBe(false);
  });

  test("after all was lost is the same member for those who have its cookie", async () => {
    using rig = new Rig();
    const sticky: ExposureSpec = { ...WEB, sticky: "cookie" };
    const first = await rig.join("laptop", [sticky]);
    const { id } = rig.site("web.tunnel.test").members[0]!;
    first.leave();
    await rig.join("laptop", [sticky]);
    expect(rig.site("web.tunnel.test").members[0]?.id).toBe(id);
  });

  test("and is refused keeps what it has", async () => {
    using rig = new Rig();
    await rig.join("other", [{ ...WEB, name: "taken" }]);
    const line = await rig.join("laptop", [WEB], { connection: "first" });
    expect((await refusal(rig.join("laptop", [{ ...WEB, name: "taken" }], { connection: "second" })))[1]).toBe(409);
    expect(rig.servers("web.tunnel.test")).toEqual(["laptop/web"]);
    expect(await rig.asked("web.tunnel.test", line)).toHaveLength(1);
  });
});

describe("a ghost", () => {
  /** Registers with a clock that the test moves; says whether it was decided. */
  function registering(work: Promise<unknown>) {
    const state = { done: false, error: undefined as unknown };
    void work.then(
      () => (state.done = true),
      (error: unknown) => {
        state.done = true;
        state.error = error;
      },
    );
    return state;
  }

  for (const [what, agent, exposure] of [
    ["its name", "laptop", { ...WEB, name: "other" }],
    ["what it exposes", "other", WEB],
  ] as const) {
    test(`gives no sign of life within two seconds and is gone, when somebody wants ${what}`, async () => {
      using rig = new Rig();
      const ghost = silentLine();
      await rig.register("laptop", [WEB], ghost);
      jest.useFakeTimers();
      const joining = rig.join(agent, [exposure], { key: keyOf("another") });
      const state = registering(joining);
      await turns();
      jest.advanceTimersByTime(1999);
      await turns();
      expect([state.done, ghost.session.isClosed]).toEqual([false, false]);
      jest.advanceTimersByTime(1);
      await turns();
      jest.useRealTimers();
      await joining;
      expect((await within(ghost.session.closed, "its end")).error?.code).toBe("peer-silent");
      expect(rig.agents).toEqual([agent]);
      // Hearing of its end afterwards changes nothing.
      rig.registry.lineClosed(keyOf("laptop"), ghost);
      expect(rig.agents).toEqual([agent]);
    });
  }

  test("stays where nobody wants what it has", async () => {
    using rig = new Rig();
    const ghost = silentLine();
    await rig.register("laptop", [WEB], ghost);
    await rig.join("other", [{ ...WEB, name: "other" }]);
    expect([rig.agents, ghost.session.isClosed]).toEqual([["laptop", "other"], false]);
  });

  test("is none while one of its connections answers", async () => {
    using rig = new Rig();
    const ghost = silentLine("silent".padEnd(16, "_"));
    await rig.register("laptop", [WEB], ghost);
    await rig.join("laptop", [WEB], { connection: "live" });
    jest.useFakeTimers();
    const state = registering(rig.join("other", [WEB]));
    await turns();
    jest.useRealTimers();
    // It did not have to wait for that.
    expect(state).toMatchObject({ done: true, error: { code: "name-taken" } });
    expect([rig.agents, ghost.session.isClosed]).toEqual([["laptop"], false]);
  });

  test("is none when it may share", async () => {
    using rig = new Rig();
    const ghost = silentLine();
    await rig.register("laptop", [WEB], ghost, { rights: SHARING });
    await rig.join("other", [WEB], { rights: SHARING });
    expect(rig.agents).toEqual(["laptop", "other"]);
  });
});

describe("a port", () => {
  const tcp = (port: number, name = "db"): ExposureSpec => ({ kind: "tcp", name, port });
  const portOf = ({ places }: { places: Registered["exposures"] }) => Number(places[0]?.address.split(":").at(-1));

  test("brings each visitor to its exposure", async () => {
    using rig = new Rig();
    await rig.join("laptop", [tcp(20_001)]);
    const [stream] = memoryPair();
    rig.ports.open_.get("tcp:20001")!(stream, { address: "192.0.2.1", port: 5000 });
    expect(rig.visits.map(([{ id, spec }, peer]) => [id, spec.name, peer])).toEqual([
      ["tcp:20001", "db", { address: "192.0.2.1", port: 5000 }],
    ]);
  });

  test("that the server does not open is refused", async () => {
    using rig = new Rig();
    for (const port of [19_999, 20_010, 22]) {
      const error = await failureOf(rig.join("laptop", [tcp(port)]));
      expect([error.code, error.message]).toEqual(["not-granted", `this server opens no port ${port} for agents`]);
      expect(error.hints).toEqual(["its --allow-bind says which"]);
    }
    using closed = new Rig({}, new Ports(1, 0));
    expect(await refusal(closed.join("laptop", [tcp(0)]))).toEqual([
      ...(["not-granted", 403, "this server opens no port for agents"] as const),
    ]);
  });

  test("that somebody else has on that machine is refused, and what was opened is closed", async () => {
    using rig = new Rig();
    rig.ports.taken.add(20_002);
    const [code, status, message] = await refusal(rig.join("laptop", [tcp(20_001), tcp(20_002, "other")]));
    expect([code, status]).toEqual(["name-taken", 409]);
    expect(message).toStartWith("tcp port 20002 is taken at the server: ");
    expect([rig.agents, rig.exposures, rig.ports.opened]).toEqual([[], [], []]);
  });

  test("of an agent that is refused later is kept where it was open before", async () => {
    using rig = new Rig();
    rig.ports.taken.add(20_002);
    await rig.join("laptop", [tcp(20_001)], { connection: "first" });
    const again = rig.join("laptop", [tcp(20_001), tcp(20_002, "other")], { connection: "second" });
    expect((await refusal(again))[1]).toBe(409);
    expect(rig.ports.opened).toEqual(["tcp:20001"]);
  });

  test("0 is any that is free and allowed", async () => {
    using rig = new Rig();
    rig.ports.taken.add(20_000).add(20_002);
    const ports = [];
    for (const agent of ["one", "two", "three"]) ports.push(portOf(await rig.join(agent, [tcp(0)])));
    expect(ports).toEqual([20_001, 20_003, 20_004]);
    expect(rig.exposures).toEqual(["tcp:20001", "tcp:20003", "tcp:20004"]);
  });

  test("0 is another one for each exposure", async () => {
    using rig = new Rig();
    const { places } = await rig.join("laptop", [tcp(0, "a"), tcp(0, "b"), { kind: "udp", name: "c", port: 0 }]);
    expect(new Set(places.slice(0, 2).map(({ address }) => address)).size).toBe(2);
    expect(rig.ports.opened.filter((id) => id.startsWith("tcp:"))).toHaveLength(2);
  });

  test("0 is the same one on a further connection", async () => {
    using rig = new Rig();
    const first = await rig.join("laptop", [tcp(0)], { connection: "first" });
    const second = await rig.join("laptop", [tcp(0)], { connection: "second" });
    expect(portOf(second)).toBe(portOf(first));
    expect(rig.ports.opened).toEqual([`tcp:${portOf(first)}`]);
    // An agent then asks for the one it has.
    const third = await rig.join("laptop", [tcp(portOf(first))], { connection: "third" });
    expect(portOf(third)).toBe(portOf(first));
    first.leave();
    second.leave();
    expect(rig.ports.opened).toHaveLength(1);
    third.leave();
    expect(rig.ports.opened).toEqual([]);
  });

  // What has the same name is taken for the same exposure.
  test("0 is a port, also where the name was a site's before", async () => {
    using rig = new Rig();
    await rig.join("laptop", [{ ...WEB, name: "db" }], { connection: "first" });
    const { places } = await rig.join("laptop", [tcp(0)], { connection: "second" });
    expect(places[0]?.url).toBe("tcp://tunnel.test:20000");
  });

  test("0 is none where all are taken", async () => {
    using rig = new Rig();
    for (let port = 20_000; port < 20_010; port++) rig.ports.taken.add(port);
    expect((await refusal(rig.join("laptop", [tcp(0)]))).slice(0, 2)).toEqual(["name-taken", 409]);
    expect(rig.ports.tried).toHaveLength(10);
  });

  test("0 is one that the token permits", async () => {
    using rig = new Rig();
    const rights = rightsOf('ports = [20004, "20007-20008"]');
    rig.ports.taken.add(20_004);
    expect(portOf(await rig.join("laptop", [tcp(0)], { rights }))).toBe(20_007);
    expect(rig.ports.tried).toEqual([20_004, 20_007]);
    expect(await refusal(rig.join("other", [tcp(0)], { rights: rightsOf("ports = [80]") }))).toEqual([
      ...(["not-granted", 403, "the token laptop does not permit any port this server opens"] as const),
    ]);
  });

  // Only some of the allowed ports are looked at, whatever the token permits.
  test("0 is one that the token permits, among many others", async () => {
    using rig = new Rig({}, new Ports(20_000, 29_999));
    const rights = rightsOf("ports = [29999]");
    expect(portOf(await rig.join("laptop", [tcp(0)], { rights }))).toBe(29_999);
  });
});

describe("a site whose agent has left", () => {
  const MINUTES = 60_000;

  for (const domain of [DOMAIN, undefined]) {
    test(`may come back for ten minutes, and is no site afterwards, ${domain ? "with" : "without"} a domain`, async () => {
      using rig = new Rig({ domain });
      const host = `web.${domain ?? "localhost"}`;
      const { leave } = await rig.join("laptop");
      jest.useFakeTimers();
      leave();
      const away = ["site-away", "the agent that serves this site is not connected"] as [ErrorCode, string];
      expect(thrownBy(() => rig.registry.find(host))).toEqual(away);
      jest.advanceTimersByTime(10 * MINUTES - 1000);
      expect(thrownBy(() => rig.registry.find(host))).toEqual(away);
      jest.advanceTimersByTime(1001);
      if (domain === undefined) expect(rig.registry.find(host)).toBeUndefined();
      else expect(thrownBy(() => rig.registry.find(host))[0]).toBe("no-such-site");
    });
  }

  test("is there again at once when it comes back, and away anew when it leaves anew", async () => {
    using rig = new Rig();
    const first = await rig.join("laptop");
    jest.useFakeTimers();
    first.leave();
    jest.advanceTimersByTime(9 * MINUTES);
    const second = await rig.join("laptop");
    expect(rig.servers("web.tunnel.test")).toEqual(["laptop/web"]);
    second.leave();
    jest.advanceTimersByTime(9 * MINUTES);
    expect(thrownBy(() => rig.registry.find("web.tunnel.test"))[0]).toBe("site-away");
  });

  test("is told of no more than other sites are", async () => {
    using rig = new Rig();
    const { leave } = await rig.join("laptop", [
      { kind: "private", name: "db" },
      { kind: "tls", name: "t", host: "t.test" },
    ]);
    leave();
    expect(thrownBy(() => rig.registry.privateWay("db.agent.internal", 1))[0]).toBe("no-such-site");
    expect(rig.registry.find("t.test")).toBeUndefined();
    expect(rig.registry.passthrough("t.test")).toBeUndefined();
  });

  // Only the wildcard itself is remembered, and no visitor asks for that.
  test("may come back, also one below a wildcard", async () => {
    using rig = new Rig();
    const { leave } = await rig.join("laptop", [{ ...WEB, host: "*.dev.example.org" }]);
    leave();
    expect(thrownBy(() => rig.registry.find("a.dev.example.org"))[0]).toBe("site-away");
  });
});

describe("what a token permits", () => {
  const verdict = async (settings: string, exposure: ExposureSpec, agent = "laptop") => {
    using rig = new Rig();
    const outcome = await rig.join(agent, [exposure], { rights: rightsOf(settings) }).then(
      () => "registered",
      (error: SeikanError) => `${error.code}: ${error.message}`,
    );
    expect(rig.agents).toEqual(outcome === "registered" ? [agent] : []);
    return outcome;
  };
  const ssh: ExposureSpec = { kind: "private", name: "ssh" };

  const table: [settings: string, exposure: ExposureSpec, denied: string | undefined, agent?: string][] = [
    ['hosts = ["web"]', WEB, undefined],
    ['hosts = ["other"]', WEB, "the name web"],
    ["", WEB, "the name web"],
    ['hosts = ["ssh"]', ssh, undefined],
    ['hosts = ["web"]', ssh, "the name ssh"],
    // The whole host counts, where one is given.
    ['hosts = ["web"]', { ...WEB, host: "www.example.org" }, "the name www.example.org"],
    ['hosts = ["web"]', { ...WEB, host: "web.tunnel.test" }, "the name web.tunnel.test"],
    ['hosts = ["*.example.org"]', { ...WEB, host: "www.example.org" }, undefined],
    ['hosts = ["*.example.org"]', { ...WEB, host: "a.b.example.org" }, undefined],
    ['hosts = ["*.example.org"]', { ...WEB, host: "*.b.example.org" }, undefined],
    ['hosts = ["raw.test"]', { kind: "tls", name: "x", host: "raw.test" }, undefined],
    ['hosts = ["x"]', { kind: "tls", name: "x", host: "raw.test" }, "the name raw.test"],
    ['hosts = ["*"]', { ...WEB, host: "www.example.org" }, undefined],
    // Ports.
    ["ports = [20001]", { kind: "tcp", name: "x", port: 20_001 }, undefined],
    ["ports = [20001]", { kind: "udp", name: "x", port: 20_001 }, undefined],
    ["ports = [20001]", { kind: "tcp", name: "x", port: 20_002 }, "port 20002"],
    ['hosts = ["*"]', { kind: "tcp", name: "x", port: 20_001 }, "port 20001"],
    // Names of agents.
    ['agents = ["laptop"]\nhosts = ["*"]', WEB, undefined],
    ['agents = ["ci-*"]\nhosts = ["*"]', WEB, undefined, "ci-7"],
    ['agents = ["ci-*"]\nhosts = ["*"]', WEB, "the agent name laptop"],
  ];
  for (const [settings, exposure, denied, agent] of table) {
    const what = `${agent ?? "laptop"}, ${exposure.kind} ${exposure.host ?? exposure.port ?? exposure.name}`;
    test(`${JSON.stringify(settings)}: ${what} is ${denied === undefined ? "fine" : "not"}`, async () => {
      const expected = denied === undefined ? "registered" : `not-granted: the token laptop does not permit ${denied}`;
      expect(await verdict(settings, exposure, agent)).toBe(expected);
    });
  }

  // A host means nothing to a private exposure, and yet it is what the rights are looked up for.
  test("is the name of a private exposure, whatever host is given beside it", async () => {
    expect(await verdict('hosts = ["web"]', { ...ssh, host: "web" })).toBe(
      "not-granted: the token laptop does not permit the name ssh",
    );
  });

  // Rights are looked up for the host as it was written: with dots of another script it has no dot.
  for (const dot of ["\u3002", "\uff0e", "\uff61"]) {
    test(`is a host in the form in which visitors ask for it, with ${dot} for a dot`, async () => {
      expect(await verdict('hosts = ["ci-*"]', { ...WEB, host: `ci-1${dot}bank${dot}test` })).toStartWith(
        "not-granted",
      );
    });
  }

  test("is every name below, and the wildcard itself, with *. in front", async () => {
    expect(await verdict('hosts = ["*.example.org"]', { ...WEB, host: "*.example.org" })).toBe("registered");
    expect(await verdict('hosts = ["*.example.org"]', { ...WEB, host: "example.org" })).toStartWith("not-granted");
  });
});

describe("one registration", () => {
  const doubles: [what: string, exposures: ExposureSpec[]][] = [
    ["name", [WEB, { kind: "private", name: "web" }]],
    ["host", [WEB, { kind: "http", name: "other", host: "web.tunnel.test" }]],
  ];
  for (const [what, exposures] of doubles) {
    // Of two, one is lost without a word.
    test(`has each ${what} once`, async () => {
      using rig = new Rig();
      const [code] = await refusal(rig.join("laptop", exposures));
      expect(["bad-request", "name-taken"]).toContain(code);
    });
  }

  test("has each port once", async () => {
    using rig = new Rig();
    const port = 20_001;
    const both = rig.join("laptop", [
      { kind: "tcp", name: "a", port },
      { kind: "tcp", name: "b", port },
    ]);
    expect((await refusal(both))[1]).toBe(400);
    expect([rig.agents, rig.ports.opened]).toEqual([[], []]);
  });
});

describe("an agent that is there", () => {
  const visitor = { address: "192.0.2.1", port: 5000, isSecure: false, host: "web.tunnel.test", member: undefined };

  test("says how its exposures are", async () => {
    using rig = new Rig();
    const { key } = await rig.join("laptop", [WEB, { ...WEB, name: "other" }]);
    rig.registry.setHealth(key, "web", false);
    const reached = failureOf(rig.site("web.tunnel.test").reach(visitor, soon()));
    expect((await reached).message).toBe("the service behind this site is not well");
    expect(rig.site("other.tunnel.test").members[0]?.canServe).toBe(true);
    rig.registry.setHealth(key, "web", true);
    await rig.site("web.tunnel.test").reach(visitor, soon());
  });

  test("says nothing of those of others", async () => {
    using rig = new Rig();
    await rig.join("laptop");
    const other = await rig.join("other", [{ ...WEB, name: "other" }]);
    rig.registry.setHealth(other.key, "web", false);
    rig.registry.setHealth(keyOf("nobody"), "web", false);
    expect(rig.site("web.tunnel.test").members[0]?.canServe).toBe(true);
  });

  test("is probed through its exposures, and through no others", async () => {
    using rig = new Rig();
    const { key, played } = await rig.join("laptop");
    await rig.join("other", [{ ...WEB, name: "other" }]);
    const nonce = "0123456789abcdef";
    await rig.registry.probe(key, "web", nonce, soon());
    expect(played.asked).toEqual([`CONNECT ${nonce}.probe.agent.internal:1`]);
    for (const name of ["other", "gone"]) {
      expect(await refusal(rig.registry.probe(key, name, nonce, soon()))).toEqual([
        ...(["no-such-site", 404, `there is no exposure ${name}`] as const),
      ]);
    }
    played.reply = new SeikanError("no-such-site", "no");
    expect((await failureOf(rig.registry.probe(key, "web", nonce, soon()))).code).toBe("hop-refused");
  });

  test("and is about to end is waited for no longer than it works", async () => {
    using rig = new Rig();
    const [near, far] = memoryPair();
    const events = new Recorder(far);
    using played = new PlayedLine("line".padEnd(16, "_"), new EventWriter(near));
    await rig.register("laptop", [WEB], played.line);
    const agent = [...rig.registry.agents][0]!;
    const aborted: (string | undefined)[] = [];
    const waiting: IdleConnection = { abort: ({ message }) => void aborted.push(message) };
    agent.idle.add(waiting);
    rig.registry.retire(agent.key);
    expect(aborted).toEqual(["its agent is about to end"]);
    await events.end();
    rig.registry.retire(keyOf("nobody"));
  });

  test("is there to be dialled through, where its token permits that", async () => {
    using rig = new Rig();
    const target = { kind: "tcp", host: "nas.lan", port: 22 } as const;
    const dial = (name: string) => rig.registry.exitDialer(name)(target, { deadline: soon() });
    const exit = await rig.join("home", []);
    const none = await rig.join("laptop", [WEB], { rights: rightsOf('hosts = ["*"]') });
    await dial("home");
    expect(exit.played.asked).toEqual(["CONNECT nas.lan:22"]);
    expect(await refusal(dial("laptop"))).toEqual([
      ...(["not-granted", 403, "the token laptop does not permit to dial for others"] as const),
    ]);
    expect(none.played.asked).toEqual([]);
    expect(await refusal(dial("gone"))).toEqual([...(["site-away", 503, "no agent named gone is connected"] as const)]);
    await exit.played.goAway();
    expect((await refusal(dial("home")))[0]).toBe("site-away");
  });

  test("is dialled through when it may be, where others of its name may not", async () => {
    using rig = new Rig();
    const rights = { ...SHARING, isExit: false };
    await rig.join("home", [], { rights, key: keyOf("a") });
    const exit = await rig.join("home", [], { rights: SHARING, key: keyOf("b") });
    await rig.registry.exitDialer("home")({ kind: "tcp", host: "nas.lan", port: 22 }, { deadline: soon() });
    expect(exit.played.asked).toEqual(["CONNECT nas.lan:22"]);
  });
});

describe("a private name", () => {
  const db: ExposureSpec = { kind: "private", name: "db" };

  test("leads to its exposure, whatever port is asked for", async () => {
    using rig = new Rig();
    const { played } = await rig.join("laptop", [db]);
    const way = rig.registry.privateWay("db.agent.internal", 5432)!;
    expect([way.agent, way.resolvesHere, way.reason]).toEqual(["laptop", false, "exposure db"]);
    const source = { address: "192.0.2.7", port: 5000 };
    await way.dial({ kind: "tcp", host: "db.agent.internal", port: 5432 }, { deadline: soon(), source });
    expect(played.asked).toEqual(["CONNECT db.agent.internal:80"]);
    expect(played.streams[0]?.field("forwarded")).toBe('for="192.0.2.7:5000"');
  });

  test("that nobody has is none", async () => {
    using rig = new Rig();
    await rig.join("laptop", [WEB, { kind: "tls", name: "t", host: "t.test" }]);
    for (const host of ["db.agent.internal", "web.agent.internal", "a.b.agent.internal", "agent.internal"]) {
      expect(thrownBy(() => rig.registry.privateWay(host, 1))).toEqual([
        ...(["no-such-site", `no agent has an exposure ${host}`] as const),
      ]);
    }
    for (const host of ["db", "db.agent.internal.test", "xagent.internal"])
      expect(rig.registry.privateWay(host, 1)).toBeUndefined();
  });

  test("is away while its agent is about to end", async () => {
    using rig = new Rig();
    const { played } = await rig.join("laptop", [db]);
    await played.goAway();
    expect(thrownBy(() => rig.registry.privateWay("db.agent.internal", 1))[0]).toBe("site-away");
  });
});
