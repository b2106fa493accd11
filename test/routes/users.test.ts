import { afterAll, afterEach, beforeAll, describe, expect, jest, spyOn, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import { parseBasic, splitUser, Users } from "../../src/routes/users.ts";
import { codeOf } from "../support/decode.ts";
import { until } from "../support/wait.ts";

const ADDRESS = "192.0.2.1";
const alice = { user: "alice", password: "al:ice" };
const wrong = { user: "alice", password: "wrong" };

// As cheap as the formats allow: what is tested is who hashes when.
const BCRYPT = { algorithm: "bcrypt", cost: 4 } as const;
const ARGON = { algorithm: "argon2id", memoryCost: 8, timeCost: 2 } as const;

let htpasswd = "";
beforeAll(async () => {
  const line = async (user: string, options: typeof BCRYPT | typeof ARGON) =>
    `${user}:${await Bun.password.hash(`${user}'s`, options)}`;
  htpasswd = `# users\n\n${await line("bert", BCRYPT)}\r\n${await line("anna", ARGON)}\n`;
});

const realVerify = Bun.password.verify;
const verify = spyOn(Bun.password, "verify");
afterAll(() => verify.mockRestore());
afterEach(() => {
  verify.mockClear();
  jest.useRealTimers();
});

/** Verifies with a clock that jumps over the punishment; resolves to the answer and how long it was held back. */
async function verifyTimed(
  users: Users,
  credentials: { user: string; password: string },
  address = ADDRESS,
): Promise<[boolean, number]> {
  jest.useFakeTimers();
  const start = performance.now();
  let answer: boolean | undefined;
  void users.verify(credentials, address).then((found) => (answer = found));
  for (let passed = 0; answer === undefined && passed < 100_000; passed += 50) {
    for (let i = 0; i < 10; i++) await Promise.resolve();
    if (answer === undefined) jest.advanceTimersByTime(50);
  }
  for (let i = 0; i < 10; i++) await Promise.resolve();
  const held = performance.now() - start;
  jest.useRealTimers();
  return [answer!, held];
}

describe("plain users", () => {
  test("are verified by user and password, split at the first colon", async () => {
    const users = new Users(["alice:al:ice", "bob:"]);
    expect(await users.verify(alice, ADDRESS)).toBe(true);
    expect(await users.verify({ user: "bob", password: "" }, ADDRESS)).toBe(true);
  });

  for (const [what, credentials] of [
    ["a wrong password", wrong],
    ["an empty password", { user: "alice", password: "" }],
    ["an unknown user", { user: "eve", password: "al:ice" }],
    ["a user in another case", { user: "Alice", password: "al:ice" }],
    ["a part of the password", { user: "alice", password: "al:ic" }],
    ["user and password shifted", { user: "alice:al", password: "ice" }],
    ["a name of Object's", { user: "__proto__", password: "x" }],
  ] as const) {
    test(`are not verified with ${what}`, async () => {
      expect((await verifyTimed(new Users(["alice:al:ice"]), credentials))[0]).toBe(false);
    });
  }

  test("are none when nobody is given", async () => {
    const users = new Users([]);

    expect((await verifyTimed(users, { user: "", password: "" }))[0]).toBe(false);
  });
});

describe("users of a htpasswd file", () => {
  test("are verified by bcrypt and argon2", async () => {
    const users = new Users([], htpasswd);
    for (const user of ["bert", "anna"])
      expect(await users.verify({ user, password: `${user}'s` }, ADDRESS)).toBe(true);
    expect(await users.verify({ user: "anna", password: "bert's" }, ADDRESS)).toBe(false);
  });

  test("may stand beside plain ones, which win", async () => {
    const users = new Users(["bert:plain"], htpasswd);
    expect(await users.verify({ user: "bert", password: "plain" }, ADDRESS)).toBe(true);
    expect(verify).not.toHaveBeenCalled();
  });

  test("are hashed once: a good password is believed for a minute", async () => {
    const users = new Users([], htpasswd);
    const bert = { user: "bert", password: "bert's" };
    jest.useFakeTimers();
    for (let i = 0; i < 5; i++) expect(await users.verify(bert, `192.0.2.${i}`)).toBe(true);
    expect(verify).toHaveBeenCalledTimes(1);
    jest.advanceTimersByTime(59_000);
    expect(await users.verify(bert, ADDRESS)).toBe(true);
    expect(verify).toHaveBeenCalledTimes(1);
    jest.advanceTimersByTime(2000);
    expect(await users.verify(bert, ADDRESS)).toBe(true);
    expect(verify).toHaveBeenCalledTimes(2);
  });

  test("are hashed each time they are wrong", async () => {
    const users = new Users([], htpasswd);
    for (let i = 0; i < 2; i++) expect(await users.verify({ user: "bert", password: "x" }, `192.0.2.${i}`)).toBe(false);
    expect(verify).toHaveBeenCalledTimes(2);
  });

  test("cost as much when they are unknown", async () => {
    const users = new Users([], htpasswd);
    expect(await users.verify({ user: "eve", password: "bert's" }, ADDRESS)).toBe(false);
    expect(verify).toHaveBeenCalledTimes(1);
  });

  test("are hashed two at a time, and refused when too many wait", async () => {
    const users = new Users([], htpasswd);
    let running = 0;
    let most = 0;
    const finish: (() => void)[] = [];
    verify.mockImplementation(() => {
      most = Math.max(most, ++running);
      return new Promise((resolve) => finish.push(() => (running--, resolve(true))));
    });
    try {
      const logins = Array.from({ length: 67 }, (_, i) => users.verify({ user: "bert", password: String(i) }, ADDRESS));
      const outcomes = Promise.allSettled(logins);
      expect([running, finish.length]).toEqual([2, 2]);
      let done = 0;
      await until(() => {
        for (const one of finish.splice(0)) {
          one();
          done++;
        }
        return done === 66;
      }, "all that waited are hashed");
      const codes = (await outcomes).map((outcome) =>
        outcome.status === "fulfilled" ? outcome.value : (outcome.reason as SeikanError).code,
      );
      expect(codes.filter((code) => code === true)).toHaveLength(66);
      expect(codes.at(-1)).toBe("auth-throttled");
      expect(most).toBe(2);
    } finally {
      verify.mockImplementation(realVerify);
    }
  });

  for (const [what, text] of [
    ["MD5", "bert:$apr1$x$y"],
    ["SHA-1", "bert:{SHA}x"],
    ["plain text", "bert:secret-secret"],
    ["no colon", "secret-secret"],
    ["no user", ":$2y$05$x"],
  ] as const) {
    test(`are refused with ${what}, and the line is not shown`, () => {
      let error: unknown;
      try {
        void new Users([], `# first line\n${text}`);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toMatchObject({ code: "usage" });
      expect((error as Error).message).toContain("line 2");
      expect(Bun.inspect(error)).not.toContain("secret-secret");
    });
  }
});

describe("a failure", () => {
  test("is answered later each time, up to five seconds", async () => {
    const users = new Users(["alice:al:ice"]);
    const delays: number[] = [];
    for (let i = 0; i < 8; i++) {
      const [answer, held] = await verifyTimed(users, wrong);
      expect(answer).toBe(false);
      delays.push(held);
    }
    expect(delays).toEqual([200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
  });

  test("does not slow other addresses, nor good passwords", async () => {
    const users = new Users(["alice:al:ice"]);
    for (let i = 0; i < 4; i++) await verifyTimed(users, wrong);
    expect((await verifyTimed(users, wrong, "192.0.2.2"))[1]).toBe(200);
    expect(await verifyTimed(users, alice)).toEqual([true, 0]);
    // And a success wipes the slate.
    expect((await verifyTimed(users, wrong))[1]).toBe(200);
  });
});

describe("users that are replaced", () => {
  test("are the new ones only, whatever was believed before", async () => {
    const users = new Users(["alice:al:ice"]);
    expect(await users.verify(alice, ADDRESS)).toBe(true);
    users.replace(["bob:b"], "");
    expect((await verifyTimed(users, alice))[0]).toBe(false);
    expect(await users.verify({ user: "bob", password: "b" }, ADDRESS)).toBe(true);
  });

  test("stay when the new ones are wrong", async () => {
    const users = new Users(["alice:al:ice"], htpasswd);
    expect(codeOf(() => users.replace(["bob:b"], "nonsense"))).toBe("usage");
    expect(codeOf(() => users.replace(["nonsense"], ""))).toBe("usage");
    expect(await users.verify(alice, ADDRESS)).toBe(true);
    expect(await users.verify({ user: "bert", password: "bert's" }, ADDRESS)).toBe(true);
  });

  // `#read` forgets the decoy hash before it can fail: afterwards an unknown user is answered without hashing.
  test("cost as much when they are unknown, also after a replacement that failed", async () => {
    const users = new Users([], htpasswd);
    expect(codeOf(() => users.replace([], "nonsense"))).toBe("usage");
    expect(await users.verify({ user: "eve", password: "x" }, ADDRESS)).toBe(false);
    expect(verify).toHaveBeenCalledTimes(1);
  });

  // The verification under way puts the old password among the believed ones after `replace` emptied them.
  test("are not outlived by a password that is being verified", async () => {
    const users = new Users([], htpasswd);
    const bert = { user: "bert", password: "bert's" };
    const login = users.verify(bert, ADDRESS);
    users.replace(["bert:new"], "");
    await login;
    expect((await verifyTimed(users, bert))[0]).toBe(false);
  });
});

describe("Basic credentials", () => {
  const encode = (text: string) => Buffer.from(text).toString("base64");

  test("are read from a field's value", () => {
    expect(parseBasic(`Basic ${encode("alice:al:ice")}`)).toEqual(alice);
    expect(parseBasic(`bAsIc   ${encode("tést:£")} `)).toEqual({ user: "tést", password: "£" });
    expect(parseBasic(`Basic ${encode(":")}`)).toEqual({ user: "", password: "" });
  });

  for (const value of [
    undefined,
    "",
    "Basic",
    "Basic ",
    `Bearer ${encode("a:b")}`,
    `Basic ${encode("nocolon")}`,
    "Basic a:b",
    "Basic !!!",
    `Basic ${encode("a:b")} x`,
    `Basic${encode("a:b")}`,
  ]) {
    test(`are not ${JSON.stringify(value)}`, () => expect(parseBasic(value)).toBeUndefined());
  }

  test("are split at the first colon, and never shown when they are wrong", () => {
    expect(splitUser("a:b:c", "x")).toEqual({ user: "a", password: "b:c" });
    for (const text of ["secret-secret", ":secret-secret", ""]) {
      expect(codeOf(() => splitUser(text, "--auth"))).toBe("usage");
    }
    expect(() => splitUser("secret-secret", "--auth")).toThrow(/^(?!.*secret-secret)/);
  });
});
