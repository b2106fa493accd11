import { afterEach, describe, expect, jest, test } from "bun:test";
import { bridge, startBridge, type BridgeLimits, type BridgeResult } from "../../src/core/bridge.ts";
import { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { memoryPair, type MemoryOptions } from "../../src/transports/memory.ts";
import { FakeDriver } from "../support/fake-driver.ts";
import { pattern, Recorder, reset, until, within, writeAll } from "../support/wait.ts";

const FOREVER: BridgeLimits = { lingerMs: 0, idleMs: 0 };

interface Joined {
  /** Bridged. */
  readonly inbound: ByteStream;
  readonly outbound: ByteStream;
  /** What the client and the target see. */
  readonly client: Recorder;
  readonly target: Recorder;
  readonly result: Promise<BridgeResult>;
  readonly isOver: () => boolean;
}

/** client <-> inbound =bridge= outbound <-> target */
function join(limits: BridgeLimits = FOREVER, options: MemoryOptions = {}, early = ""): Joined {
  const [near, inbound] = memoryPair(options);
  const [outbound, far] = memoryPair(options);
  if (early !== "") inbound.unread(Buffer.from(early));
  const client = new Recorder(near);
  const target = new Recorder(far);
  let over = false;
  const result = bridge(inbound, outbound, limits);
  void result.then(() => (over = true));
  return { inbound, outbound, client, target, result, isOver: () => over };
}

/** Lets microtasks run, with timers standing still. */
async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await Promise.resolve();
}

describe("a bridge", () => {
  test("carries bytes both ways and counts them", async () => {
    const { client, target, result } = join();
    client.stream.write(Buffer.from("question"));
    await target.received(8);
    target.stream.write(Buffer.from("the answer"));
    await client.received(10);
    client.stream.end();
    target.stream.end();
    expect(await result).toEqual({ up: 8, down: 10, error: undefined });
    expect([target.text, client.text]).toEqual(["question", "the answer"]);
  });

  test("passes a reply on after the client has finished", async () => {
    const { client, target, result } = join();
    client.stream.write(Buffer.from("question"));
    client.stream.end();
    await target.end();
    expect(target.text).toBe("question");
    expect(client.ended).toBe(false);
    target.stream.write(Buffer.from("a late answer"));
    target.stream.end();
    await client.end();
    expect(client.text).toBe("a late answer");
    expect(await result).toEqual({ up: 8, down: 13, error: undefined });
  });

  test("passes bytes on to the target after that has finished", async () => {
    const { client, target, result } = join();
    target.stream.write(Buffer.from("banner"));
    target.stream.end();
    await client.end();
    client.stream.write(Buffer.from("still talking"));
    client.stream.end();
    await target.end();
    expect([client.text, target.text]).toEqual(["banner", "still talking"]);
    expect(await result).toEqual({ up: 13, down: 6, error: undefined });
  });

  test("finishes when both sides end in the same tick", async () => {
    const { client, target, result } = join();
    client.stream.write(Buffer.from("a"));
    target.stream.write(Buffer.from("bc"));
    client.stream.end();
    target.stream.end();
    expect(await result).toEqual({ up: 1, down: 2, error: undefined });
    expect([target.text, client.text, target.ended, client.ended]).toEqual(["a", "bc", true, true]);
    expect([client.reason, target.reason]).toEqual([{ error: undefined }, { error: undefined }]);
  });

  test("finishes when nothing was ever said", async () => {
    const { client, target, result } = join();
    client.stream.end();
    target.stream.end();
    expect(await result).toEqual({ up: 0, down: 0, error: undefined });
  });

  test("delivers bytes that were held before it first, and once", async () => {
    const { client, target, result } = join(FOREVER, {}, "early ");
    client.stream.write(Buffer.from("late"));
    client.stream.end();
    await target.end();
    expect(target.text).toBe("early late");
    target.stream.end();
    expect((await result).up).toBe(10);
  });

  test("delivers bytes that arrived while the stream had no sink", async () => {
    const [near, inbound] = memoryPair();
    const [outbound, far] = memoryPair();
    near.write(Buffer.from("while "));
    far.write(Buffer.from("banner"));
    await settle();
    near.write(Buffer.from("dialing"));
    near.end();
    await settle();
    const target = new Recorder(far);
    const client = new Recorder(near);
    const result = bridge(inbound, outbound, FOREVER);
    await target.end();
    far.end();
    expect(await within(result, "the end of the bridge")).toEqual({ up: 13, down: 6, error: undefined });
    expect([target.text, client.text]).toEqual(["while dialing", "banner"]);
  });

  for (const [side, other] of [
    ["client", "target"],
    ["target", "client"],
  ] as const) {
    test(`aborts the ${other} with an error when the ${side} resets`, async () => {
      const joined = join();
      joined[side].stream.write(Buffer.from("part of it"));
      await joined[other].received(10);
      joined[side].stream.abort(reset());
      const reason = await joined[other].close();
      expect(reason.error?.code).toBe("peer-reset");
      expect(joined[other].ended).toBe(false);
      expect((await joined.result).error?.code).toBe("peer-reset");
    });

    test(`aborts the ${other} also when it had finished before the ${side} resets`, async () => {
      const joined = join();
      joined[other].stream.end();
      await joined[side].end();
      joined[side].stream.abort(reset());
      expect((await joined[other].close()).error?.code).toBe("peer-reset");
      expect((await joined.result).error?.code).toBe("peer-reset");
    });
  }

  test("aborts who sends to a side that closed cleanly, instead of losing bytes quietly", async () => {
    const [near, inbound] = memoryPair();
    const driver = new FakeDriver("target");
    const client = new Recorder(near);
    const result = bridge(inbound, driver.stream, FOREVER);
    near.write(Buffer.from("taken"));
    await until(() => driver.text === "taken", "the target has the first bytes");
    driver.lose();
    await client.end();
    near.write(Buffer.from("for nobody"));
    expect((await client.close()).error?.code).toBe("peer-reset");
    expect((await within(result, "the end of the bridge")).error?.code).toBe("peer-closed");
  });

  test("aborts who is paused for a side that closes with bytes queued", async () => {
    const [near, inbound] = memoryPair();
    const driver = new FakeDriver("target");
    driver.room = 3;
    const client = new Recorder(near);
    const result = bridge(inbound, driver.stream, FOREVER);
    near.write(Buffer.from("more than three"));
    await until(() => driver.text === "mor", "the target is full");
    driver.lose();
    expect((await client.close()).error?.code).toBe("peer-reset");
    expect((await within(result, "the end of the bridge")).error?.code).toBe("peer-closed");
  });

  test("finishes when a side was reset before, while it had no sink", async () => {
    const [near, inbound] = memoryPair();
    const [outbound, far] = memoryPair();
    const target = new Recorder(far);
    near.abort(reset());
    await settle();
    const result = bridge(inbound, outbound, FOREVER);
    expect((await within(result, "the end of the bridge", 500)).error?.code).toBe("peer-reset");
    expect((await target.close()).error?.code).toBe("peer-reset");
  });

  // `attach` on a closed stream never calls `onClose`, so the bridge and its other side live for ever.
  test("finishes when a side was closed before", async () => {
    const [, inbound] = memoryPair();
    const [outbound, far] = memoryPair();
    const target = new Recorder(far);
    inbound.abort(reset());
    const result = bridge(inbound, outbound, FOREVER);
    expect((await within(result, "the end of the bridge", 500)).error?.code).toBe("cancelled");
    expect((await target.close()).error?.code).toBe("peer-reset");
  });
});

describe("a bridge with a slow reader", () => {
  test("pauses the source, in bounded memory, and loses nothing", async () => {
    const window = 10_000;
    const { client, target, result } = join(FOREVER, { window, chunk: 4096 });
    target.stream.pause();
    const chunk = pattern(1000);
    let sent = 0;
    while (client.stream.write(chunk)) {
      sent += chunk.length;
      await settle();
      expect(sent).toBeLessThan(1000 * window);
    }
    sent += chunk.length;
    // Two windows, and one chunk on its way through the bridge and each stream.
    expect(sent).toBeLessThanOrEqual(2 * window + 5 * 4096);
    target.stream.resume();
    await client.drained();
    client.stream.end();
    await target.end();
    target.stream.end();
    expect(target.length).toBe(sent);
    expect((await result).up).toBe(sent);
  });

  test("keeps the other direction going", async () => {
    const { client, target } = join(FOREVER, { window: 1000 });
    target.stream.pause();
    client.stream.write(pattern(50_000));
    await settle();
    target.stream.write(Buffer.from("the other way"));
    await client.received(13);
    expect(client.text).toBe("the other way");
  });

  test("delivers an end behind everything that waited", async () => {
    const { client, target, result } = join(FOREVER, { window: 1000, chunk: 100 });
    target.stream.pause();
    const bytes = pattern(30_000, 3);
    client.stream.write(bytes);
    client.stream.end();
    await settle();
    expect(target.ended).toBe(false);
    target.stream.resume();
    await target.end();
    expect(target.bytes.equals(bytes)).toBe(true);
    target.stream.end();
    expect((await result).error).toBeUndefined();
  });

  test("carries two floods at once through small windows", async () => {
    const { client, target, result } = join(FOREVER, { window: 777, chunk: 100 });
    const up = Array.from({ length: 50 }, (_, i) => pattern(997, i + 1));
    const down = Array.from({ length: 50 }, (_, i) => pattern(1009, i + 99));
    await Promise.all([writeAll(client, up), writeAll(target, down)]);
    client.stream.end();
    target.stream.end();
    await Promise.all([client.end(), target.end()]);
    expect(target.bytes.equals(Buffer.concat(up))).toBe(true);
    expect(client.bytes.equals(Buffer.concat(down))).toBe(true);
    expect(await result).toEqual({ up: 50 * 997, down: 50 * 1009, error: undefined });
  });
});

describe("the time limits of a bridge", () => {
  afterEach(() => jest.useRealTimers());

  /** Moves the clock in steps of a second, and lets what that causes happen. */
  async function pass(seconds: number): Promise<void> {
    for (let i = 0; i < seconds; i++) {
      jest.advanceTimersByTime(1000);
      await settle();
    }
  }

  for (const side of ["client", "target"] as const) {
    test(`reap a half-open, silent tunnel whose ${side} has finished`, async () => {
      jest.useFakeTimers();
      const joined = join({ lingerMs: 10_000, idleMs: 0 });
      joined[side].stream.end();
      await settle();
      await pass(9);
      expect(joined.isOver()).toBe(false);
      await pass(2);
      expect(joined.isOver()).toBe(true);
      jest.useRealTimers();
      expect((await joined.result).error?.code).toBe("half-open-timeout");
      expect(joined.client.reason?.error?.code).toBe("peer-reset");
      expect(joined.target.reason?.error?.code).toBe("peer-reset");
    });
  }

  test("count a half-open tunnel's silence anew from each byte", async () => {
    jest.useFakeTimers();
    const { client, target, isOver } = join({ lingerMs: 10_000, idleMs: 0 });
    client.stream.end();
    await settle();
    for (let i = 0; i < 4; i++) {
      await pass(8);
      target.stream.write(Buffer.from("."));
      await settle();
    }
    expect([isOver(), client.text]).toEqual([false, "...."]);
    await pass(9);
    expect(isOver()).toBe(false);
    await pass(3);
    expect(isOver()).toBe(true);
  });

  test("leave a half-open tunnel alone when linger is 0", async () => {
    jest.useFakeTimers();
    const { client, isOver } = join({ lingerMs: 0, idleMs: 0 });
    client.stream.end();
    await settle();
    await pass(1000);
    expect(isOver()).toBe(false);
  });

  test("leave a fully open, silent tunnel alone without an idle timeout", async () => {
    jest.useFakeTimers();
    const { isOver } = join({ lingerMs: 5000, idleMs: 0 });
    await pass(1000);
    expect(isOver()).toBe(false);
  });

  test("reap a fully open, silent tunnel with one", async () => {
    jest.useFakeTimers();
    const { client, target, result, isOver } = join({ lingerMs: 1_000_000, idleMs: 20_000 });
    await pass(19);
    expect(isOver()).toBe(false);
    await pass(2);
    expect(isOver()).toBe(true);
    jest.useRealTimers();
    expect((await result).error?.code).toBe("idle-timeout");
    expect([client.reason?.error?.code, target.reason?.error?.code]).toEqual(["peer-reset", "peer-reset"]);
  });

  test("take bytes of either direction as a sign of life", async () => {
    jest.useFakeTimers();
    const { client, target, isOver } = join({ lingerMs: 0, idleMs: 10_000 });
    for (const from of [client, target, client, target]) {
      await pass(8);
      from.stream.write(Buffer.from("."));
      await settle();
    }
    expect(isOver()).toBe(false);
    await pass(12);
    expect(isOver()).toBe(true);
  });

  test("apply linger instead of idle once a side has finished", async () => {
    jest.useFakeTimers();
    const { client, result, isOver } = join({ lingerMs: 30_000, idleMs: 5000 });
    client.stream.end();
    await settle();
    await pass(25);
    expect(isOver()).toBe(false);
    await pass(7);
    jest.useRealTimers();
    expect((await result).error?.code).toBe("half-open-timeout");
  });

  test("leave no timer behind", async () => {
    jest.useFakeTimers();
    const { client, target, isOver } = join({ lingerMs: 10_000, idleMs: 10_000 });
    expect(jest.getTimerCount()).toBeGreaterThan(0);
    const sweeping = jest.getTimerCount();
    client.stream.end();
    target.stream.end();
    await settle();
    expect(isOver()).toBe(true);
    expect(jest.getTimerCount()).toBeLessThan(sweeping);
  });
});

test("a bridge keeps the first error", async () => {
  const { inbound, client, result } = join();
  inbound.abort(new SeikanError("shutdown", "draining"));
  expect((await result).error?.code).toBe("shutdown");
  expect((await client.close()).error?.code).toBe("peer-reset");
});

test("a bridge reports its end once, also when one side's reset ends the other", async () => {
  const [client, inbound] = memoryPair();
  const [outbound, origin] = memoryPair();
  let ends = 0;
  const ended = Promise.withResolvers<void>();
  startBridge(inbound, outbound, { lingerMs: 0, idleMs: 0 }, () => {
    ends++;
    ended.resolve();
  });
  const peer = new Recorder(origin);
  client.abort(reset());
  await ended.promise;
  await peer.close();
  expect(ends).toBe(1);
});
