import { describe, expect, test } from "bun:test";
import {
  endToEnd,
  fieldTokens,
  fieldValue,
  fieldValues,
  formatHead,
  isFieldName,
  isFieldValue,
  nominatesFraming,
  safeTrailers,
  withoutFields,
  type Fields,
} from "../../src/wire/fields.ts";

const FIELDS: Fields = ["Host", "a", "X-A", "1", "set-cookie", "a=1, b", "x-a", "2", "Set-Cookie", "c=2", "X-AB", "3"];

describe("fields", () => {
  test("are found whatever their case, in order, and apart", () => {
    expect(fieldValues(FIELDS, "x-a")).toEqual(["1", "2"]);
    expect(fieldValues(FIELDS, "set-cookie")).toEqual(["a=1, b", "c=2"]);
    expect(fieldValue(FIELDS, "x-a")).toBe("1");
    expect(fieldValue(FIELDS, "nothing")).toBeUndefined();
    expect(fieldValues(FIELDS, "1")).toEqual([]);
  });

  test("are lists over all their lines", () => {
    const fields = ["Connection", "Keep-Alive, ,Upgrade", "X", "y", "connection", " close "];
    expect(fieldTokens(fields, "connection")).toEqual(["keep-alive", "upgrade", "close"]);
  });

  test("are left out by name, the others keep order and case", () => {
    expect(withoutFields(FIELDS, (name) => name === "x-a" || name === "host")).toEqual([
      ...["set-cookie", "a=1, b", "Set-Cookie", "c=2", "X-AB", "3"],
    ]);
  });
});

describe("what goes on to the next hop", () => {
  test("has no hop-by-hop field", () => {
    const hopByHop =
      "Connection Keep-Alive Proxy-Connection TE Transfer-Encoding Upgrade HTTP2-Settings Proxy-Authorization Proxy-Authenticate Proxy-Authentication-Info";
    const fields = hopByHop.split(" ").flatMap((name) => [name, "x", name.toUpperCase(), "y"]);
    expect(endToEnd([...fields, "Authorization", "z", "WWW-Authenticate", "w"])).toEqual([
      "Authorization",
      "z",
      "WWW-Authenticate",
      "w",
    ]);
  });

  test("has none that Connection nominates, on any line and in any case", () => {
    const fields = [
      "X-One",
      "1",
      "Connection",
      "x-two , X-THREE",
      "X-Two",
      "2",
      "x-three",
      "3",
      "CONNECTION",
      "x-four",
      "X-Four",
      "4",
    ];
    expect(endToEnd(fields)).toEqual(["X-One", "1"]);
  });

  test("is refused when Connection nominates what frames or routes", () => {
    for (const name of ["Host", "content-length", "Transfer-Encoding"]) {
      expect(nominatesFraming(["Connection", `close, ${name}`])).toBe(true);
      expect(nominatesFraming(["connection", "close", "Connection", name])).toBe(true);
    }
    expect(nominatesFraming(["Connection", "close, X-Host, hosts"])).toBe(false);
    expect(nominatesFraming(["X", "host"])).toBe(false);
  });
});

describe("trailers", () => {
  test("lose what frames, routes, authenticates or is hop-by-hop", () => {
    const dropped =
      "Host Content-Length Transfer-Encoding Trailer TE Connection Authorization Proxy-Authorization Set-Cookie Content-Type Content-Encoding Content-Range Cache-Control Expect Max-Forwards Via";
    const trailers = dropped.split(" ").flatMap((name) => [name, "x"]);
    expect(safeTrailers([...trailers, "X-Sum", "1", "Server-Timing", "t"], [])).toEqual([
      "X-Sum",
      "1",
      "Server-Timing",
      "t",
    ]);
  });

  test("lose what the head's Connection nominates", () => {
    expect(safeTrailers(["X-Sum", "1", "X-Hop", "2"], ["Connection", "x-hop"])).toEqual(["X-Sum", "1"]);
  });
});

describe("a head", () => {
  test("is written as latin1, with an empty line", () => {
    expect(formatHead("GET / HTTP/1.1", ["Host", "a", "X", "caf\xe9"])).toEqual(
      Buffer.from("GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9\r\n\r\n", "latin1"),
    );
    expect(formatHead("HTTP/1.1 200 OK", []).toString()).toBe("HTTP/1.1 200 OK\r\n\r\n");
  });

  test("takes values without line ends and controls, and names that are tokens", () => {
    for (const text of ["", "a b", "a\tb", "caf\xe9", '"(),/:;<=>?@[\\]{}'])
      expect([text, isFieldValue(text)]).toEqual([text, true]);
    for (const text of ["a\rb", "a\nb", "\0", "\x1b", "\x7f", "\u010d", "\u{1f600}"])
      expect([text, isFieldValue(text)]).toEqual([text, false]);
    for (const text of ["a", "X-1", "!#$%&'*+-.^_`|~"]) expect([text, isFieldName(text)]).toEqual([text, true]);
    for (const text of ["", "a b", "a:", "a\r\n", "(a)", "\xe9", "a/b"])
      expect([text, isFieldName(text)]).toEqual([text, false]);
  });
});
