import { describe, expect, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import {
  formatGreeting,
  formatRequest,
  formatResponse,
  parseGreeting,
  parseRequest,
  parseResponse,
  type WspRequest,
  type WspResponse,
} from "../../src/wire/wsp.ts";

type Shape = Record<string, unknown>;

/** As the Go programs write them. */
const REQUEST = { Method: "GET", URL: "http://localhost:8081/hello", Header: {}, ContentLength: 0 };
const RESPONSE = { StatusCode: 200, Header: {}, ContentLength: 12 };

const asked = (changes: Shape = {}) => parseRequest(JSON.stringify({ ...REQUEST, ...changes }));
const answered = (changes: Shape = {}) => parseResponse(JSON.stringify({ ...RESPONSE, ...changes }));
const without = (shape: Shape, key: string) =>
  JSON.stringify(Object.fromEntries(Object.entries(shape).filter(([name]) => name !== key)));

const request = (changes: Partial<WspRequest> = {}): WspRequest => ({
  ...{ method: "GET", url: "http://a.example/", fields: [], length: 0 },
  ...changes,
});
const response = (changes: Partial<WspResponse> = {}): WspResponse => ({
  ...{ status: 200, fields: [], length: 0 },
  ...changes,
});

/** The sentence of a refusal; fails unless it is the peer's fault. */
function refusalOf(work: () => unknown): string {
  try {
    return `no refusal but ${Bun.inspect(work())}`;
  } catch (error) {
    if (!(error instanceof SeikanError)) throw error;
    expect(error.code).toBe("peer-protocol");
    return error.message;
  }
}

/** Text as our fields hold it: a character a byte. */
const bytesOf = (text: string) => Buffer.from(text, "utf8").toString("latin1");

describe("a greeting", () => {
  const ids = ["4b98d5a0-6794-421c-6a66-20f3edd81174", "office", "an_id_with_some", "_", "7_7", "büro", "a\nb"];
  for (const id of ids) {
    test(`is understood as it was written: ${JSON.stringify(id)}`, () => {
      expect(formatGreeting({ id, size: 10 })).toBe(`${id}_10`);
      expect(parseGreeting(formatGreeting({ id, size: 10 }))).toEqual({ id, size: 10 });
    });
  }

  test("has its size behind the last underscore", () => {
    expect(parseGreeting("a_1_2")).toEqual({ id: "a_1", size: 2 });
    expect(parseGreeting("a__2")).toEqual({ id: "a_", size: 2 });
  });

  test("may keep no connection idle, or thousands", () => {
    expect(parseGreeting("a_0").size).toBe(0);
    expect(parseGreeting("a_9999").size).toBe(9999);
  });

  test("has an id of 200 characters at most", () => {
    expect(parseGreeting(`${"x".repeat(200)}_1`).id.length).toBe(200);
    expect(refusalOf(() => parseGreeting(`${"x".repeat(201)}_1`))).toContain("greeting");
  });

  const wrong = ["", "_", "_1", "a", "a_", "a_x", "a_-1", "a_+1", "a_1.5", "a_1 ", "a_1\n", "a_ 1", "a_10000", "a_1e3"];
  for (const text of [...wrong, "a_0x1", "a_١", "10"]) {
    test(`is refused: ${JSON.stringify(text)}`, () => {
      expect(refusalOf(() => parseGreeting(text))).toContain("malformed wsp greeting");
    });
  }
});

describe("the head of a request", () => {
  test("is read as wsp writes it", () => {
    const text = `{"Method":"POST","URL":"http://localhost:8081/hello?a=%20b","Header":{"Accept":["*/*"],"User-Agent":["curl/7.77.0"],"X-Proxy-Destination":["http://localhost:8081/hello"],"X-Two":["1","2"]},"ContentLength":5}`;
    expect(parseRequest(text)).toEqual({
      method: "POST",
      url: "http://localhost:8081/hello?a=%20b",
      fields: [
        ...["Accept", "*/*", "User-Agent", "curl/7.77.0"],
        ...["X-Proxy-Destination", "http://localhost:8081/hello", "X-Two", "1", "X-Two", "2"],
      ],
      length: 5,
    });
  });

  test("is written as wsp reads it: Go's names, lists of values, -1 for a length that nobody knows", () => {
    const fields = ["accept", "*/*", "X-TWO", "1", "x-some-THING", "", "x-two", "2", "ETag", "e"];
    expect(JSON.parse(formatRequest(request({ method: "POST", fields, length: undefined })))).toEqual({
      Method: "POST",
      URL: "http://a.example/",
      Header: { Accept: ["*/*"], "X-Two": ["1", "2"], "X-Some-Thing": [""], Etag: ["e"] },
      ContentLength: -1,
    });
    expect(JSON.parse(formatRequest(request({ length: 0 })))).toMatchObject({ Header: {}, ContentLength: 0 });
    expect(JSON.parse(formatRequest(request({ length: 2 ** 40 })))).toMatchObject({ ContentLength: 2 ** 40 });
  });

  test("comes back as it was", () => {
    const fields = ["Host", "a.example", "X-Two", "1", "X-Two", "2", "Quote", 'a "b" \\ c', "Tab", "a\tb"];
    for (const length of [undefined, 0, 1, Number.MAX_SAFE_INTEGER]) {
      const head = request({ method: "M-SEARCH", fields, length });
      expect(parseRequest(formatRequest(head))).toEqual(head);
    }
  });

  test("may lack its header or its length", () => {
    for (const Header of [null, {}]) expect(asked({ Header }).fields).toEqual([]);
    expect(parseRequest(without(REQUEST, "Header")).fields).toEqual([]);
    expect(parseRequest(without(REQUEST, "ContentLength")).length).toBe(0);
    expect(asked({ Header: { "X-None": null, "X-Empty": [], "X-One": [""] } }).fields).toEqual(["X-One", ""]);
  });

  test("does not know the length when it is negative", () => {
    expect([-1, -2].map((ContentLength) => asked({ ContentLength }).length)).toEqual([undefined, undefined]);
  });

  test("may have a method and a URL that others have to refuse; what no URL can hold is encoded", () => {
    expect(asked({ Method: "foo1" }).method).toBe("foo1");
    expect(asked({ URL: "http://a.example/a b?q=größe\ud800#c d" }).url).toBe(
      "http://a.example/a%20b?q=gr%C3%B6%C3%9Fe%EF%BF%BD",
    );
  });

  test("may hold what nobody here knows", () => {
    expect(asked({ Proto: "HTTP/1.1", Trailer: null })).toEqual(asked());
  });

  for (const [what, changes] of Object.entries({
    "no method": { Method: undefined },
    "a method that is null": { Method: null },
    "an empty method": { Method: "" },
    "a method with a space": { Method: "GET /" },
    "a method with a line end": { Method: "GET\n" },
    "a long method": { Method: "G".repeat(33) },
    "no URL": { URL: undefined },
    "a URL that is a number": { URL: 1 },
    "a URL that is too long": { URL: `http://a/${"x".repeat(64 * 1024)}` },
    "a header that is a list": { Header: ["a: b"] },
    "a header that is text": { Header: "a: b" },
    "a value that is no list": { Header: { A: "b" } },
    "a value that is a number": { Header: { A: [1] } },
    "a value that is null": { Header: { A: [null] } },
    "a length that is text": { ContentLength: "5" },
    "a length with a fraction": { ContentLength: 1.5 },
    "a length that is null": { ContentLength: null },
  } satisfies Record<string, Shape>)) {
    test(`is refused with ${what}`, () => {
      expect(refusalOf(() => asked(changes))).toContain("malformed wsp request");
    });
  }

  test("is refused with the place that is wrong", () => {
    expect(refusalOf(() => asked({ Header: { "X-Some": ["a", 1] } }))).toContain("Header.X-Some.1");
    expect(refusalOf(() => asked({ Method: 1 }))).toContain("Method");
  });

  for (const text of ["", "{nonsense", "null", "[]", '"GET"', "1", `${JSON.stringify(REQUEST)}{}`, "\0"]) {
    test(`is refused when it is ${JSON.stringify(text)}`, () => {
      expect(refusalOf(() => parseRequest(text))).toContain("malformed wsp request");
    });
  }

  // Whatever stands in a URL is written into a request line.
  for (const [what, rest] of Object.entries({
    "a line end": "x HTTP/1.1\r\nHost: b\r\n\r\nGET http://b/",
    "a bare line feed": "\n",
    "a control character": "\u0001",
    "a delete character": "\x7f",
  })) {
    test(`is refused with ${what} in its URL`, () => {
      expect(refusalOf(() => asked({ URL: `http://a.example/${rest}` }))).toContain("malformed wsp request");
    });
  }
});

describe("the head of a response", () => {
  test("is read as wsp writes it", () => {
    const text = `{"StatusCode":404,"Header":{"Content-Type":["text/plain; charset=utf-8"],"Set-Cookie":["a=1","b=2"]},"ContentLength":19}`;
    expect(parseResponse(text)).toEqual({
      status: 404,
      fields: ["Content-Type", "text/plain; charset=utf-8", "Set-Cookie", "a=1", "Set-Cookie", "b=2"],
      length: 19,
    });
  });

  test("is written as wsp reads it", () => {
    const fields = ["content-type", "text/plain", "set-cookie", "a=1", "Set-Cookie", "b=2"];
    expect(JSON.parse(formatResponse(response({ status: 527, fields, length: undefined })))).toEqual({
      StatusCode: 527,
      Header: { "Content-Type": ["text/plain"], "Set-Cookie": ["a=1", "b=2"] },
      ContentLength: -1,
    });
  });

  test("comes back as it was", () => {
    for (const status of [200, 204, 304, 407, 526, 527, 599]) {
      for (const length of [undefined, 0, 5]) {
        const head = response({ status, fields: ["X-A", "1", "X-A", "2"], length });
        expect(parseResponse(formatResponse(head))).toEqual(head);
      }
    }
  });

  test("may lack its header or its length, which nobody knows then", () => {
    expect(parseResponse('{"StatusCode":200}')).toEqual({ status: 200, fields: [], length: undefined });
    expect(answered({ Header: null }).fields).toEqual([]);
    expect(answered({ ContentLength: -1 }).length).toBeUndefined();
    expect(answered({ ContentLength: 0 }).length).toBe(0);
  });

  for (const StatusCode of [0, 100, 101, 199, 600, 1000, -200, 200.5, "200", null, undefined]) {
    test(`is refused with status ${JSON.stringify(StatusCode)}`, () => {
      expect(refusalOf(() => answered({ StatusCode }))).toContain("malformed wsp response");
    });
  }

  for (const text of ["", "{nonsense", "null", "[]", "{}"]) {
    test(`is refused when it is ${JSON.stringify(text)}`, () => {
      expect(refusalOf(() => parseResponse(text))).toContain("malformed wsp response");
    });
  }
});

describe("fields", () => {
  const texts = ["größe", "日本語", "🎉", "\u0085", "ÿ", "a\u010ab"];
  for (const text of texts) {
    test(`with text that is no ASCII are the same on both sides: ${JSON.stringify(text)}`, () => {
      // In JSON it is text, and on the wire of HTTP its bytes in UTF-8.
      expect(asked({ Header: { "X-A": [text] } }).fields).toEqual(["X-A", bytesOf(text)]);
      expect(answered({ Header: { "X-A": [text] } }).fields).toEqual(["X-A", bytesOf(text)]);
      const fields = ["X-A", bytesOf(text)];
      expect(JSON.parse(formatRequest(request({ fields }))).Header).toEqual({ "X-A": [text] });
      expect(JSON.parse(formatResponse(response({ fields }))).Header).toEqual({ "X-A": [text] });
    });
  }

  test("with bytes that are no UTF-8 are told apart from text, as Go does it", () => {
    expect(JSON.parse(formatRequest(request({ fields: ["X-A", "a\xffb"] }))).Header).toEqual({ "X-A": ["a\ufffdb"] });
  });

  for (const value of ["a\r\nX-Evil: 1", "a\n", "\r", "a\0b", "\x1b[31m", "a\x7fb"]) {
    test(`are refused with the value ${JSON.stringify(value)}`, () => {
      expect(refusalOf(() => asked({ Header: { "X-A": ["good", value] } }))).toContain("X-A");
      expect(refusalOf(() => answered({ Header: { "X-A": [value] } }))).toContain("X-A");
    });
  }

  for (const name of ["", "a b", "a:", "a\r\nb", "größe", "a(b)", "a\0"]) {
    test(`are refused with the name ${JSON.stringify(name)}`, () => {
      expect(refusalOf(() => asked({ Header: { [name]: ["1"] } }))).toContain("malformed wsp head");
      expect(refusalOf(() => answered({ Header: { [name]: ["1"] } }))).toContain("malformed wsp head");
    });
  }

  test("keep every character that a name may have", () => {
    const name = "!#$%&'*+-.^_`|~09azAZ";
    expect(asked({ Header: { [name]: ["1"] } }).fields).toEqual([name, "1"]);
  });
});
