import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { eventsOf, exposing, happens, startAgent } from "../support/agents.ts";
import { CountingService, HUNDRED, Load, TWENTY, type Mix, type Tally } from "../support/load.ts";
import { TempFolder } from "../support/process.ts";
import { dialRaw, type RawSocket } from "../support/raw.ts";
import { Relay } from "../support/relay.ts";
import { runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { until, within } from "../support/wait.ts";

setDefaultTimeout(120_000);

/**
 * What happens to a hundred visitors when something between them and the
 * service fails: each of them is told, none asks twice without knowing it,
 * and the same URL works again.
 */

const QUIET = ["--access-log", "off", "--allow-bind", "20000-60000"];
const COUNT = Object.values(HUNDRED).reduce((sum, count) => sum + count, 0);
/** Nothing was lost, hung, mixed up or delivered twice. */
const SOUND = { lost: [], hung: [], wrong: [], duplicated: [] } satisfies Partial<Tally>;

const hostOf = (url: string) => new URL(url).host;
const portOf = (url: string) => Number(new URL(url).port);
const serve = (port: number, args: readonly string[] = []) =>
  startSeikan(["serve", "-l", `127.0.0.1:${port}`, ...QUIET, ...args]);

interface SceneOptions {
  /** The agent has a port, too. */
  readonly hasPort?: boolean;
  readonly serve?: readonly string[];
  readonly agent?: readonly string[];
}

/** A server with two agents: things happen to one of them, and the other one shows that nobody else is concerned. */
class Scene implements AsyncDisposable {
  readonly #owned = new AsyncDisposableStack();
  readonly service: CountingService;
  readonly relay: Relay;
  readonly #options: SceneOptions;
  readonly #otherService: CountingService;
  server!: Running;
  agent!: Running;
  other!: Running;
  load!: Load;
  otherLoad!: Load;
  /** A visitor of a port of the agent. */
  raw!: RawSocket;

  private constructor(service: CountingService, otherService: CountingService, server: Running, options: SceneOptions) {
    this.service = this.#owned.use(service);
    this.#otherService = this.#owned.use(otherService);
    this.server = server;
    this.relay = this.#owned.use(new Relay(server.port));
    this.#options = options;
  }

  /** Resolves once all visitors are under way. */
  static async start(options: SceneOptions = {}): Promise<Scene> {
    const server = await serve(0, options.serve);
    const scene = new Scene(await CountingService.start(), await CountingService.start(), server, options);
    try {
      await scene.startAgent();
      scene.other = await startAgent(server, "--name", "other", ...exposing({ other: scene.#otherService.url }));
      await scene.#visit();
      return scene;
    } catch (error) {
      await scene[Symbol.asyncDispose]();
      throw error;
    }
  }

  get hasPort(): boolean {
    return this.#options.hasPort ?? true;
  }

  /** The agent, anew. Its connections go through the relay. */
  async startAgent(): Promise<void> {
    const former = this.agent?.urls;
    const port = former?.[1] === undefined ? 0 : portOf(former[1]);
    const specs = exposing({ web: this.service.url });
    if (this.hasPort) specs.push("-e", `tcp:${port}=127.0.0.1:${this.service.port}`);
    this.agent = await startAgent(this.relay, "--name", "agent", ...specs, ...(this.#options.agent ?? []));
    if (former !== undefined) expect(this.agent.urls).toEqual(former);
  }

  async #visit(): Promise<void> {
    const { port } = this.server;
    this.load = new Load("load", HUNDRED, this.service, { port, host: hostOf(this.agent.urls[0]!) });
    this.otherLoad = new Load("other", TWENTY, this.#otherService, { port, host: hostOf(this.other.urls[0]!) });
    if (this.hasPort) this.raw = await this.visitPort();
    await Promise.all([this.load.works(0), this.otherLoad.works(0)]);
    expect(this.load.inFlight).toBeGreaterThan(0.95 * COUNT);
  }

  /** A connection to the agent's port that has had an answer. */
  async visitPort(): Promise<RawSocket> {
    const socket = await dialRaw(portOf(this.agent.urls[1]!));
    const id = `raw-${crypto.randomUUID()}`;
    socket.send(`GET /get/${id} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await socket.sees(id);
    return socket;
  }

  /** The other agent's visitors are served, a while long and as if nothing was. */
  async othersGoOn(): Promise<void> {
    const before = this.otherLoad.tally.answered;
    await this.otherLoad.works(performance.now());
    await until(() => this.otherLoad.tally.answered > before + 100, "the other agent's visitors are served");
  }

  /** Everything is as before, at the same place. */
  async isWellAgain(): Promise<void> {
    await this.load.works(performance.now());
    if (this.hasPort) (await this.visitPort())[Symbol.dispose]();
  }

  /** A new server where the former one was. */
  async startServer(): Promise<void> {
    const { port } = this.server;
    let again: Running | undefined;
    const failures: unknown[] = [];
    while (again === undefined && failures.length < 50)
      again = await serve(port, this.#options.serve).catch((error) => void failures.push(error));
    if (again === undefined) throw failures.at(-1);
    this.#owned.use(this.server);
    this.server = again;
  }

  /** Ends all visits and counts. Unless they are concerned, too, nothing at all happened to the other agent's visitors. */
  async finish(concerned: "one" | "both" = "one"): Promise<void> {
    const others = await this.otherLoad.finish();
    expect(others).toMatchObject(concerned === "both" ? SOUND : { ...SOUND, refused: 0, reset: 0 });
    expect(await this.load.finish()).toMatchObject(SOUND);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.raw?.[Symbol.dispose]();
    for (const one of [this.load, this.otherLoad, this.agent, this.other, this.server])
      await one?.[Symbol.asyncDispose]();
    await this.#owned.disposeAsync();
  }
}

/** Whoever waits for a long answer, or sends a long request, hears that it came to nothing. */
async function isTold(underWay: Load["underWay"], ms: number): Promise<void> {
  const { held } = await within(underWay, "everybody is told", ms);
  expect(held.filter((outcome) => !/^(?:reset|50[234])$/.test(outcome))).toEqual([]);
}

describe("an agent that", () => {
  test("is killed: everybody is told at once, and a new one takes its place", async () => {
    await using scene = await Scene.start();
    const { load, agent } = scene;
    const told = load.underWay;
    agent.kill("SIGKILL");
    load.isCut();
    await isTold(told, 5000);
    await scene.raw.receivesReset(1000);
    await scene.othersGoOn();
    await scene.startAgent();
    await scene.isWellAgain();
    await scene.finish();
  });

  test("is asked to end: what is under way is finished, and a new one takes its place", async () => {
    await using scene = await Scene.start();
    const { load, agent } = scene;
    scene.raw.end();
    await scene.raw.receivesEnd();
    const finished = load.underWay;
    agent.kill("SIGTERM");
    await until(() => load.refusals[503] !== undefined, "new visitors are turned away");
    await scene.othersGoOn();
    load.release();
    const { quick, held } = await within(finished, "everything is finished", 20_000);
    expect(held).toEqual(["200"]);
    // A request may cross the agent's goodbye.
    expect(quick.filter((outcome) => !/^(?:200|50[23])$/.test(outcome))).toEqual([]);
    expect(await within(agent.exited, "the end of the agent")).toBe(0);
    await scene.startAgent();
    await scene.isWellAgain();
    await scene.finish();
    expect(load.tally.reset).toBe(0);
    expect(Object.keys(load.refusals).filter((status) => status !== "502" && status !== "503")).toEqual([]);
  });

  test("is frozen for a moment: nobody notices", async () => {
    await using scene = await Scene.start();
    const { load, agent } = scene;
    agent.kill("SIGSTOP");
    await scene.othersGoOn();
    agent.kill("SIGCONT");
    await scene.isWellAgain();
    await scene.finish();
    expect(load.tally).toMatchObject({ refused: 0, reset: 0 });
    expect(eventsOf(agent, "disconnected")).toEqual([]);
  });

  test("is frozen: a new one of the same name need not wait for that to be noticed", async () => {
    await using scene = await Scene.start();
    const { load, agent } = scene;
    await using frozen = agent;
    const told = load.underWay;
    agent.kill("SIGSTOP");
    load.isCut();
    await scene.startAgent();
    await isTold(told, 10_000);
    await scene.isWellAgain();
    // The former one comes back and finds its place taken.
    frozen.kill("SIGCONT");
    await happens(frozen, "connect-failed");
    await scene.othersGoOn();
    await scene.isWellAgain();
    await scene.finish();
    expect(eventsOf(scene.agent, "disconnected")).toEqual([]);
  });
});

describe("a line between agent and server that", () => {
  for (const how of ["reset", "end"] as const) {
    test(`is cut (${how}): everybody is told at once, and the agent comes back`, async () => {
      await using scene = await Scene.start();
      const { load, agent, relay } = scene;
      const told = load.underWay;
      relay.cut(how);
      load.isCut();
      await isTold(told, 5000);
      await scene.raw.receivesReset(1000);
      expect((await happens(agent, "reconnected")).urls).toEqual([...agent.urls]);
      await scene.isWellAgain();
      await scene.othersGoOn();
      await scene.finish();
      expect(eventsOf(agent, "disconnected").length).toBe(1);
    });
  }

  test("is silent for a moment: nobody notices", async () => {
    await using scene = await Scene.start();
    scene.relay.silence();
    await scene.othersGoOn();
    scene.relay.restore();
    await scene.isWellAgain();
    await scene.finish();
    expect(scene.load.tally).toMatchObject({ refused: 0, reset: 0 });
    expect(eventsOf(scene.agent, "disconnected")).toEqual([]);
  });
});

describe("a server that", () => {
  test("is killed: both agents come back to a new one", async () => {
    await using scene = await Scene.start();
    const { load, otherLoad, server, agent, other } = scene;
    const told = Promise.all([load.underWay, otherLoad.underWay]);
    load.isServerGoing = otherLoad.isServerGoing = true;
    server.kill("SIGKILL");
    load.isCut();
    otherLoad.isCut();
    await within(told, "everybody sees the end of it", 5000);
    await scene.raw.over(1000);
    await scene.startServer();
    load.isServerGoing = otherLoad.isServerGoing = false;
    for (const one of [agent, other])
      expect((await happens(one, "reconnected", 1, 20_000)).urls).toEqual([...one.urls]);
    await scene.isWellAgain();
    await otherLoad.works(performance.now());
    await scene.finish("both");
  });

  /** A new server starts where one ends that still has visitors. */
  async function isReplaced(scene: Scene): Promise<void> {
    const { load, otherLoad, server } = scene;
    const finished = Promise.all([load.underWay, otherLoad.underWay]);
    load.isServerGoing = otherLoad.isServerGoing = true;
    server.kill("SIGTERM");
    await scene.startServer();
    const isThere = (name: string) => scene.server.stderr().includes(`agent ${name} connected`);
    await until(() => isThere("agent") && isThere("other"), "both agents are at the new server");
    load.release();
    otherLoad.release();
    for (const { held } of await within(finished, "everything is finished", 20_000)) expect(held).toEqual(["200"]);
    expect(await within(server.exited, "the end of the former server")).toBe(0);
    load.isServerGoing = otherLoad.isServerGoing = false;
    await scene.isWellAgain();
    await scene.finish("both");
  }

  test("is asked to end while a new one starts: what is under way is finished", async () => {
    await using scene = await Scene.start({ hasPort: false });
    await isReplaced(scene);
  });

  // The former server still has visitors when the agent wants its port at the new one.
  test("is asked to end while a new one starts: the port of an agent moves, too", async () => {
    await using scene = await Scene.start();
    scene.raw.end();
    await scene.raw.receivesEnd();
    await isReplaced(scene);
  });

  test("was replaced, and is lost then: the agent says so, and gives up when it shall", async () => {
    using service = await CountingService.start();
    await using former = await serve(0);
    await using agent = await startAgent(former, ...exposing({ web: service.url }), "--max-retries", "3");
    former.kill("SIGTERM");
    expect(await former.exited).toBe(0);
    await using server = await serve(former.port);
    await until(() => server.stderr().split(" connected ").length === 3, "both connections are there again");
    server.kill("SIGKILL");
    await happens(agent, "disconnected", 1, 5000);
    expect(await within(agent.exited, "the agent gives up", 20_000)).toBe(1);
  });
});

test("a local service that ends: everybody is told at once, and served again once it is back", async () => {
  await using scene = await Scene.start();
  const { load, agent, service } = scene;
  const told = load.underWay;
  service.stop();
  load.isCut();
  // Whoever reads slowly hears of it behind what the service had sent.
  await isTold(told, 30_000);
  await until(() => load.refusals[502] !== undefined, "new visitors are told that it is not there");
  await scene.othersGoOn();
  await service.listen();
  await scene.isWellAgain();
  await scene.finish();
  expect(eventsOf(agent, "disconnected")).toEqual([]);
});

// --- groups ---------------------------------------------------------------------------------

/** Two agents with the same name that lead to the same service. */
class Group implements AsyncDisposable {
  readonly #owned: AsyncDisposableStack;
  readonly agents: readonly [Running, Running];
  readonly #visit: (mix: Mix) => Load;

  private constructor(agents: readonly [Running, Running], visit: (mix: Mix) => Load, owned: AsyncDisposableStack) {
    this.agents = agents;
    this.#visit = visit;
    this.#owned = owned;
  }

  static async start(): Promise<Group> {
    await using owned = new AsyncDisposableStack();
    const folder = owned.use(new TempFolder());
    const { token, hash } = JSON.parse((await runSeikan(["token", "--json"])).stdout) as Record<string, string>;
    writeFileSync(folder.file("tokens.toml"), `[token.group]\nhash = "${hash}"\nhosts = ["web"]\nshare = true\n`);
    const service = owned.use(await CountingService.start());
    const server = owned.use(await serve(0, ["--tokens", folder.file("tokens.toml")]));
    const member = async () =>
      owned.use(await startAgent(server, "--name", "group", "--token", token!, ...exposing({ web: service.url })));
    const agents = [await member(), await member()] as const;
    const to = { port: server.port, host: hostOf(agents[0].urls[0]!) };
    return new Group(agents, (mix) => new Load("load", mix, service, to), owned.move());
  }

  visitors(mix: Mix): Load {
    return this.#owned.use(this.#visit(mix));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#owned.disposeAsync();
  }
}

test("one of two agents that is killed: whoever was with it is told, and nobody else notices", async () => {
  await using group = await Group.start();
  const load = group.visitors(HUNDRED);
  await load.works(0);
  const [agent] = group.agents;
  agent.kill("SIGKILL");
  await agent.exited;
  await load.works(performance.now());
  const { refused, reset } = load.tally;
  expect(refused + reset).toBeWithin(1, COUNT);
  const before = load.tally.answered;
  await until(() => load.tally.answered > before + 300, "visitors are served");
  expect(await load.finish()).toMatchObject({ ...SOUND, refused, reset });
});

test("one of two agents that is frozen: not all visitors wait for it", async () => {
  await using group = await Group.start();
  const [agent] = group.agents;
  agent.kill("SIGSTOP");
  const load = group.visitors({ get: 20 });
  await until(() => load.tally.answered > 200, "the others are served", 4500);
});

// These wait for time-outs, side by side.
describe("what takes a while to notice:", () => {
  test.concurrent(
    "an agent that is frozen: everybody is told within 30 s, and it comes back once it thaws",
    async () => {
      await using scene = await Scene.start();
      const { load, agent } = scene;
      const told = load.underWay;
      agent.kill("SIGSTOP");
      load.isCut();
      await scene.othersGoOn();
      await isTold(told, 30_000);
      await scene.raw.receivesReset(5000);
      await scene.othersGoOn();
      agent.kill("SIGCONT");
      expect((await happens(agent, "reconnected")).urls).toEqual([...agent.urls]);
      await scene.isWellAgain();
      await scene.finish();
    },
  );

  test.concurrent(
    "a line that stays silent: the agent comes back another way, and takes its own place over",
    async () => {
      // The server would notice after 25 s.
      await using scene = await Scene.start({ agent: ["--ping-interval", "2s"] });
      const { load, agent, relay } = scene;
      const told = load.underWay;
      relay.silence();
      load.isCut();
      await scene.othersGoOn();
      expect((await happens(agent, "reconnected", 1, 20_000)).urls).toEqual([...agent.urls]);
      await isTold(told, 5000);
      await scene.raw.receivesReset(5000);
      await scene.isWellAgain();
      await scene.finish();
    },
  );

  test.concurrent(
    "one of two agents that is frozen: what was not sent to the service yet takes the other way, once",
    async () => {
      await using group = await Group.start();
      const [agent] = group.agents;
      agent.kill("SIGSTOP");
      // Some ask the frozen one first, and half of the time to connect is its.
      const load = group.visitors(HUNDRED);
      await load.works(0);
      expect(load.slowestMs).toBeGreaterThan(4900);
      agent.kill("SIGCONT");
      await load.works(performance.now());
      expect(await load.finish()).toMatchObject({ ...SOUND, refused: 0, reset: 0 });
    },
  );
});
