import { afterAll, afterEach, beforeAll, describe, expect, jest, spyOn, test } from "bun:test";
import { parseAuthorization, Users, type Credentials, type Token } from "../../src/routes/users.ts";
import { codeOf } from "../support/decode.ts";

const ADDRESS = "192.0.2.1";
const TOKEN = "s3cret-token_~+/=";

let htpasswd = "";
beforeAll(async () => {
  const hash = await Bun.password.hash("hashed-secret", { algorithm: "bcrypt", cost: 4 });
  htpasswd = `bert:${hash}\n`;
});

const verify = spyOn(Bun.password, "verify");
afterAll(() => verify.mockRestore());
afterEach(() => {
  verify.mockClear();
  jest.useRealTimers();
});

/** Who it is, and how long the answer was held back by a clock that the test moves. */
async function identify(
  users: Users,
  shown: Credentials | Token,
  address = ADDRESS,
): Promise<[user: string | undefined, heldMs: number]> {
  jest.useFakeTimers();
  const start = performance.now();
  let answer: { user: string | undefined } | undefined;
  void users.identify(shown, address).then((user) => (answer = { user }));
  for (let passed = 0; answer === undefined && passed < 100_000; passed += 50) {
    for (let i = 0; i < 10; i++) await Promise.resolve();
    if (answer === undefined) jest.advanceTimersByTime(50);
  }
  for (let i = 0; i < 10; i++) await Promise.resolve();
  const held = performance.now() - start;
  jest.useRealTimers();
  return [answer!.user, held];
}

describe("a token", () => {
  test("is the password of a plain user, and stands for that user at once", async () => {
    const users = new Users([`alice:${TOKEN}`, "bob:other"]);
    expect(await identify(users, { token: TOKEN })).toEqual(["alice", 0]);
    expect(await identify(users, { token: "other" })).toEqual(["bob", 0]);
  });

  test("is what stands behind the first colon, colons included", async () => {
    const users = new Users(["alice:al:ice"]);
    expect((await identify(users, { token: "al:ice" }))[0]).toBe("alice");
    expect((await identify(users, { token: "ice" }))[0]).toBeUndefined();
  });

  for (const [what, token] of [
    ["nobody's", "unknown"],
    ["a part of one", TOKEN.slice(0, -1)],
    ["one with more behind it", `${TOKEN}x`],
    ["one in another case", TOKEN.toUpperCase()],
    ["a user's name", "alice"],
    ["user and password", `alice:${TOKEN}`],
    ["empty", ""],
    ["a name of Object's", "__proto__"],
  ] as const) {
    test(`that is ${what} is nobody's, and the answer comes late`, async () => {
      const users = new Users([`alice:${TOKEN}`]);
      expect(await identify(users, { token })).toEqual([undefined, 200]);
    });
  }

  test("that is wrong is answered later each time, for this address only", async () => {
    const users = new Users([`alice:${TOKEN}`]);
    const delays: number[] = [];
    for (let i = 0; i < 7; i++) delays.push((await identify(users, { token: "wrong" }))[1]);
    expect(delays).toEqual([200, 400, 800, 1600, 3200, 5000, 5000]);
    expect((await identify(users, { token: "wrong" }, "192.0.2.2"))[1]).toBe(200);
    expect(await identify(users, { token: TOKEN })).toEqual(["alice", 0]);
  });

  test("that is wrong and a password that is wrong count together", async () => {
    const users = new Users([`alice:${TOKEN}`]);
    expect((await identify(users, { user: "alice", password: "wrong" }))[1]).toBe(200);
    expect((await identify(users, { token: "wrong" }))[1]).toBe(400);
    expect((await identify(users, { user: "eve", password: "wrong" }))[1]).toBe(800);
  });

  test("opens nothing where nobody is known", async () => {
    expect((await identify(new Users([]), { token: "x" }))[0]).toBeUndefined();
    expect((await identify(new Users([]), { token: "" }))[0]).toBeUndefined();
  });
});

describe("users of a htpasswd file", () => {
  test("have no token: neither their password nor its hash is one", async () => {
    const users = new Users([], htpasswd);
    const hash = htpasswd.trim().slice("bert:".length);
    for (const token of ["hashed-secret", hash, "bert"]) {
      expect((await identify(users, { token }, token))[0]).toBeUndefined();
    }
    expect(verify).not.toHaveBeenCalled();
  });

  test("have one when they are plain as well", async () => {
    const users = new Users(["bert:plain"], htpasswd);
    expect((await identify(users, { token: "plain" }))[0]).toBe("bert");
    expect((await identify(users, { token: "hashed-secret" }))[0]).toBeUndefined();
  });
});

describe("user and password", () => {
  test("identify their user; wrong ones nobody, late", async () => {
    const users = new Users([`alice:${TOKEN}`]);
    expect(await identify(users, { user: "alice", password: TOKEN })).toEqual(["alice", 0]);
    expect(await identify(users, { user: "alice", password: "wrong" })).toEqual([undefined, 200]);
    expect(await identify(users, { user: "eve", password: TOKEN }, "192.0.2.2")).toEqual([undefined, 200]);
  });

  test("identify users of a htpasswd file, too", async () => {
    const users = new Users([], htpasswd);
    expect(await users.identify({ user: "bert", password: "hashed-secret" }, ADDRESS)).toBe("bert");
    expect(verify).toHaveBeenCalledTimes(1);
  });
});

describe("tokens after users were replaced", () => {
  test("are those of the new users only", async () => {
    const users = new Users([`alice:${TOKEN}`, "bob:stays"]);
    users.replace(["alice:new-token", "bob:stays", "eve:added"], "");
    expect((await identify(users, { token: TOKEN }))[0]).toBeUndefined();
    expect(await identify(users, { token: "new-token" })).toEqual(["alice", 0]);
    expect(await identify(users, { token: "stays" })).toEqual(["bob", 0]);
    expect(await identify(users, { token: "added" })).toEqual(["eve", 0]);
  });

  test("may belong to another user than before", async () => {
    const users = new Users([`alice:${TOKEN}`]);
    users.replace([`bob:${TOKEN}`], "");
    expect((await identify(users, { token: TOKEN }))[0]).toBe("bob");
  });

  test("are gone when their user is hashed from now on", async () => {
    const users = new Users(["bert:hashed-secret"]);
    expect((await identify(users, { token: "hashed-secret" }))[0]).toBe("bert");
    users.replace([], htpasswd);
    expect((await identify(users, { token: "hashed-secret" }))[0]).toBeUndefined();
  });

  test("stay when the new users are wrong", async () => {
    const users = new Users([`alice:${TOKEN}`]);
    expect(codeOf(() => users.replace(["bob:b"], "nonsense"))).toBe("usage");
    expect(codeOf(() => users.replace(["nonsense"], ""))).toBe("usage");
    expect((await identify(users, { token: TOKEN }))[0]).toBe("alice");
    expect((await identify(users, { token: "b" }))[0]).toBeUndefined();
  });
});

describe("an Authorization value", () => {
  const encode = (text: string) => Buffer.from(text).toString("base64");

  const table: [value: string, shown: Credentials | Token][] = [
    ["Bearer abc", { token: "abc" }],
    ["bEARER abc", { token: "abc" }],
    ["Bearer    abc  ", { token: "abc" }],
    ["Bearer AZaz09-._~+/==", { token: "AZaz09-._~+/==" }],
    [`Bearer ${encode("alice:secret")}`, { token: encode("alice:secret") }],
    ["Bearer basic", { token: "basic" }],
    [`Basic ${encode("alice:al:ice")}`, { user: "alice", password: "al:ice" }],
    [`basic ${encode("bearer:x")}`, { user: "bearer", password: "x" }],
    [`Basic ${encode(":")}`, { user: "", password: "" }],
  ];
  for (const [value, shown] of table) {
    test(`${JSON.stringify(value)} is ${"token" in shown ? "a token" : "user and password"}`, () => {
      expect(parseAuthorization(value)).toEqual(shown);
    });
  }

  for (const value of [
    undefined,
    "",
    "Bearer",
    "Bearer ",
    "Bearer =",
    "Bearer a b",
    "Bearer a,b",
    "Bearer a:b",
    "Bearer a=b",
    'Bearer "abc"',
    "Bearer tök",
    "Bearer abc\n",
    "Bearer\tabc",
    "Bearerabc",
    "Token abc",
    "Negotiate abc",
    "abc",
    "Basic abc, Bearer abc",
    `Basic ${encode("nocolon")}`,
  ]) {
    test(`${JSON.stringify(value)} is neither`, () => expect(parseAuthorization(value)).toBeUndefined());
  }
});
