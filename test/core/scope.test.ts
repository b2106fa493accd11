import { afterEach, describe, expect, jest, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import { LiveSet, Scope } from "../../src/core/scope.ts";
import { until } from "../support/wait.ts";

describe("a scope", () => {
  test("releases last what it owned first, one after the other", async () => {
    const steps: string[] = [];
    {
      await using scope = new Scope();
      scope.own(() => steps.push("first"));
      scope.own(async () => {
        steps.push("second begins");
        await Promise.resolve();
        steps.push("second ends");
      });
      scope.own(() => steps.push("third"));
    }
    expect(steps).toEqual(["third", "second begins", "second ends", "first"]);
  });

  test("releases everything also when a release throws, and throws the first failure", async () => {
    const steps: string[] = [];
    const scope = new Scope();
    scope.own(() => steps.push("a"));
    scope.own(() => {
      throw new Error("b");
    });
    scope.own(() => Promise.reject(new Error("c")));
    scope.own(() => steps.push("d"));
    expect(await scope.close().catch((error: Error) => error.message)).toBe("c");
    expect(steps).toEqual(["d", "a"]);
  });

  test("releases each thing once", async () => {
    let released = 0;
    const scope = new Scope();
    scope.own(() => released++);
    await Promise.all([scope.close(), scope.close()]);
    await scope.close();
    expect(released).toBe(1);
  });

  test("releases what was owned during a release", async () => {
    const steps: string[] = [];
    const scope = new Scope();
    scope.own(() => scope.own(() => steps.push("late")));
    await scope.close();
    expect(steps).toEqual(["late"]);
  });
});

/** Leaves the set when it is aborted, as connections do. */
class Member {
  reason: SeikanError | undefined;
  drained = 0;
  readonly #set: LiveSet;
  readonly #idle: boolean;

  constructor(set: LiveSet, idle = false) {
    this.#set = set;
    this.#idle = idle;
    set.add(this);
  }

  abort(reason: SeikanError): void {
    this.reason = reason;
    this.#set.delete(this);
  }

  drain(): void {
    this.drained++;
    if (this.#idle) this.#set.delete(this);
  }
}

describe("a live set", () => {
  afterEach(() => jest.useRealTimers());

  test("drains at once when nothing is alive", async () => {
    await new LiveSet().drain(0);
  });

  test("asks each member to drain and waits for the last", async () => {
    const set = new LiveSet();
    const idle = new Member(set, true);
    const [first, second] = [new Member(set), new Member(set)];
    let drained = false;
    void set.drain(1_000_000).then(() => (drained = true));
    expect([idle.drained, first.drained, second.drained, set.size]).toEqual([1, 1, 1, 2]);
    set.delete(first);
    await Promise.resolve();
    expect(drained).toBe(false);
    set.delete(second);
    await until(() => drained, "the set is empty");
    expect([first.reason, second.reason]).toEqual([undefined, undefined]);
  });

  test("aborts what is left when the grace is over", async () => {
    jest.useFakeTimers();
    const set = new LiveSet();
    const member = new Member(set);
    const done = set.drain(5000);
    jest.advanceTimersByTime(4999);
    expect(member.reason).toBeUndefined();
    jest.advanceTimersByTime(1);
    await done;
    expect(member.reason?.code).toBe("shutdown");
    expect(jest.getTimerCount()).toBe(0);
  });

  test("aborts every member, though each leaves the set meanwhile", () => {
    const set = new LiveSet();
    const members = Array.from({ length: 5 }, () => new Member(set));
    set.abortAll(new SeikanError("shutdown", "now"));
    expect(members.map((member) => member.reason?.code)).toEqual(Array.from({ length: 5 }, () => "shutdown"));
    expect(set.size).toBe(0);
  });
});
