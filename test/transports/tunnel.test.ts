import { afterEach, beforeEach, describe, expect, jest, spyOn, test } from "bun:test";
import { deadlineIn } from "../../src/core/clock.ts";
import { SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { MuxSession } from "../../src/transports/mux.ts";
import type { DialOptions } from "../../src/transports/transport.ts";
import { Tunnel, type TunnelEvent } from "../../src/transports/tunnel.ts";
import { Recorder, reset } from "../support/wait.ts";

// Everything here runs on memory and on a clock that the test moves: nothing waits for real.
beforeEach(() => void jest.useFakeTimers());
afterEach(() => {
  jest.useRealTimers();
  jest.restoreAllMocks();
});

/** Lets everything happen that needs no time. */
async function settle(): Promise<void> {
  for (let i = 0; i < 200; i++) await Promise.resolve();
}

async function pass(ms: number): Promise<void> {
  jest.advanceTimersByTime(ms);
  await settle();
}

/** One attempt to connect, which the test answers. */
class Attempt {
  readonly key: string;
  readonly options: DialOptions;
  readonly at = performance.now();
  readonly #onGoAway: () => void;
  readonly #result = Promise.withResolvers<MuxSession>();
  /** What the far end accepted. */
  readonly accepted: ByteStream[] = [];
  server: MuxSession | undefined;

  constructor(key: string, onGoAway: () => void, options: DialOptions) {
    this.key = key;
    this.options = options;
    this.#onGoAway = onGoAway;
  }

  get result(): Promise<MuxSession> {
    return this.#result.promise;
  }

  async succeed(): Promise<this> {
    const [near, far] = memoryPair();
    const accept = (stream: ByteStream) => void this.accepted.push(stream);
    this.server = new MuxSession(far, { role: "server", peer: "the client", accept });
    this.#result.resolve(new MuxSession(near, { role: "client", peer: "the tunnel", onGoAway: this.#onGoAway }));
    await settle();
    return this;
  }

  async fail(code: ErrorCode, message = `attempt: ${code}`): Promise<void> {
    this.#result.reject(new SeikanError(code, message));
    await settle();
  }

  /** The connection breaks. */
  async cut(): Promise<void> {
    this.server!.abort(reset());
    await settle();
  }
}

interface Setup {
  readonly tunnel: Tunnel;
  readonly attempts: Attempt[];
  readonly events: TunnelEvent[];
  /** `up`, `lost peer-reset`, `failed hop-closed 100`. */
  readonly told: () => string[];
}

function setUp({ connections = 1, connectMs = 10_000 } = {}): Setup {
  const attempts: Attempt[] = [];
  const events: TunnelEvent[] = [];
  const tunnel = new Tunnel({
    name: "wss://tunnel.test",
    connections,
    connectMs,
    connect(key, onGoAway, options) {
      const attempt = new Attempt(key, onGoAway, options);
      attempts.push(attempt);
      return attempt.result;
    },
    report: (event) => void events.push(event),
  });
  const told = () =>
    events.map((event) => {
      const error = "error" in event ? (event.error?.code ?? "ended") : "";
      const again = event.kind === "failed" ? event.againMs : "";
      return `${event.kind} ${error} ${again}`.trim();
    });
  return { tunnel, attempts, events, told };
}

/** What became of a promise by now. */
class Opening {
  stream: ByteStream | undefined;
  error: SeikanError | undefined;

  constructor(tunnel: Tunnel, deadlineMs = 10_000) {
    tunnel.open({ deadline: deadlineIn(deadlineMs) }).then(
      (stream) => (this.stream = stream),
      (error: SeikanError) => (this.error = error),
    );
  }

  get state(): string {
    return this.stream !== undefined ? "open" : (this.error?.code ?? "waiting");
  }
}

const say = (stream: ByteStream, text: string) => stream.write(Buffer.from(text));

describe("a tunnel", () => {
  test("makes one connection for many that open streams at once", async () => {
    const { tunnel, attempts, told } = setUp();
    const openings = Array.from({ length: 20 }, () => new Opening(tunnel));
    await settle();
    expect(attempts).toHaveLength(1);
    expect(openings.map(({ state }) => state)).toEqual(Array(20).fill("waiting"));
    await attempts[0]!.succeed();
    expect(openings.map(({ state }) => state)).toEqual(Array(20).fill("open"));
    openings.forEach(({ stream }, i) => say(stream!, `number ${i}`));
    await settle();
    expect(attempts).toHaveLength(1);
    const texts = attempts[0]!.accepted.map((stream) => new Recorder(stream));
    await settle();
    expect(texts.map(({ text }) => text)).toEqual(openings.map((_, i) => `number ${i}`));
    expect(tunnel.sessions.map(({ size }) => size)).toEqual([20]);
    expect(told()).toEqual(["up"]);
  });

  test("opens streams on a connection that is up without another one, and without waiting", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    const opening = new Opening(tunnel);
    await settle();
    expect([opening.state, attempts.length]).toEqual(["open", 1]);
  });

  test("says how long the connection took", async () => {
    const { tunnel, attempts, events } = setUp();
    tunnel.keep();
    await settle();
    jest.advanceTimersByTime(70);
    await attempts[0]!.succeed();
    expect(events).toEqual([{ kind: "up", ms: 70 }]);
  });
});

describe("a tunnel that is not kept", () => {
  test("connects for the first stream only", async () => {
    const { attempts } = setUp();
    await pass(60_000);
    expect(attempts).toHaveLength(0);
  });

  test("gives the attempt's error to all that wait for it, at once", async () => {
    for (const code of ["connect-refused", "hop-auth", "tls-certificate", "internal"] as const) {
      const { tunnel, attempts, told } = setUp();
      const openings = [new Opening(tunnel), new Opening(tunnel)];
      await settle();
      const before = performance.now();
      await attempts[0]!.fail(code, "the reason");
      expect(openings.map(({ state, error }) => `${state}: ${error?.message}`)).toEqual(
        Array(2).fill(`${code}: the reason`),
      );
      expect(performance.now()).toBe(before);
      // Nobody is interested any more.
      await pass(60_000);
      expect([attempts.length, told()]).toEqual([1, []]);
    }
  });

  test("tries anew for the next stream, with the deadline of that one", async () => {
    const { tunnel, attempts } = setUp();
    const first = new Opening(tunnel);
    await settle();
    await attempts[0]!.fail("connect-refused");
    const deadline = performance.now() + 1234;
    const second = tunnel.open({ deadline });
    await settle();
    expect(attempts).toHaveLength(2);
    expect(attempts[1]!.options.deadline).toBe(deadline);
    await attempts[1]!.succeed();
    expect((await second).label).toContain("stream 1");
    expect(first.state).toBe("connect-refused");
  });

  test("hands on who wants to hear of each step", async () => {
    const { tunnel, attempts } = setUp();
    const trace = () => {};
    tunnel.open({ deadline: deadlineIn(1000), trace }).catch(() => {});
    await settle();
    expect(attempts[0]!.options.trace).toBe(trace);
  });

  test("is not connected again when it is lost, until somebody wants a stream", async () => {
    const { tunnel, attempts, told } = setUp();
    const first = new Opening(tunnel);
    await settle();
    await attempts[0]!.succeed();
    const recorder = new Recorder(first.stream!);
    await attempts[0]!.cut();
    await pass(60_000);
    expect([attempts.length, told()]).toEqual([1, ["up", "lost peer-reset"]]);
    expect(recorder.reason?.error?.code).toBe("tunnel-lost");
    const second = new Opening(tunnel);
    await pass(100);
    await attempts[1]!.succeed();
    expect(second.state).toBe("open");
  });
});

describe("a tunnel that is kept", () => {
  test("connects at once, with the time for one attempt", async () => {
    const { tunnel, attempts } = setUp({ connectMs: 3000 });
    tunnel.keep();
    await settle();
    expect(attempts).toHaveLength(1);
    expect(attempts[0]!.options.deadline).toBe(performance.now() + 3000);
    tunnel.keep();
    await settle();
    expect(attempts).toHaveLength(1);
  });

  test("lets streams wait through failures, and gives them to a later success", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    const early = new Opening(tunnel);
    await attempts[0]!.fail("connect-refused");
    const later = new Opening(tunnel);
    await pass(100);
    await attempts[1]!.fail("name-not-found");
    await pass(200);
    expect([early.state, later.state, attempts.length]).toEqual(["waiting", "waiting", 3]);
    await attempts[2]!.succeed();
    expect([early.state, later.state]).toEqual(["open", "open"]);
    expect(told()).toEqual(["failed connect-refused 100", "failed name-not-found 200", "up"]);
  });

  test("tells a stream that gives up why the last attempt failed", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    await settle();
    const opening = new Opening(tunnel, 1000);
    await attempts[0]!.fail("connect-refused", "the first reason");
    await pass(100);
    await attempts[1]!.fail("tls-failed", "the last reason");
    await pass(200);
    // The third attempt hangs.
    expect(attempts).toHaveLength(3);
    await pass(699);
    expect(opening.state).toBe("waiting");
    await pass(60);
    expect([opening.state, opening.error?.message]).toEqual(["tls-failed", "the last reason"]);
  });

  test("waits a little for an attempt that fails just then, whose reason says more", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    await settle();
    const opening = new Opening(tunnel, 500);
    await pass(510);
    expect(opening.state).toBe("waiting");
    await attempts[0]!.fail("connect-timeout", "no answer from tunnel.test:443 within the connect timeout");
    await pass(50);
    expect(opening.error?.message).toBe("no answer from tunnel.test:443 within the connect timeout");
  });

  test("names itself to a stream that gives up before any attempt came to an end", async () => {
    const { tunnel } = setUp();
    tunnel.keep();
    const opening = new Opening(tunnel, 500);
    await pass(560);
    expect([opening.state, opening.error?.outcome.exit]).toEqual(["connect-timeout", 124]);
    expect(opening.error?.message).toContain("wss://tunnel.test");
  });

  test("goes on with its attempt when the stream that waits gives up", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    const impatient = new Opening(tunnel, 500);
    const patient = new Opening(tunnel, 5000);
    await pass(1000);
    expect([impatient.state, patient.state]).toEqual(["connect-timeout", "waiting"]);
    await attempts[0]!.succeed();
    expect([patient.state, attempts.length]).toEqual(["open", 1]);
  });
});

describe("a kept tunnel that is lost", () => {
  test("says so, cuts its streams at once and connects again with the same key", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    const opening = new Opening(tunnel);
    await settle();
    const recorder = new Recorder(opening.stream!);
    say(opening.stream!, "hello");
    await settle();
    await attempts[0]!.cut();
    expect(recorder.reason?.error?.code).toBe("tunnel-lost");
    expect(recorder.ended).toBe(false);
    expect(told()).toEqual(["up", "lost peer-reset"]);
    expect(tunnel.sessions).toEqual([]);

    const waiting = new Opening(tunnel);
    await pass(100);
    await attempts[1]!.succeed();
    expect([waiting.state, attempts.length]).toEqual(["open", 2]);
    expect(attempts[1]!.key).toBe(attempts[0]!.key);
    expect(attempts[0]!.key).toMatch(/^[A-Za-z0-9_-]{16,64}$/);
    expect(told()).toEqual(["up", "lost peer-reset", "up"]);
  });

  test("is lost as well when the far end just closes it", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    attempts[0]!.server!.leave();
    await settle();
    await pass(100);
    expect(attempts).toHaveLength(2);
    await attempts[1]!.succeed();
    expect(told().at(-1)).toBe("up");
  });

  test("is tried again after pauses that double from 100 ms and end at 30 s", async () => {
    spyOn(Math, "random").mockReturnValue(1 - 2 ** -53);
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    await attempts[0]!.cut();
    const pauses: number[] = [];
    for (let i = 1; i <= 12; i++) {
      const before = performance.now();
      while (attempts.length === i) await pass(50);
      pauses.push(performance.now() - before);
      await attempts[i]!.fail("connect-refused");
    }
    expect(pauses).toEqual([100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
    const failed = (ms: number) => `failed connect-refused ${ms}`;
    const announced = [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000, 30_000];
    expect(told()).toEqual(["up", "lost peer-reset", ...announced.map(failed)]);
  });

  for (const [random, share] of [
    [0, 0.5],
    [0.5, 0.75],
    [1 - 2 ** -53, 1],
  ] as const) {
    test(`waits ${share} of each pause where chance says ${random}`, async () => {
      spyOn(Math, "random").mockReturnValue(random);
      const { tunnel, attempts } = setUp();
      tunnel.keep();
      await settle();
      for (const pause of [100, 200, 400, 800]) {
        const number = attempts.length;
        await attempts.at(-1)!.fail("connect-refused");
        await pass(Math.ceil(pause * share) - 1);
        expect(attempts).toHaveLength(number);
        await pass(1);
        expect(attempts).toHaveLength(number + 1);
      }
    });
  }

  test("waits between half a pause and a whole one, not always the same", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    await settle();
    const shares: number[] = [];
    for (let i = 0; i < 40; i++) {
      await attempts[i]!.fail("connect-refused");
      const pause = Math.min(100 * 2 ** i, 30_000);
      await pass(pause / 2 - 1);
      expect(attempts).toHaveLength(i + 1);
      await pass(pause / 2 + 1);
      expect(attempts).toHaveLength(i + 2);
      shares.push((attempts[i + 1]!.at - attempts[i]!.at) / pause);
    }
    expect(new Set(shares.map((share) => share.toFixed(2))).size).toBeGreaterThan(1);
  });

  test("starts with a short pause again once a connection lived five seconds", async () => {
    spyOn(Math, "random").mockReturnValue(1 - 2 ** -53);
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    for (const pause of [100, 200, 400, 800]) {
      await attempts.at(-1)!.fail("connect-refused");
      await pass(pause);
    }
    await attempts[4]!.succeed();
    await pass(5000);
    await attempts[4]!.cut();
    await pass(100);
    expect(attempts).toHaveLength(6);
    await attempts[5]!.fail("connect-refused");
    expect(told().at(-1)).toBe("failed connect-refused 200");
  });

  test("keeps its long pause when the connection lived less", async () => {
    spyOn(Math, "random").mockReturnValue(1 - 2 ** -53);
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    await settle();
    for (const pause of [100, 200, 400, 800]) {
      await attempts.at(-1)!.fail("connect-refused");
      await pass(pause);
    }
    await attempts[4]!.succeed();
    await pass(4900);
    await attempts[4]!.cut();
    await pass(799);
    expect(attempts).toHaveLength(5);
    await pass(10_000);
    expect(attempts).toHaveLength(6);
  });

  test("is called less and less often when each connection is lost as soon as it is made", async () => {
    spyOn(Math, "random").mockReturnValue(1 - 2 ** -53);
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    await settle();
    for (let passed = 0; passed < 60_000; passed += 100) {
      const last = attempts.at(-1)!;
      if (last.server === undefined) await last.succeed();
      if (!last.server!.isClosed) await last.cut();
      await pass(100);
    }
    // 0.1 + 0.2 + … + 25.6 s make 51.1 s: ten attempts or eleven.
    expect(attempts.length).toBeLessThan(20);
  });
});

describe("a kept tunnel that is refused", () => {
  for (const code of ["hop-auth", "auth-required", "auth-throttled"] as const) {
    test(`before it was ever up (${code}) says so, tells whoever waits, and is not tried again`, async () => {
      const { tunnel, attempts, told } = setUp();
      tunnel.keep();
      const openings = [new Opening(tunnel), new Opening(tunnel)];
      await settle();
      await attempts[0]!.fail(code, "wrong user or password");
      expect(openings.map(({ state }) => state)).toEqual([code, code]);
      expect(openings[0]!.error?.message).toBe("wrong user or password");
      await pass(600_000);
      expect([attempts.length, told()]).toEqual([1, [`refused ${code}`]]);
    });
  }

  test("before it was ever up, after other failures, is not tried again either", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    const opening = new Opening(tunnel);
    await settle();
    await attempts[0]!.fail("connect-refused");
    await pass(100);
    await attempts[1]!.fail("hop-auth");
    await pass(600_000);
    expect([opening.state, attempts.length]).toEqual(["hop-auth", 2]);
    expect(told()).toEqual(["failed connect-refused 100", "refused hop-auth"]);
  });

  test("tells later streams the same, by asking once more", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.fail("hop-auth");
    const later = new Opening(tunnel);
    await settle();
    expect(attempts).toHaveLength(2);
    await attempts[1]!.fail("hop-auth", "still");
    await pass(600_000);
    expect([later.state, later.error?.message, attempts.length]).toEqual(["hop-auth", "still", 2]);
  });

  test("after it had been up is tried on", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    await attempts[0]!.cut();
    await pass(100);
    const opening = new Opening(tunnel);
    await attempts[1]!.fail("hop-auth");
    await pass(200);
    await attempts[2]!.fail("hop-auth");
    await pass(400);
    expect([opening.state, attempts.length]).toEqual(["waiting", 4]);
    await attempts[3]!.succeed();
    expect(opening.state).toBe("open");
    expect(told()).toEqual(["up", "lost peer-reset", "failed hop-auth 200", "failed hop-auth 400", "up"]);
  });
});

describe("a tunnel whose far end goes away", () => {
  test("opens new streams on a new connection while the old ones go on to their end", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    const old = new Opening(tunnel);
    await settle();
    const near = new Recorder(old.stream!);
    say(old.stream!, "before");
    await settle();
    const far = new Recorder(attempts[0]!.accepted[0]!);
    attempts[0]!.server!.goAway();
    await settle();
    const opening = new Opening(tunnel);
    await settle();
    expect(opening.state).toBe("waiting");

    await pass(100);
    await attempts[1]!.succeed();
    expect([opening.state, attempts.length]).toEqual(["open", 2]);
    say(opening.stream!, "new");
    say(old.stream!, ", after");
    say(far.stream, "answer");
    far.stream.end();
    await settle();
    expect([far.text, near.text, near.ended]).toEqual(["before, after", "answer", true]);
    expect([attempts[0]!.accepted.length, attempts[1]!.accepted.length]).toEqual([1, 1]);

    old.stream!.end();
    await settle();
    expect([near.reason, far.reason]).toEqual([{ error: undefined }, { error: undefined }] as never);
    expect(attempts[0]!.server!.isClosed).toBe(true);
    // The old connection's end is no loss.
    await pass(60_000);
    expect(told()).toEqual(["up", "away", "up"]);
    expect([opening.stream!.isClosed, attempts.length]).toEqual([false, 2]);
  });

  test("connects anew for the next stream only when it is not kept", async () => {
    const { tunnel, attempts, told } = setUp();
    const first = new Opening(tunnel);
    await settle();
    await attempts[0]!.succeed();
    attempts[0]!.server!.goAway();
    await pass(60_000);
    expect(attempts).toHaveLength(1);
    const second = new Opening(tunnel);
    await pass(100);
    await attempts[1]!.succeed();
    expect([first.state, second.state, told()]).toEqual(["open", "open", ["up", "away", "up"]]);
  });
});

describe("a tunnel of several connections", () => {
  async function three(): Promise<Setup> {
    const setup = setUp({ connections: 3 });
    setup.tunnel.keep();
    await settle();
    for (const attempt of setup.attempts) await attempt.succeed();
    return setup;
  }

  const open = async (tunnel: Tunnel) => {
    const opening = new Opening(tunnel);
    await settle();
    return opening.stream!;
  };
  const sizes = ({ tunnel }: Setup) => tunnel.sessions.map(({ size }) => size);

  test("makes them all, each with its own key", async () => {
    const { attempts, tunnel, told } = await three();
    expect(attempts).toHaveLength(3);
    expect(new Set(attempts.map(({ key }) => key)).size).toBe(3);
    expect(tunnel.sessions).toHaveLength(3);
    expect(told()).toEqual(["up", "up", "up"]);
  });

  test("opens each stream on the one with the fewest", async () => {
    const setup = await three();
    const streams = [];
    for (let i = 0; i < 7; i++) streams.push(await open(setup.tunnel));
    expect(sizes(setup)).toEqual([3, 2, 2]);
    // Two of the second connection's end, so it is the next one twice.
    streams[1]!.abort(reset());
    streams[4]!.abort(reset());
    await settle();
    expect(sizes(setup)).toEqual([3, 0, 2]);
    await open(setup.tunnel);
    await open(setup.tunnel);
    expect(sizes(setup)).toEqual([3, 2, 2]);
  });

  test("uses those that are up while another one is down, however busy they are", async () => {
    const setup = await three();
    for (let i = 0; i < 9; i++) await open(setup.tunnel);
    await setup.attempts[1]!.cut();
    expect(sizes(setup)).toEqual([3, 3]);
    for (let i = 0; i < 4; i++) await open(setup.tunnel);
    expect(sizes(setup)).toEqual([5, 5]);
    await pass(100);
    expect(setup.attempts).toHaveLength(4);
    expect(setup.attempts[3]!.key).toBe(setup.attempts[1]!.key);
    await setup.attempts[3]!.succeed();
    await open(setup.tunnel);
    expect(sizes(setup)).toEqual([5, 1, 5]);
  });

  test("spreads those who wait while all are down", async () => {
    const { tunnel, attempts } = setUp({ connections: 3 });
    tunnel.keep();
    const openings = Array.from({ length: 6 }, () => new Opening(tunnel));
    await settle();
    expect(attempts).toHaveLength(3);
    for (const attempt of attempts) await attempt.succeed();
    expect(openings.map(({ state }) => state)).toEqual(Array(6).fill("open"));
    expect(tunnel.sessions.map(({ size }) => size)).toEqual([2, 2, 2]);
  });

  test("loses the streams of one when that one is lost, and no others", async () => {
    const setup = await three();
    const recorders = [];
    for (let i = 0; i < 3; i++) recorders.push(new Recorder(await open(setup.tunnel)));
    await setup.attempts[1]!.cut();
    expect(recorders.map(({ reason }) => reason?.error?.code)).toEqual([undefined, "tunnel-lost", undefined]);
  });
});

describe("closing a tunnel", () => {
  test("that is connected says goodbye, cuts its streams, and nothing is made anew", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    const opening = new Opening(tunnel);
    await settle();
    say(opening.stream!, "hello");
    await settle();
    const near = new Recorder(opening.stream!);
    const far = new Recorder(attempts[0]!.accepted[0]!);
    tunnel.close();
    await pass(60_000);
    expect(attempts[0]!.server!.isClosed).toBe(true);
    expect([near, far].map(({ reason }) => reason?.error?.code)).toEqual(["tunnel-lost", "tunnel-lost"]);
    expect([near.ended, far.ended]).toEqual([false, false]);
    expect([attempts.length, told()]).toEqual([1, ["up"]]);
  });

  test("that has no streams ends its connection cleanly", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    await attempts[0]!.succeed();
    tunnel.close();
    await settle();
    expect((await attempts[0]!.server!.closed).error).toBeUndefined();
    expect(told()).toEqual(["up"]);
  });

  test("during a pause ends the pause: whoever waits hears it at once", async () => {
    const { tunnel, attempts, told } = setUp();
    tunnel.keep();
    await settle();
    for (let i = 0; i < 8; i++) {
      await attempts.at(-1)!.fail("connect-refused");
      await pass(100 * 2 ** i);
    }
    await attempts.at(-1)!.fail("connect-refused");
    const opening = new Opening(tunnel, 60_000);
    await settle();
    const [number, events] = [attempts.length, told().length];
    tunnel.close();
    await settle();
    expect([opening.state, opening.error?.message]).toEqual(["cancelled", "the tunnel wss://tunnel.test is closed"]);
    await pass(600_000);
    expect([attempts.length, told().length]).toEqual([number, events]);
  });

  test("during an attempt gives the connection back when it comes after all", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    const opening = new Opening(tunnel);
    await settle();
    tunnel.close();
    await attempts[0]!.succeed();
    await pass(60_000);
    expect(attempts[0]!.server!.isClosed).toBe(true);
    expect([opening.state, attempts.length]).toEqual(["cancelled", 1]);
  });

  test("during an attempt that fails makes no other", async () => {
    const { tunnel, attempts } = setUp();
    tunnel.keep();
    const opening = new Opening(tunnel);
    await settle();
    tunnel.close();
    await attempts[0]!.fail("connect-refused");
    await pass(60_000);
    expect(opening.error).toBeDefined();
    expect(attempts).toHaveLength(1);
  });

  test("leaves nothing to open", async () => {
    const { tunnel, attempts } = setUp({ connections: 2 });
    tunnel.close();
    const opening = new Opening(tunnel);
    await settle();
    expect([opening.state, attempts.length]).toEqual(["cancelled", 0]);
    tunnel.close();
  });
});
