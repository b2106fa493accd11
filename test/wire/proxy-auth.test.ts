import { describe, expect, test } from "bun:test";
import { basic, digest, digestHash, parseChallenges } from "../../src/wire/proxy-auth.ts";

/** Challenges as plain data. */
function parse(...lines: string[]): [string, Record<string, string>][] {
  return parseChallenges(lines).map(({ scheme, params }) => [scheme, Object.fromEntries(params)]);
}

describe("challenges", () => {
  const table: [lines: string[], challenges: [string, Record<string, string>][]][] = [
    [[], []],
    [[""], []],
    [["Basic"], [["basic", {}]]],
    [['Basic realm="a"'], [["basic", { realm: "a" }]]],
    [["BASIC Realm=a"], [["basic", { realm: "a" }]]],
    [['Basic realm="a", charset="UTF-8"'], [["basic", { realm: "a", charset: "UTF-8" }]]],
    [['Basic realm = "a" ,charset= UTF-8'], [["basic", { realm: "a", charset: "UTF-8" }]]],
    [['Basic realm="a, Digest nonce=x"'], [["basic", { realm: "a, Digest nonce=x" }]]],
    [['Basic realm="say \\"hi\\", \\\\ then"'], [["basic", { realm: 'say "hi", \\ then' }]]],
    [['Basic realm=""'], [["basic", { realm: "" }]]],
    [["Negotiate"], [["negotiate", {}]]],
    [["Negotiate abc/+=="], [["negotiate", { token: "abc/+==" }]]],
    [["NTLM TlRMTVNTUAAB="], [["ntlm", { token: "TlRMTVNTUAAB=" }]]],
    [
      ["Negotiate, NTLM"],
      [
        ["negotiate", {}],
        ["ntlm", {}],
      ],
    ],
    [
      ['Negotiate, Basic realm="a", NTLM'],
      [
        ["negotiate", {}],
        ["basic", { realm: "a" }],
        ["ntlm", {}],
      ],
    ],
    [
      ["NTLM", 'Basic realm="a"'],
      [
        ["ntlm", {}],
        ["basic", { realm: "a" }],
      ],
    ],
    [
      ['Digest realm="a", nonce="n,1", qop="auth,auth-int", Basic realm="b"'],
      [
        ["digest", { realm: "a", nonce: "n,1", qop: "auth,auth-int" }],
        ["basic", { realm: "b" }],
      ],
    ],
    [
      ['Digest realm="a", algorithm=MD5, nonce=x', 'Digest realm="a", algorithm=SHA-256, nonce=y'],
      [
        ["digest", { realm: "a", algorithm: "MD5", nonce: "x" }],
        ["digest", { realm: "a", algorithm: "SHA-256", nonce: "y" }],
      ],
    ],
    [[", ,Basic realm=a,, ,"], [["basic", { realm: "a" }]]],
    [['Basic realm="never closed, NTLM'], [["basic", { token: 'realm="never closed, NTLM' }]]],
  ];
  for (const [lines, challenges] of table) {
    test(`are read from ${JSON.stringify(lines)}`, () => expect(parse(...lines)).toEqual(challenges));
  }

  test("are read in time that grows with their length", () => {
    const lines = [
      `Basic ${'a="'.repeat(20_000)}`,
      ",".repeat(60_000),
      `Digest ${"\\".repeat(60_000)}`,
      `X ${"=".repeat(60_000)}`,
    ];
    const start = performance.now();
    for (const line of lines) parseChallenges([line]);
    expect(performance.now() - start).toBeLessThan(2000);
  });
});

describe("Basic", () => {
  test("is RFC 7617's example", () => {
    expect(basic("Aladdin", "open sesame")).toBe("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    expect(basic("test", "123£")).toBe("Basic dGVzdDoxMjPCow==");
  });
});

/** RFC 7616 section 3.9.1. */
const MUFASA = { user: "Mufasa", password: "Circle of Life", method: "GET", uri: "/dir/index.html", count: 1 };
const CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
const rfc = (algorithm: string) =>
  parseChallenges([
    `Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=${algorithm}, ` +
      'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"',
  ])[0]!;

describe("Digest", () => {
  for (const [algorithm, response] of [
    ["MD5", "8ca523f5e9506fed4657c9700eebdbec"],
    ["SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"],
  ] as const) {
    test(`with ${algorithm} is RFC 7616's example`, () => {
      expect(digest(rfc(algorithm), { ...MUFASA, cnonce: CNONCE })).toBe(
        'Digest username="Mufasa", realm="http-auth@example.org", ' +
          'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", uri="/dir/index.html", ' +
          `response="${response}", algorithm=${algorithm}, opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS", ` +
          `qop=auth, nc=00000001, cnonce="${CNONCE}"`,
      );
    });
  }

  test("without qop is RFC 2069's (the example of RFC 2617 without it)", () => {
    const [challenge] = parseChallenges([
      'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"',
    ]);
    const value = digest(challenge!, { ...MUFASA, password: "Circle Of Life", cnonce: "unused" });
    expect(value).toContain('response="670fd8c2df070c60b045671b8b24ff02"');
    expect(value).not.toContain("cnonce");
  });

  test("counts in eight hex digits", () => {
    expect(digest(rfc("MD5"), { ...MUFASA, cnonce: "c", count: 255 })).toContain("nc=000000ff");
  });

  test("-sess mixes the nonces into the secret", () => {
    const hash = (text: string) => new Bun.CryptoHasher("md5").update(text).digest("hex");
    const [challenge] = parseChallenges(['Digest realm="r", nonce="n", algorithm=MD5-sess, qop="auth"']);
    const secret = hash(`${hash("Mufasa:r:Circle of Life")}:n:c`);
    const response = hash(`${secret}:n:00000001:c:auth:${hash("GET:/dir/index.html")}`);
    const value = digest(challenge!, { ...MUFASA, cnonce: "c" });
    expect(value).toContain(`response="${response}"`);
    expect(value).toContain("algorithm=MD5-sess");
  });

  test("escapes quotes and backslashes", () => {
    const [challenge] = parseChallenges(['Digest realm="a\\"b", nonce="n\\\\"']);
    const value = digest(challenge!, { ...MUFASA, user: 'x"y\\', cnonce: "c" });
    expect(value).toContain('username="x\\"y\\\\", realm="a\\"b", nonce="n\\\\"');
  });

  const answerable: [string, "md5" | "sha256" | undefined][] = [
    ['Digest realm="r", nonce="n"', "md5"],
    ['Digest realm="r", nonce="n", algorithm=md5', "md5"],
    ['Digest realm="r", nonce="n", algorithm="SHA-256"', "sha256"],
    ['Digest realm="r", nonce="n", algorithm=SHA-256-sess', "sha256"],
    ['Digest realm="r", nonce="n", algorithm=SHA-512-256', undefined],
    ['Digest realm="r", nonce="n", algorithm=token', undefined],
    ['Digest realm="r", nonce="n", qop="auth"', "md5"],
    ['Digest realm="r", nonce="n", qop="auth-int, AUTH"', "md5"],
    ['Digest realm="r", nonce="n", qop="auth-int"', undefined],
    ['Digest realm="r"', undefined],
    ['Basic realm="r", nonce="n"', undefined],
  ];
  for (const [line, hash] of answerable) {
    test(`${hash === undefined ? "cannot answer" : `answers with ${hash}`}: ${line}`, () => {
      expect(digestHash(parseChallenges([line])[0]!)).toBe(hash);
    });
  }

  // The table of hashes has a prototype: these names count as hashes, and `digest` throws a TypeError.
  for (const word of ["__proto__", "constructor"]) {
    test(`cannot answer algorithm=${word}`, () => {
      expect(digestHash(parseChallenges([`Digest realm="r", nonce="n", algorithm=${word}`])[0]!)).toBeUndefined();
    });
  }
});
