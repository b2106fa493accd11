import { describe, expect, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import type { CloseReason, Sink } from "../../src/core/stream.ts";
import { FakeDriver } from "../support/fake-driver.ts";
import { Recorder, reset } from "../support/wait.ts";

const lost = () => new SeikanError("peer-reset", "lost");

/** A sink of single functions; what is left out does nothing. */
function sink(parts: Partial<Sink>): Sink {
  return { onData() {}, onEnd() {}, onDrain() {}, onClose() {}, ...parts };
}

describe("a stream that is written to", () => {
  test("hands bytes to its driver at once while that takes them", () => {
    const driver = new FakeDriver();
    expect(driver.stream.write(Buffer.from("one"))).toBe(true);
    expect(driver.stream.write(Buffer.from("two"))).toBe(true);
    expect(driver.text).toBe("onetwo");
  });

  test("queues what the driver did not take and drains once all of it is through", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.room = 4;
    expect(driver.stream.write(Buffer.from("abcdef"))).toBe(false);
    expect(driver.stream.write(Buffer.from("ghi"))).toBe(false);
    expect(driver.text).toBe("abcd");
    driver.drain(1);
    expect(driver.text).toBe("abcde");
    driver.drain(3);
    expect(driver.text).toBe("abcdefgh");
    expect(recorder.drains).toBe(0);
    driver.drain(1);
    expect(driver.text).toBe("abcdefghi");
    expect(recorder.drains).toBe(1);
    driver.drain();
    expect(recorder.drains).toBe(1);
    expect(driver.stream.write(Buffer.from("j"))).toBe(true);
  });

  test("keeps its bytes while the driver takes none", () => {
    const driver = new FakeDriver();
    driver.room = 0;
    expect(driver.stream.write(Buffer.from("abc"))).toBe(false);
    driver.drain(0);
    driver.drain(0);
    expect(driver.text).toBe("");
    driver.drain();
    expect(driver.text).toBe("abc");
  });

  test("tells no drain nobody waits for", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.stream.write(Buffer.from("abc"));
    driver.drain();
    driver.drain();
    expect(recorder.drains).toBe(0);
  });

  test("takes a write from inside onDrain", () => {
    const driver = new FakeDriver();
    let drains = 0;
    driver.stream.attach(sink({ onDrain: () => void (drains++ === 0 && driver.stream.write(Buffer.from("more"))) }));
    driver.room = 0;
    driver.stream.write(Buffer.from("first "));
    driver.drain(8);
    expect(driver.text).toBe("first mo");
    driver.drain();
    expect([driver.text, drains]).toEqual(["first more", 2]);
  });

  // `drained` writes the same chunk again when it is called from inside `driver.write`, then shifts what is gone.
  test("writes each byte once though the driver reports a drain from inside a write", () => {
    const driver = new FakeDriver();
    driver.room = 0;
    driver.stream.write(Buffer.from("ab"));
    driver.stream.write(Buffer.from("cd"));
    let reports = 0;
    driver.onWrite = () => void (reports++ === 0 && driver.stream.drained());
    driver.drain();
    expect(driver.text).toBe("abcd");
  });

  // `drained` uses `#outgoing` after `driver.write` without looking whether it still exists.
  test("survives a driver that is lost from inside a queued write", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.room = 0;
    driver.stream.write(Buffer.from("ab"));
    driver.onWrite = () => driver.lose(lost());
    driver.drain();
    expect(recorder.reason?.error?.code).toBe("peer-reset");
  });

  test("takes an empty write without asking the driver", () => {
    const driver = new FakeDriver();
    driver.room = 0;
    expect(driver.stream.write(new Uint8Array(0))).toBe(true);
    driver.stream.write(Buffer.from("x"));
    expect(driver.stream.write(new Uint8Array(0))).toBe(false);
  });

  test("ignores what is written after end", () => {
    const driver = new FakeDriver();
    driver.stream.write(Buffer.from("all"));
    driver.stream.end();
    expect(driver.stream.write(Buffer.from("late"))).toBe(false);
    driver.drain();
    expect(driver.text).toBe("all");
    expect(driver.calls).toEqual(["shutdown"]);
  });

  test("shuts down only when the queue is through", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.room = 1;
    driver.stream.write(Buffer.from("abc"));
    driver.stream.end();
    driver.stream.end();
    driver.drain(1);
    expect(driver.calls).toEqual([]);
    driver.drain(1);
    driver.drain();
    expect(driver.calls).toEqual(["shutdown"]);
    expect(driver.text).toBe("abc");
    expect(recorder.drains).toBe(0);
  });

  test("says what it lost when the transport closes cleanly with bytes still queued", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.room = 1;
    driver.stream.write(Buffer.from("abc"));
    driver.lose();
    expect(recorder.reason?.error?.code).toBe("peer-closed");
  });

  test("takes nothing more once the transport is gone", () => {
    const driver = new FakeDriver();
    void new Recorder(driver.stream);
    driver.lose();
    expect(driver.stream.write(Buffer.from("x"))).toBe(false);
    driver.stream.end();
    expect([driver.text, driver.calls]).toEqual(["", []]);
  });
});

describe("a stream that receives", () => {
  test("delivers what it held in order when a sink comes, and then reads on", () => {
    const driver = new FakeDriver();
    driver.send("a");
    driver.send("b");
    expect(driver.reading).toBe(false);
    const recorder = new Recorder(driver.stream);
    driver.send("c");
    expect(recorder.text).toBe("abc");
    expect(driver.calls).toEqual(["stop", "read"]);
  });

  test("tells the driver only when something changes", () => {
    const driver = new FakeDriver();
    void new Recorder(driver.stream);
    driver.stream.pause();
    driver.stream.pause();
    driver.stream.resume();
    driver.stream.resume();
    expect(driver.calls).toEqual(["stop", "read"]);
  });

  test("holds what a driver delivers while paused", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.stream.pause();
    driver.send("a");
    driver.finish();
    expect([recorder.text, recorder.ended]).toEqual(["", false]);
    driver.stream.resume();
    expect([recorder.text, recorder.ended]).toEqual(["a", true]);
  });

  test("stops in the middle of held bytes when the sink pauses", () => {
    const driver = new FakeDriver();
    for (const text of ["a", "b", "c"]) driver.send(text);
    driver.finish();
    const recorder = new Recorder(driver.stream, false);
    recorder.onChunk = () => driver.stream.pause();
    driver.stream.attach(recorder);
    expect(recorder.text).toBe("a");
    driver.stream.resume();
    expect(recorder.text).toBe("ab");
    driver.stream.resume();
    expect([recorder.text, recorder.ended]).toEqual(["abc", false]);
    driver.stream.resume();
    expect(recorder.ended).toBe(true);
  });

  test("goes on when the sink pauses and resumes inside onData", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    recorder.onChunk = () => (driver.stream.pause(), driver.stream.resume());
    driver.send("a");
    driver.send("b");
    expect([recorder.text, driver.reading]).toEqual(["ab", true]);
  });

  test("keeps the order when the driver delivers from inside onData", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    recorder.onChunk = (chunk) => {
      if (chunk[0] === 49) for (const text of ["2", "3"]) driver.send(text);
      expect(recorder.chunks.length).toBe(recorder.length);
    };
    driver.send("1");
    driver.send("4");
    expect(recorder.text).toBe("1234");
  });

  test("ends behind the bytes when the driver ends from inside onData", () => {
    const driver = new FakeDriver();
    const seen: string[] = [];
    driver.stream.attach(
      sink({
        onData: (chunk) => {
          if (chunk[0] === 97) {
            driver.send("b");
            driver.finish();
          }
          seen.push(Buffer.from(chunk).toString());
        },
        onEnd: () => void seen.push("end"),
      }),
    );
    driver.send("a");
    expect(seen).toEqual(["a", "b", "end"]);
  });

  test("hands the rest over when the sink attaches another one inside onData", () => {
    const driver = new FakeDriver();
    for (const text of ["a", "b", "c"]) driver.send(text);
    const second = new Recorder(driver.stream, false);
    const first = new Recorder(driver.stream, false);
    first.onChunk = () => driver.stream.attach(second);
    driver.stream.attach(first);
    driver.send("d");
    expect([first.text, second.text]).toEqual(["a", "bcd"]);
  });

  test("holds the rest when the sink detaches inside onData", () => {
    const driver = new FakeDriver();
    const first = new Recorder(driver.stream);
    first.onChunk = () => driver.stream.detach();
    driver.send("a");
    driver.send("b");
    driver.finish();
    const second = new Recorder(driver.stream);
    expect([first.text, first.ended, second.text, second.ended]).toEqual(["a", false, "b", true]);
  });

  test("delivers bytes that were put back in the order they were put", () => {
    const driver = new FakeDriver();
    driver.send("d");
    driver.stream.unread(Buffer.from("c"));
    driver.stream.unread(Buffer.from("ab"));
    driver.stream.unread(new Uint8Array(0));
    expect(new Recorder(driver.stream).text).toBe("abcd");
  });

  test("holds bytes exactly while some wait for a sink", () => {
    const driver = new FakeDriver();
    expect(driver.stream.holdsBytes).toBe(false);
    driver.send("a");
    expect(driver.stream.holdsBytes).toBe(true);
    void new Recorder(driver.stream);
    expect(driver.stream.holdsBytes).toBe(false);
  });

  test("takes an end only once, and no bytes behind it", () => {
    const driver = new FakeDriver();
    let ends = 0;
    const recorder = new Recorder(driver.stream, false);
    driver.stream.attach(sink({ onData: (chunk) => recorder.onData(chunk), onEnd: () => void ends++ }));
    driver.finish();
    driver.finish();
    driver.send("late");
    expect([ends, recorder.text]).toEqual([1, ""]);
  });

  test("keeps bytes and end for a paused sink when the transport closes cleanly", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.stream.pause();
    driver.send("rest");
    driver.lose();
    expect(recorder.reason).toBeUndefined();
    driver.stream.resume();
    expect([recorder.text, recorder.ended, recorder.reason]).toEqual(["rest", true, { error: undefined }]);
  });

  test("drops what a paused sink had not taken when an error ends the stream", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.stream.pause();
    driver.send("rest");
    driver.lose(lost());
    expect([recorder.text, recorder.ended, recorder.reason?.error?.code]).toEqual(["", false, "peer-reset"]);
    driver.stream.resume();
    expect(recorder.text).toBe("");
  });

  test("delivers what it held before an error to the first sink", () => {
    const driver = new FakeDriver();
    driver.send("rest");
    driver.lose(lost());
    const recorder = new Recorder(driver.stream);
    expect([recorder.text, recorder.ended, recorder.reason?.error?.code]).toEqual(["rest", false, "peer-reset"]);
  });
});

describe("a stream that ends", () => {
  test("closes when both directions are over, in either order", async () => {
    for (const order of [
      ["end", "finish"],
      ["finish", "end"],
    ] as const) {
      const driver = new FakeDriver();
      const recorder = new Recorder(driver.stream);
      for (const step of order) {
        expect(driver.stream.isClosed).toBe(false);
        if (step === "end") driver.stream.end();
        else driver.finish();
      }
      // Only the driver knows when everything written is out of its hands.
      expect(driver.stream.isClosed).toBe(false);
      driver.lose();
      expect([driver.stream.isClosed, recorder.reason]).toEqual([true, { error: undefined }]);
      expect(await driver.stream.closed).toEqual({ error: undefined });
    }
  });

  test("closes when the sink ends it inside onEnd", () => {
    const driver = new FakeDriver();
    const seen: string[] = [];
    driver.stream.attach(
      sink({ onEnd: () => (seen.push("end"), driver.stream.end()), onClose: () => void seen.push("close") }),
    );
    driver.finish();
    driver.lose();
    expect([seen, driver.calls]).toEqual([["end", "close"], ["shutdown"]]);
  });

  test("can be aborted inside onData: nothing follows", () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    recorder.onChunk = () => driver.stream.abort(reset());
    driver.send("a");
    driver.send("b");
    driver.finish();
    driver.lose();
    expect([recorder.text, recorder.ended, recorder.reason?.error?.code]).toEqual(["a", false, "cancelled"]);
    expect(driver.calls).toEqual(["destroy"]);
  });

  test("can be aborted inside onData of held bytes", () => {
    const driver = new FakeDriver();
    for (const text of ["a", "b"]) driver.send(text);
    driver.finish();
    const recorder = new Recorder(driver.stream, false);
    recorder.onChunk = () => driver.stream.abort(reset());
    driver.stream.attach(recorder);
    expect([recorder.text, recorder.ended, recorder.reason?.error?.code]).toEqual(["a", false, "cancelled"]);
  });

  test("can be aborted inside onEnd and inside onDrain", () => {
    for (const when of ["onEnd", "onDrain"] as const) {
      const driver = new FakeDriver();
      const closes: CloseReason[] = [];
      driver.stream.attach(
        sink({ [when]: () => driver.stream.abort(reset()), onClose: (reason) => void closes.push(reason) }),
      );
      if (when === "onEnd") driver.finish();
      driver.room = 0;
      driver.stream.write(Buffer.from("x"));
      driver.drain();
      expect(closes.map((reason) => reason.error?.code)).toEqual(["cancelled"]);
    }
  });

  test("says that it is closed, and refuses writes, inside onClose", () => {
    const driver = new FakeDriver();
    const seen: unknown[] = [];
    driver.stream.attach(
      sink({ onClose: () => void seen.push(driver.stream.isClosed, driver.stream.write(Buffer.from("x"))) }),
    );
    driver.lose(lost());
    expect(seen).toEqual([true, false]);
  });

  test("keeps the first reason", async () => {
    const driver = new FakeDriver();
    const recorder = new Recorder(driver.stream);
    driver.lose(lost());
    driver.stream.abort(reset());
    driver.lose();
    expect(recorder.reason?.error?.code).toBe("peer-reset");
    expect((await driver.stream.closed).error?.code).toBe("peer-reset");
    expect(driver.calls).toEqual([]);
  });

  test("drops queued bytes when it is aborted", () => {
    const driver = new FakeDriver();
    driver.room = 0;
    driver.stream.write(Buffer.from("abc"));
    driver.stream.abort(reset());
    driver.drain();
    expect([driver.text, driver.calls]).toEqual(["", ["destroy"]]);
  });

  test("resolves closed for who asks before and after", async () => {
    const driver = new FakeDriver();
    const before = driver.stream.closed;
    driver.stream.abort(reset());
    expect((await before).error?.code).toBe("cancelled");
    expect((await driver.stream.closed).error?.code).toBe("cancelled");
  });

  // `attach` on a closed stream never calls `onClose`: whoever waits for it waits for ever.
  test("tells a sink that comes after the close", () => {
    const driver = new FakeDriver();
    driver.stream.abort(reset());
    const recorder = new Recorder(driver.stream);
    expect(recorder.reason?.error?.code).toBe("cancelled");
  });
});
