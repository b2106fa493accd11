import { describe, expect, test } from "bun:test";
import { parseIp } from "../../src/core/address.ts";
import { deadlineIn } from "../../src/core/clock.ts";
import { SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { EventWriter } from "../../src/routes/agent.ts";
import { fullRights } from "../../src/routes/agent-tokens.ts";
import { away, Exposure, Member } from "../../src/routes/exposure.ts";
import type { Reached, Visitor } from "../../src/routes/sites.ts";
import { LineReader } from "../../src/transports/control.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { parseEvent, type ExposureSpec } from "../../src/wire/registration.ts";
import { soon } from "../support/pairs.ts";
import { PlayedAgent, type Reply } from "../support/played-agent.ts";
import { Recorder, reset, within } from "../support/wait.ts";

const WEB: ExposureSpec = { kind: "http", name: "web" };
const ADDRESSES = Array.from({ length: 40 }, (_, index) => `192.0.2.${index + 1}`);

function visitor(changes: Partial<Visitor> = {}): Visitor {
  return {
    ...{ address: "192.0.2.1", port: 5000, isSecure: false, host: "web.localhost", member: undefined },
    ...changes,
  };
}

/** An exposure of several agents: `a`, `b`, … */
class Group implements Disposable {
  readonly exposure: Exposure;
  readonly agents: PlayedAgent[];

  constructor(count: number, changes: Partial<ExposureSpec> = {}, id = "http:web.localhost") {
    this.exposure = new Exposure(id, { ...WEB, ...changes });
    this.agents = Array.from({ length: count }, (_, index) => new PlayedAgent(String.fromCodePoint(97 + index)));
    for (const { agent } of this.agents) this.exposure.members.push(new Member(agent, this.exposure.spec));
  }

  member(index: number): Member {
    return this.exposure.members[index]!;
  }

  /** Which agent serves this visitor. */
  async reach(changes: Partial<Visitor> = {}): Promise<Reached & { readonly by: string }> {
    const reached = await this.exposure.reach(visitor(changes), soon());
    return { ...reached, by: this.exposure.members.find(({ id }) => id === reached.member)!.agent.name };
  }

  /** Who serves that many visitors in a row; each is gone before the next one comes. */
  async tries(count: number, changes: Partial<Visitor> = {}): Promise<string[]> {
    const by: string[] = [];
    for (let i = 0; i < count; i++) by.push((await this.reach(changes)).by);
    return by;
  }

  reply(reply: Reply): void {
    for (const agent of this.agents) agent.reply = reply;
  }

  [Symbol.dispose](): void {
    for (const agent of this.agents) agent[Symbol.dispose]();
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

const refusedBy = (code: ErrorCode) =>
  new SeikanError(code, "10.1.2.3:5432 (db.lan) does not work", { hints: ["is db.lan up?"] });

describe("a visitor of an exposure", () => {
  for (const [what, spec, asked] of [
    ["a site", WEB, "CONNECT web.agent.internal:80"],
    ["a TCP port", { kind: "tcp", name: "db", port: 5432 }, "CONNECT db.agent.internal:5432"],
    ["a TLS server name", { kind: "tls", name: "raw", host: "a.test" }, "CONNECT raw.agent.internal:80"],
    ["a private name", { kind: "private", name: "ssh" }, "CONNECT ssh.agent.internal:80"],
  ] as [string, ExposureSpec, string][]) {
    test(`is brought to its agent by the name of ${what}`, async () => {
      using group = new Group(1, spec);
      await group.reach();
      expect(group.agents[0]!.asked).toEqual([asked]);
    });
  }

  test("of a UDP port is brought there by connect-udp", async () => {
    using group = new Group(1, { kind: "udp", name: "dns", port: 53 });
    group.reply(refusedBy("connect-refused"));
    await failureOf(group.reach());
    expect(group.agents[0]!.asked).toEqual(["GET /.well-known/masque/udp/dns.agent.internal/53/"]);
  });

  for (const [address, element] of [
    ["192.0.2.7", 'for="192.0.2.7:5000"'],
    ["2001:db8::7", 'for="[2001:db8::7]:5000"'],
    ["", undefined],
  ] as const) {
    test(`from ${address || "a unix socket"} is named to the agent`, async () => {
      using group = new Group(1);
      await group.reach({ address });
      expect((await group.agents[0]!.stream()).field("forwarded")).toBe(element);
    });
  }

  test("speaks with the agent from then on", async () => {
    using group = new Group(1);
    const { stream } = await group.reach();
    const mine = new Recorder(stream);
    const theirs = await group.agents[0]!.stream();
    stream.write(Buffer.from("to the agent"));
    theirs.stream.write(Buffer.from("to the visitor"));
    await mine.received(14);
    await theirs.received(theirs.head!.length + 4 + 12);
    expect([mine.text, theirs.text.slice(theirs.head!.length + 4)]).toEqual(["to the visitor", "to the agent"]);
  });

  test("does not reach whoever is not there", async () => {
    using group = new Group(0);
    const error = await failureOf(group.reach());
    expect([error.code, error.outcome.status, error.message]).toEqual([
      "site-away",
      503,
      "the agent that serves this site is not connected",
    ]);
    expect(error.hints).toEqual(away().hints);
    expect(() => group.exposure.wayFor({ address: "", port: 0 })).toThrow("is not connected");
  });
});

describe("the members of an exposure", () => {
  test("are chosen by how few visitors they have", async () => {
    using group = new Group(3);
    const began: string[] = [];
    for (let i = 0; i < 9; i++) {
      const { by, origin } = await group.reach();
      group.exposure.begin(origin);
      began.push(by);
      // Each round has them all.
      if (i % 3 === 2) expect(began.slice(-3).toSorted()).toEqual(["a", "b", "c"]);
    }
    expect(group.exposure.members.map(({ inFlight }) => inFlight)).toEqual([3, 3, 3]);
  });

  test("are free again when a visit is over", async () => {
    using group = new Group(2);
    const first = await group.reach();
    const visit = group.exposure.begin(first.origin);
    for (const by of await group.tries(10)) expect(by).not.toBe(first.by);
    visit.end();
    const second = group.exposure.members.find(({ agent }) => agent.name !== first.by)!;
    group.exposure.begin(`${group.exposure.id} ${second.id} `);
    for (const by of await group.tries(10)) expect(by).toBe(first.by);
  });

  test("that are equally busy all get visitors", async () => {
    using group = new Group(3);
    expect([...new Set(await group.tries(100))].toSorted()).toEqual(["a", "b", "c"]);
  });

  test("are as busy as the connections that lead through them", async () => {
    using group = new Group(2, { kind: "tcp", name: "db", port: 5432 }, "tcp:5432");
    const streams: ByteStream[] = [];
    const dial = async () => {
      const way = group.exposure.wayFor({ address: "192.0.2.1", port: 5000 });
      streams.push(await way.dial({ kind: "unix", path: "" }, { deadline: soon() }));
    };
    for (let i = 0; i < 4; i++) await dial();
    expect(group.exposure.members.map(({ inFlight }) => inFlight)).toEqual([2, 2]);
    for (const stream of streams) stream.abort(reset());
    await Promise.all(streams.map(({ closed }) => closed));
    expect(group.exposure.members.map(({ inFlight }) => inFlight)).toEqual([0, 0]);
  });

  test("that are not well get no visitors", async () => {
    using group = new Group(3);
    group.member(0).isHealthy = false;
    expect([...new Set(await group.tries(60))].toSorted()).toEqual(["b", "c"]);
    group.member(0).isHealthy = true;
    group.member(1).isHealthy = false;
    expect([...new Set(await group.tries(60))].toSorted()).toEqual(["a", "c"]);
  });

  test("begin as their agent says they are", () => {
    using group = new Group(1);
    const { agent } = group.agents[0]!;
    expect(new Member(agent, { ...WEB, healthy: false }).canServe).toBe(false);
    expect(new Member(agent, { ...WEB, healthy: true }).canServe).toBe(true);
    expect(new Member(agent, WEB).canServe).toBe(true);
  });

  test("that are about to end get no visitors", async () => {
    using group = new Group(3);
    await group.agents[1]!.goAway();
    expect([...new Set(await group.tries(60))].toSorted()).toEqual(["a", "c"]);
  });

  test("whose connection is lost get no visitors", async () => {
    using group = new Group(2);
    group.agents[0]!.session.abort(reset());
    await within(group.agents[0]!.line.session.closed, "the loss");
    expect([...new Set(await group.tries(20))]).toEqual(["b"]);
  });

  for (const [how, sentence] of [
    ["not well", "the service behind this site is not well"],
    ["about to end", "the agent that serves this site is not connected"],
  ] as const) {
    test(`are none when all are ${how}`, async () => {
      using group = new Group(2);
      for (const [index, agent] of group.agents.entries()) {
        if (how === "not well") group.member(index).isHealthy = false;
        else await agent.goAway();
      }
      const error = await failureOf(group.reach());
      expect([error.code, error.message]).toEqual(["site-away", sentence]);
      expect(group.agents.flatMap(({ asked }) => asked)).toEqual([]);
    });
  }

  test("take a further request on a connection as long as they can serve", async () => {
    using group = new Group(2);
    const { origin, by } = await group.reach();
    const member = group.exposure.members.find(({ agent }) => agent.name === by)!;
    expect(group.exposure.accepts(origin, visitor())).toBe(true);
    member.isHealthy = false;
    expect(group.exposure.accepts(origin, visitor())).toBe(false);
    member.isHealthy = true;
    group.exposure.members.splice(group.exposure.members.indexOf(member), 1);
    expect(group.exposure.accepts(origin, visitor())).toBe(false);
    // Whoever has left is not counted.
    expect(group.exposure.begin(origin).idle).toBeUndefined();
  });

  test("take no request on a connection of another exposure", async () => {
    using group = new Group(1);
    using others = new Group(1, {}, "http:other.localhost");
    expect(group.exposure.accepts((await others.reach()).origin, visitor())).toBe(false);
    expect(group.exposure.accepts("", visitor())).toBe(false);
  });

  test("have names for cookies that do not tell who they are", () => {
    using group = new Group(2);
    const ids = group.exposure.members.map(({ id }) => id);
    expect(ids[0]).not.toBe(ids[1]);
    for (const [index, id] of ids.entries()) {
      expect(id).toMatch(/^[0-9a-f]{16}$/);
      expect(group.agents[index]!.agent.key).not.toContain(id);
      expect(new Member(group.agents[index]!.agent, WEB).id).toBe(id);
    }
  });
});

describe("a sticky cookie", () => {
  test("leads back to the same member, however busy that is", async () => {
    using group = new Group(3, { sticky: "cookie" });
    const member = group.member(1);
    for (let i = 0; i < 5; i++) group.exposure.begin(`${group.exposure.id} ${member.id} `);
    expect([...new Set(await group.tries(20, { member: member.id }))]).toEqual(["b"]);
    expect(await group.tries(20)).not.toContain("b");
  });

  test("leads to another one while its member cannot serve, and back", async () => {
    using group = new Group(3, { sticky: "cookie" });
    const { id } = group.member(1);
    group.member(1).isHealthy = false;
    expect([...new Set(await group.tries(60, { member: id }))].toSorted()).toEqual(["a", "c"]);
    group.member(1).isHealthy = true;
    expect([...new Set(await group.tries(20, { member: id }))]).toEqual(["b"]);
  });

  test("leads to another one when its member refuses", async () => {
    using group = new Group(2, { sticky: "cookie" });
    group.agents[0]!.reply = refusedBy("connect-refused");
    expect((await group.reach({ member: group.member(0).id })).by).toBe("b");
    expect(group.agents[0]!.asked).toHaveLength(1);
  });

  test("of nobody who is here leads anywhere", async () => {
    using group = new Group(2, { sticky: "cookie" });
    for (const member of ["0123456789abcdef", "", "constructor"])
      expect([...new Set(await group.tries(60, { member }))].toSorted()).toEqual(["a", "b"]);
  });

  test("means nothing where the exposure has none", async () => {
    using group = new Group(2);
    expect([...new Set(await group.tries(60, { member: group.member(0).id }))].toSorted()).toEqual(["a", "b"]);
  });
});

describe("a sticky address", () => {
  const placesOf = async (group: Group) =>
    new Map(
      await Promise.all(ADDRESSES.map(async (address) => [address, (await group.reach({ address })).by] as const)),
    );

  test("leads to the same member each time, however busy that is, and addresses are spread", async () => {
    using group = new Group(3, { sticky: "address" });
    const places = await placesOf(group);
    expect([...new Set(places.values())].toSorted()).toEqual(["a", "b", "c"]);
    for (const { id } of group.exposure.members.slice(0, 2)) group.exposure.begin(`${group.exposure.id} ${id}`);
    expect(await placesOf(group)).toEqual(places);
  });

  test("does not depend on the port, or on the order in which members came", async () => {
    using group = new Group(3, { sticky: "address" });
    const places = await placesOf(group);
    group.exposure.members.reverse();
    for (const [address, by] of places) expect((await group.reach({ address, port: 7 })).by).toBe(by);
  });

  test("moves only when its member leaves, and comes back with it", async () => {
    using group = new Group(3, { sticky: "address" });
    const before = await placesOf(group);
    group.member(0).isHealthy = false;
    const meanwhile = await placesOf(group);
    for (const [address, by] of before) {
      if (by === "a") expect(["b", "c"]).toContain(meanwhile.get(address)!);
      else expect([address, meanwhile.get(address)]).toEqual([address, by]);
    }
    group.member(0).isHealthy = true;
    expect(await placesOf(group)).toEqual(before);
  });

  test("holds for connections, too", async () => {
    using group = new Group(3, { kind: "tcp", name: "db", port: 5432, sticky: "address" }, "tcp:5432");
    for (const address of ADDRESSES.slice(0, 10)) {
      const { by } = await group.reach({ address });
      const way = group.exposure.wayFor({ address, port: 1 });
      expect([address, way.agent]).toEqual([address, by]);
      const agent = group.agents.find(({ agent: { name } }) => name === by)!;
      const before = agent.streams.length;
      await way.dial({ kind: "unix", path: "" }, { deadline: soon() });
      expect(agent.streams.length).toBe(before + 1);
    }
  });
});

describe("a member that fails", () => {
  test("is followed by the next one, and nothing of a request was sent to it", async () => {
    using group = new Group(3);
    for (const agent of group.agents.slice(0, 2)) agent.reply = refusedBy("connect-refused");
    for (let i = 0; i < 20; i++) expect((await group.reach()).by).toBe("c");
    const refused = group.agents.slice(0, 2).flatMap(({ streams }) => streams);
    expect(refused.length).toBeGreaterThan(0);
    for (const stream of refused) expect(stream.text).toBe(`${stream.head}\r\n\r\n`);
  });

  test("is asked once, and no further one after it that agreed", async () => {
    using group = new Group(3, { sticky: "cookie" });
    group.agents[0]!.reply = refusedBy("connect-refused");
    const { by } = await group.reach({ member: group.member(0).id });
    const counts = group.agents.map(({ asked }) => asked.length);
    expect(counts).toEqual([1, by === "b" ? 1 : 0, by === "c" ? 1 : 0]);
  });

  test("does not get all the time while there is another one", async () => {
    using group = new Group(2, { sticky: "cookie" });
    let askedAt = 0;
    group.agents[0]!.reply = "silence";
    group.agents[1]!.reply = () => {
      askedAt = performance.now();
      return "agree";
    };
    const deadline = deadlineIn(400);
    const { member } = await group.exposure.reach(visitor({ member: group.member(0).id }), deadline);
    expect(member).toBe(group.member(1).id);
    expect(group.agents[0]!.asked).toHaveLength(1);
    expect(askedAt).toBeLessThan(deadline);
  });

  test("that is lost while it is asked is followed by the next one", async () => {
    using group = new Group(2, { sticky: "cookie" });
    group.agents[0]!.reply = "silence";
    const reached = group.reach({ member: group.member(0).id });
    await group.agents[0]!.stream();
    group.agents[0]!.session.abort(reset());
    expect((await reached).by).toBe("b");
  });

  test("is asked through a way, too, and followed by the next one", async () => {
    using group = new Group(2, { kind: "tcp", name: "db", port: 5432 }, "tcp:5432");
    group.agents[0]!.reply = refusedBy("connect-refused");
    for (let i = 0; i < 10; i++) {
      const way = group.exposure.wayFor({ address: "192.0.2.1", port: 1 });
      await way.dial({ kind: "unix", path: "" }, { deadline: soon() });
    }
    expect(group.exposure.members.map(({ inFlight }) => inFlight)).toEqual([0, 10]);
  });
});

describe("a visitor is told", () => {
  const table: [reply: ErrorCode, code: ErrorCode, sentence: string][] = [
    ["connect-refused", "connect-refused", "the service behind this site refuses connections: is it running?"],
    ["connect-timeout", "connect-timeout", "the service behind this site does not answer"],
    ["name-not-found", "name-not-found", "the service behind this site has a name that its agent cannot look up"],
    ["tls-failed", "tls-failed", "the service behind this site does not speak TLS as its agent expects"],
    ["tls-certificate", "tls-certificate", "the service behind this site has a certificate its agent does not trust"],
    ["connect-failed", "hop-refused", "the service behind this site cannot be reached"],
    ["target-denied", "hop-refused", "the service behind this site cannot be reached"],
    ["no-such-site", "hop-refused", "the service behind this site cannot be reached"],
    ["internal", "hop-refused", "the service behind this site cannot be reached"],
  ];
  for (const [reply, code, sentence] of table) {
    test(`of ${reply} at the agent without a name or an address, and the log is told with them`, async () => {
      using group = new Group(2);
      group.reply(refusedBy(reply));
      const error = await failureOf(group.reach());
      expect([error.code, error.message]).toEqual([code, sentence]);
      const shown = [error.message, ...error.hints].join();
      for (const secret of ["10.1.2.3", "5432", "db.lan", "agent.internal"]) expect(shown).not.toContain(secret);
      for (const detail of ["10.1.2.3:5432", "db.lan", "web.agent.internal"]) expect(error.forLog).toContain(detail);
    });
  }

  test("of an agent that does not answer", async () => {
    using group = new Group(1);
    group.reply("silence");
    const error = await failureOf(group.exposure.reach(visitor(), deadlineIn(5)));
    expect([error.code, error.message]).toEqual(["connect-timeout", "the agent that serves this site does not answer"]);
    expect(error.forLog).toContain("agent a ");
  });

  test("of an agent that is lost", async () => {
    using group = new Group(1);
    group.reply("silence");
    const failure = failureOf(group.reach());
    await group.agents[0]!.stream();
    group.agents[0]!.session.abort(reset());
    const error = await failure;
    expect([error.code, error.outcome.status, error.message]).toEqual([
      "site-away",
      503,
      "the agent that serves this site was lost",
    ]);
  });

  test("the same through a way", async () => {
    using group = new Group(1, { kind: "private", name: "db" }, "private:db");
    group.reply(refusedBy("connect-refused"));
    const way = group.exposure.wayFor({ address: "192.0.2.1", port: 1 });
    const error = await failureOf(way.dial({ kind: "unix", path: "" }, { deadline: soon() }));
    expect(error.message).toBe("the service behind this site refuses connections: is it running?");
  });

  // An agent names any error it likes, also one that every object has.
  for (const name of ["constructor", "__proto__"]) {
    test(`of an error that an agent calls ${name}, in words and with a status`, async () => {
      using group = new Group(1);
      group.reply("silence");
      const failure = failureOf(group.reach());
      const { stream } = await group.agents[0]!.stream();
      stream.write(Buffer.from(`HTTP/1.1 502 Bad\r\nProxy-Status: x; error=${name}\r\nContent-Length: 0\r\n\r\n`));
      const error = await failure;
      expect([error.code, error.outcome?.status]).toEqual(["hop-refused", 502]);
    });
  }
});

describe("a probe", () => {
  test("comes back through the agent that waits for it", async () => {
    using group = new Group(2);
    group.agents[0]!.reply = refusedBy("no-such-site");
    await group.exposure.probe("0123456789abcdef", soon());
    for (const { asked } of group.agents) expect(asked).toEqual(["CONNECT 0123456789abcdef.probe.agent.internal:1"]);
  });

  test("that nobody waits for fails", async () => {
    using group = new Group(2);
    group.reply(refusedBy("no-such-site"));
    const error = await failureOf(group.exposure.probe("0123456789abcdef", soon()));
    expect([error.code, error.message]).toEqual(["no-such-site", "no agent here waits for that probe"]);
  });

  test("also reaches an agent whose service is not well", async () => {
    using group = new Group(1);
    group.member(0).isHealthy = false;
    await group.exposure.probe("0123456789abcdef", soon());
  });
});

describe("an exposure", () => {
  test("welcomes visitors from its networks", () => {
    using group = new Group(1, { clients: ["10.0.0.0/8", "2001:db8::1"] });
    for (const [address, isWelcome] of [
      ["10.1.2.3", true],
      ["::ffff:10.1.2.3", true],
      ["2001:db8::1", true],
      ["11.0.0.1", false],
      ["2001:db8::2", false],
      ["", false],
      ["nobody", false],
    ] as const) {
      expect([address, group.exposure.welcomes(address)]).toEqual([address, isWelcome]);
    }
  });

  test("without networks welcomes everybody", () => {
    using group = new Group(1);
    for (const address of ["10.1.2.3", "2001:db8::1", ""]) expect(group.exposure.welcomes(address)).toBe(true);
  });

  test("has the policy that was registered", async () => {
    using group = new Group(1, {
      auth: ["alice:secret"],
      clients: ["10.0.0.0/8"],
      hostHeader: "localhost:3000",
      requestFields: [["X-A", "1"]],
      responseFields: [["X-B", null]],
      sticky: "cookie",
    });
    const { users, ...policy } = group.exposure.policy;
    expect(policy).toEqual({
      clients: [{ address: parseIp("10.0.0.0")!, bits: 8 }],
      hostHeader: "localhost:3000",
      requestFields: [{ name: "X-A", value: "1" }],
      responseFields: [{ name: "X-B", value: undefined }],
      sticky: "cookie",
    });
    expect(await users?.verify({ user: "alice", password: "secret" }, "192.0.2.1")).toBe(true);
  });

  test("asks for no password without users", () => {
    for (const auth of [undefined, []]) {
      using group = new Group(1, auth === undefined ? {} : { auth });
      expect(group.exposure.policy.users).toBeUndefined();
    }
  });

  test("is named in the log as whoever serves it knows it", () => {
    const target = (spec: ExposureSpec) => new Exposure("x", spec).target;
    expect(target({ kind: "tcp", name: "db", port: 5432 })).toEqual({
      ...{ kind: "tcp", host: "db.agent.internal", port: 5432 },
    });
    expect(target({ kind: "udp", name: "dns", port: 53 })).toEqual({
      ...{ kind: "udp", host: "dns.agent.internal", port: 53 },
    });
  });

  test("has terms of everything but its name and its health", () => {
    const terms = (changes: Partial<ExposureSpec>) => Exposure.terms({ ...WEB, ...changes });
    expect(terms({ name: "other", healthy: false })).toBe(terms({}));
    const others: Partial<ExposureSpec>[] = [
      ...[{ kind: "private" } as const, { host: "a.test" }, { port: 80 }, { auth: ["a:b"] }, { clients: ["10.0.0.1"] }],
      ...[{ hostHeader: "a" }, { requestFields: [["a", "b"]] as [string, string][] }, { sticky: "cookie" } as const],
      { responseFields: [["a", null]] },
    ];
    expect(new Set([{}, ...others].map(terms)).size).toBe(others.length + 1);
  });
});

describe("what agents are told of", () => {
  const entry = {
    ...({ kind: "request", client: { address: "192.0.2.1", port: 5000, exposed: true, isSecure: false } } as const),
    ...{ user: undefined, method: "GET", target: "/a?b", way: undefined, status: 200, up: 10, down: 20 },
    ...{ startedAt: performance.now() - 50, error: undefined },
  };

  function listening() {
    const [near, far] = memoryPair();
    const lines: string[] = [];
    const reader = new LineReader(
      (line) => void lines.push(line),
      () => {},
    );
    far.attach(reader);
    return { agent: new PlayedAgent("a", fullRights("test"), new EventWriter(near)), near, far, lines };
  }

  test("is each request that went to it", async () => {
    const { agent, near, far, lines } = listening();
    using _ = agent;
    const { way } = new Member(agent.agent, WEB);
    const error = new SeikanError("connect-refused", "for visitors", { forLog: "10.1.2.3 refused" });
    way.onAccess!(entry);
    way.onAccess!({ ...entry, status: 502, target: `/${"x".repeat(600)}`, error });
    near.end();
    far.end();
    await within(far.closed, "the end of the events");
    const [first, second] = lines.map(parseEvent);
    expect(first).toEqual({
      ...{ event: "request", exposure: "web", peer: "192.0.2.1:5000", method: "GET", target: "/a?b", status: 200 },
      ...{ up: 10, down: 20, ms: expect.any(Number) },
    } as never);
    expect(first!.ms).toBeGreaterThanOrEqual(50);
    expect(second).toMatchObject({ status: 502, why: "10.1.2.3 refused", target: `/${"x".repeat(499)}` });
  });

  test("is held for it no further than its stream takes it", async () => {
    const [near, far] = memoryPair({ window: 1000 });
    using agent = new PlayedAgent("a", fullRights("test"), new EventWriter(near));
    const { way } = new Member(agent.agent, WEB);
    for (let i = 0; i < 1000; i++) way.onAccess!(entry);
    const late = new Recorder(far);
    near.end();
    await late.end();
    // It hears of as many as went out at once, each of them whole.
    expect(late.length).toBeGreaterThan(1000);
    expect(late.length).toBeLessThan(2000);
    for (const line of late.text.trimEnd().split("\n")) expect(parseEvent(line).exposure).toBe("web");
  });

  test("is nothing where it does not listen", () => {
    using agent = new PlayedAgent("a");
    new Member(agent.agent, WEB).way.onAccess!(entry);
    expect(agent.streams).toEqual([]);
  });
});
