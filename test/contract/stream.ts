import { describe, expect, test } from "bun:test";
import type { ByteStream } from "../../src/core/stream.ts";
import { pattern, Recorder, reset, until, writeAll } from "../support/wait.ts";

export interface StreamPair extends AsyncDisposable {
  readonly left: ByteStream;
  readonly right: ByteStream;
}

export interface StreamTraits {
  /** The peer of an aborted stream sees an error rather than an end. */
  readonly carriesReset?: boolean;
  /** Bytes the transport and the kernel may hold while the reader is stalled. */
  readonly stalledBytes?: number;
}

const MIB = 1024 * 1024;

/** What every transport's streams must do. `connect` makes a fresh joined pair. */
export function describeStreams(name: string, connect: () => Promise<StreamPair>, traits: StreamTraits = {}): void {
  const stalledBytes = traits.stalledBytes ?? 16 * MIB;
  describe(`${name} streams`, () => {
    test("deliver bytes in order, both ways", async () => {
      await using pair = await connect();
      const left = new Recorder(pair.left);
      const right = new Recorder(pair.right);
      for (let i = 0; i < 100; i++) {
        pair.left.write(Buffer.from(`left ${i};`));
        pair.right.write(Buffer.from(`right ${i};`));
      }
      pair.left.end();
      pair.right.end();
      await Promise.all([left.end(), right.end()]);
      expect(right.text).toBe(Array.from({ length: 100 }, (_, i) => `left ${i};`).join(""));
      expect(left.text).toBe(Array.from({ length: 100 }, (_, i) => `right ${i};`).join(""));
      expect(await left.close()).toEqual({ error: undefined });
      expect(await right.close()).toEqual({ error: undefined });
    });

    test("take a write larger than any buffer and drain once it is through", async () => {
      await using pair = await connect();
      const left = new Recorder(pair.left);
      const right = new Recorder(pair.right, false);
      pair.right.pause();
      const bytes = pattern(24 * MIB);
      expect(pair.left.write(bytes)).toBe(false);
      const drained = left.drained();
      pair.right.attach(right);
      pair.right.resume();
      await drained;
      await right.received(bytes.length);
      expect(right.bytes.equals(bytes)).toBe(true);
    });

    test("hold what arrives before there is a sink", async () => {
      await using pair = await connect();
      pair.left.write(Buffer.from("early"));
      pair.left.end();
      const echo = new Recorder(pair.left);
      pair.right.write(Buffer.from("seen"));
      await echo.received(4);
      const right = new Recorder(pair.right);
      await right.end();
      expect(right.text).toBe("early");
    });

    test("pass the end of one direction on and keep the other open", async () => {
      await using pair = await connect();
      const left = new Recorder(pair.left);
      const right = new Recorder(pair.right);
      pair.left.write(Buffer.from("question"));
      pair.left.end();
      await right.end();
      expect(right.text).toBe("question");
      pair.right.write(Buffer.from("a late answer"));
      pair.right.end();
      await left.end();
      expect(left.text).toBe("a late answer");
      expect((await left.close()).error).toBeUndefined();
      expect((await right.close()).error).toBeUndefined();
    });

    test("pass the end of the other direction on, too", async () => {
      await using pair = await connect();
      const left = new Recorder(pair.left);
      const right = new Recorder(pair.right);
      pair.right.end();
      await left.end();
      pair.left.write(Buffer.from("still here"));
      pair.left.end();
      await right.end();
      expect(right.text).toBe("still here");
    });

    test("end only after everything written", async () => {
      await using pair = await connect();
      const right = new Recorder(pair.right, false);
      pair.right.pause();
      const bytes = pattern(8 * MIB, 7);
      pair.left.write(bytes);
      pair.left.end();
      pair.left.end();
      pair.right.attach(right);
      pair.right.resume();
      await right.end();
      expect(right.bytes.equals(bytes)).toBe(true);
    });

    for (const side of ["left", "right"] as const) {
      test(`abort both directions at once from the ${side}, safe to repeat`, async () => {
        await using pair = await connect();
        const other = side === "left" ? "right" : "left";
        const mine = new Recorder(pair[side]);
        const theirs = new Recorder(pair[other]);
        pair[other].write(Buffer.from("x"));
        await mine.received(1);
        pair[side].abort(reset());
        pair[side].abort(reset());
        expect((await mine.close()).error?.code).toBe("cancelled");
        expect(pair[side].isClosed).toBe(true);
        expect(pair[side].write(Buffer.from("too late"))).toBe(false);
        const reason = await theirs.close();
        if (traits.carriesReset ?? true) expect(reason.error?.code).toBe("peer-reset");
        expect((await pair[side].closed).error?.code).toBe("cancelled");
      });
    }

    test("deliver unread bytes first, to the next sink", async () => {
      await using pair = await connect();
      const first = new Recorder(pair.right);
      pair.left.write(Buffer.from("head|body"));
      await first.received(9);
      pair.right.detach();
      pair.left.write(Buffer.from(" and more"));
      pair.right.unread(Buffer.from("body"));
      const second = new Recorder(pair.right);
      pair.left.end();
      await second.end();
      expect(second.text).toBe("body and more");
    });

    test("hand over to another sink inside onData without losing a byte", async () => {
      await using pair = await connect();
      const second = new Recorder(pair.right, false);
      const first = new Recorder(pair.right);
      first.onChunk = (chunk) => {
        pair.right.unread(chunk.subarray(1));
        pair.right.attach(second);
      };
      pair.left.write(Buffer.from("1rest"));
      pair.left.end();
      await second.end();
      expect(first.text[0]).toBe("1");
      expect(second.text).toBe("rest");
    });

    test("stop the sender while the reader is paused, in bounded memory", async () => {
      await using pair = await connect();
      const left = new Recorder(pair.left);
      const right = new Recorder(pair.right, false);
      pair.right.pause();
      const chunk = pattern(256 * 1024);
      let sent = 0;
      let blockedSince = performance.now();
      let waiting: Promise<void> | undefined;
      // Writes on until the transport has taken nothing for a while.
      await until(() => {
        if (waiting === undefined) {
          sent += chunk.length;
          blockedSince = performance.now();
          if (!pair.left.write(chunk)) waiting = left.drained().then(() => void (waiting = undefined));
        }
        return performance.now() - blockedSince > 200 || sent > 512 * MIB;
      }, "the sender is stopped");
      expect(sent).toBeLessThan(stalledBytes);
      pair.left.end();
      pair.right.attach(right);
      pair.right.resume();
      await right.received(sent);
      expect(right.length).toBe(sent);
    });

    test("carry 64 MiB intact", async () => {
      await using pair = await connect();
      const left = new Recorder(pair.left);
      const hash = new Bun.CryptoHasher("sha256");
      let length = 0;
      const done = Promise.withResolvers<void>();
      pair.right.attach({
        onData: (bytes) => void (hash.update(bytes), (length += bytes.length)),
        onEnd: () => done.resolve(),
        onDrain: () => {},
        onClose: () => {},
      });
      const chunk = pattern(512 * 1024 + 3, 42);
      const expected = new Bun.CryptoHasher("sha256");
      const chunks = Array.from({ length: 128 }, () => chunk);
      for (const one of chunks) expected.update(one);
      await writeAll(left, chunks);
      pair.left.end();
      await done.promise;
      expect(length).toBe(chunk.length * 128);
      expect(hash.digest("hex")).toBe(expected.digest("hex"));
    });
  });
}
