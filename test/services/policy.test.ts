import { describe, expect, test } from "bun:test";
import { isIdle, pauseAfter } from "../../src/services/policy.ts";

const crashesEvery = (ms: number, count: number): number[] => Array.from({ length: count }, (_, index) => index * ms);

describe("the pause after a crash", () => {
  test("doubles with each one, and stops growing at 30 s", () => {
    const pauses = Array.from({ length: 9 }, (_, index) => pauseAfter(crashesEvery(20_000, index + 1)));
    expect(pauses.map(({ ms }) => ms)).toEqual([1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000]);
    expect(pauses.map(({ isTripped }) => isTripped)).toEqual(Array.from({ length: 9 }, () => false));
  });

  test("stays 30 s however many there were", () => {
    expect(pauseAfter(crashesEvery(20_000, 2000))).toEqual({ ms: 30_000, isTripped: false });
  });

  test("does not depend on when the clock began", () => {
    for (const start of [0, 1, 7e9, -5000]) {
      const crashes = crashesEvery(10, 3).map((moment) => moment + start);
      expect(pauseAfter(crashes)).toEqual({ ms: 4000, isTripped: false });
    }
  });

  const table: [what: string, crashes: number[], expected: { ms: number; isTripped: boolean }][] = [
    ["four within a minute", [0, 1, 2, 3], { ms: 8000, isTripped: false }],
    ["five within a minute", [0, 1, 2, 3, 4], { ms: 30_000, isTripped: true }],
    ["six within a minute", [0, 1, 2, 3, 4, 5], { ms: 30_000, isTripped: true }],
    ["five in a little less than a minute", [0, 15_000, 30_000, 45_000, 59_999], { ms: 30_000, isTripped: true }],
    ["five in a whole minute", [0, 15_000, 30_000, 45_000, 60_000], { ms: 16_000, isTripped: false }],
    ["four that were long ago, and one", [0, 1, 2, 3, 100_000], { ms: 16_000, isTripped: false }],
    ["one long ago, and five", [0, 100_000, 100_001, 100_002, 100_003, 100_004], { ms: 30_000, isTripped: true }],
    ["five at the same moment", [9, 9, 9, 9, 9], { ms: 30_000, isTripped: true }],
  ];
  for (const [what, crashes, expected] of table) {
    test(`after ${what} is ${expected.ms / 1000} s${expected.isTripped ? ", and it tripped" : ""}`, () => {
      expect(pauseAfter(crashes)).toEqual(expected);
    });
  }
});

describe("a service is idle", () => {
  const table: [what: string, open: number, idleMs: number, sinceMs: number, expected: boolean][] = [
    ["when nobody used it for that long", 0, 1000, 1000, true],
    ["when nobody used it for longer", 0, 1000, 900_000, true],
    ["not a moment before", 0, 1000, 999.9, false],
    ["not while something is open", 1, 1000, 900_000, false],
    ["not while much is open", 100, 1000, 900_000, false],
    ["never where idle is 0", 0, 0, 900_000, false],
    ["never where idle is 0, from the first moment", 0, 0, 0, false],
  ];
  for (const [what, open, idleMs, sinceMs, expected] of table) {
    test(what, () => {
      for (const lastUse of [0, 5000]) expect(isIdle({ open, lastUse }, idleMs, lastUse + sinceMs)).toBe(expected);
    });
  }
});
