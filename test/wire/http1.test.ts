import { describe, expect, test } from "bun:test";
import { SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import type { Fields } from "../../src/wire/fields.ts";
import {
  RequestReader,
  ResponseReader,
  type Framing,
  type HeadLimits,
  type RequestHead,
  type ResponseContext,
  type ResponseHead,
} from "../../src/wire/http1.ts";
import { byteByByte, cutAtRandom, randomNumbers, splits } from "../support/random.ts";

type Head = RequestHead | ResponseHead;

interface Message {
  readonly head: Head;
  readonly body: string;
  readonly trailers: Fields;
}

interface Reading {
  /** Complete messages only. */
  readonly messages: Message[];
  readonly error: ErrorCode | undefined;
  /** What was left unread behind a message that ends HTTP. */
  readonly rest: string;
}

interface Setup {
  readonly kind: "request" | "response";
  readonly context?: ResponseContext;
  readonly limits?: HeadLimits;
  /** The connection ends behind the bytes. */
  readonly end?: boolean;
}

function endsHttp(head: Head, context: ResponseContext | undefined): boolean {
  if ("method" in head) return head.method === "CONNECT";
  return head.status === 101 || (context === "to-connect" && head.status >= 200 && head.status < 300);
}

/** Reads as a connection does: what `feed` leaves is fed again, until HTTP ends. */
function read(setup: Setup, chunks: readonly Uint8Array[]): Reading {
  const messages: Message[] = [];
  let head: Head | undefined;
  let body = "";
  let over = false;
  const handler = {
    onHead(found: Head) {
      expect(head).toBeUndefined();
      head = found;
    },
    onBody(chunk: Uint8Array) {
      expect(head).toBeDefined();
      body += Buffer.from(chunk).toString("latin1");
    },
    onComplete(trailers: Fields) {
      messages.push({ head: head!, body, trailers });
      over = endsHttp(head!, setup.context);
      head = undefined;
      body = "";
    },
  };
  const reader =
    setup.kind === "request"
      ? new RequestReader(handler, setup.limits)
      : new ResponseReader(handler, setup.context, setup.limits);
  const rest: Uint8Array[] = [];
  try {
    for (const chunk of chunks) {
      let left = chunk;
      while (left.length > 0 && !over) left = left.subarray(reader.feed(left));
      rest.push(left);
    }
    if (!over && setup.end !== false) reader.finish();
    return { messages, error: undefined, rest: Buffer.concat(rest).toString("latin1") };
  } catch (error) {
    if (!(error instanceof SeikanError)) throw error;
    return { messages, error: error.code, rest: "" };
  } finally {
    reader.release();
  }
}

const random = randomNumbers();

/** Reads the same bytes whole, byte by byte and at random cuts; the results must be the same. */
function readEveryWay(setup: Setup, wire: string): Reading {
  const bytes = Buffer.from(wire, "latin1");
  const whole = read(setup, [bytes]);
  const ways: [string, Buffer[]][] = [["byte by byte", byteByByte(bytes)]];
  for (let i = 0; i < 8; i++) {
    const chunks = cutAtRandom(bytes, random);
    ways.push([`cut into ${chunks.map((chunk) => chunk.length).join("+")}`, chunks]);
  }
  for (const [way, chunks] of ways) expect({ way, reading: read(setup, chunks) }).toEqual({ way, reading: whole });
  return whole;
}

function requests(wire: string, limits?: HeadLimits): Reading {
  return readEveryWay(limits === undefined ? { kind: "request" } : { kind: "request", limits }, wire);
}

function responses(wire: string, context: ResponseContext = "normal"): Reading {
  return readEveryWay({ kind: "response", context }, wire);
}

const get = (lines: string) => `GET / HTTP/1.1\r\nHost: a\r\n${lines}\r\n`;
const post = (lines: string, body: string) => `POST / HTTP/1.1\r\nHost: a\r\n${lines}\r\n${body}`;
const chunked = (body: string) => post("Transfer-Encoding: chunked\r\n", body);

interface Good {
  readonly name: string;
  /** What is wrong in src: the test fails until that is mended. */
  readonly wire: string;
  readonly head?: Record<string, unknown>;
  readonly body?: string;
  readonly trailers?: Fields;
}

interface Bad {
  readonly name: string;
  readonly wire: string;
  readonly code?: ErrorCode;
  /** What is wrong in src: the test fails until that is mended. */
}

const TAKEN_REQUESTS: readonly Good[] = [
  {
    name: "origin-form",
    wire: "GET /a?b=c%20d HTTP/1.1\r\nHost: a\r\n\r\n",
    head: { method: "GET", target: "/a?b=c%20d", minor: 1, fields: ["Host", "a"], keepAlive: true, framing: 0 },
  },
  {
    name: "absolute-form",
    wire: "GET http://a.test:80/x HTTP/1.1\r\nHost: b\r\n\r\n",
    head: { target: "http://a.test:80/x" },
  },
  { name: "asterisk-form", wire: "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", head: { method: "OPTIONS", target: "*" } },
  { name: "one empty line in front", wire: `\r\n${get("")}`, head: { method: "GET" } },
  { name: "several empty lines in front", wire: `\r\n\r\n\r\n${get("")}`, head: { method: "GET" } },
  {
    name: "HTTP/1.0 without keep-alive",
    wire: "GET / HTTP/1.0\r\n\r\n",
    head: { minor: 0, keepAlive: false, framing: 0 },
  },
  {
    name: "HTTP/1.0 with keep-alive",
    wire: "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    head: { minor: 0, keepAlive: true },
  },
  { name: "Connection: close", wire: get("Connection: close\r\n"), head: { keepAlive: false } },
  {
    name: "a body by length",
    wire: post("Content-Length: 5\r\n", "a\r\n\r\n"),
    head: { framing: 5 },
    body: "a\r\n\r\n",
  },
  { name: "Content-Length: 0", wire: post("Content-Length: 0\r\n", ""), head: { framing: 0 }, body: "" },
  {
    name: "Content-Length with leading zeros",
    wire: post("Content-Length: 0003\r\n", "abc"),
    head: { framing: 3 },
    body: "abc",
  },
  {
    name: "a chunked body",
    wire: chunked("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
    head: { framing: "chunked" },
    body: "abcde",
  },
  { name: "an empty chunked body", wire: chunked("0\r\n\r\n"), head: { framing: "chunked" }, body: "" },
  {
    name: "CHUNKED in any case",
    wire: post("Transfer-Encoding: ChUnKeD\r\n", "1\r\nx\r\n0\r\n\r\n"),
    head: { framing: "chunked" },
    body: "x",
  },
  {
    name: "chunk sizes in both cases and with zeros",
    wire: chunked(`00A\r\n${"x".repeat(10)}\r\na\r\n${"y".repeat(10)}\r\n000\r\n\r\n`),
    body: "x".repeat(10) + "y".repeat(10),
  },
  {
    name: "chunk data that looks like the end",
    wire: chunked("9\r\n0\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"),
    body: "0\r\n\r\n\r\n\r\n",
  },
  { name: "chunk extensions", wire: chunked('3;a=b;c="d;e"\r\nabc\r\n0;last\r\n\r\n'), body: "abc" },
  {
    name: "trailers",
    wire: chunked("1\r\nx\r\n0\r\nX-Sum: 1\r\nx-more:  2 \r\n\r\n"),
    body: "x",
    trailers: ["X-Sum", "1", "x-more", "2"],
  },
  {
    name: "values trimmed, names and order kept",
    wire: get("B:  1 \t\r\na:\tx y\r\nB: 2\r\nempty:\r\n"),
    head: { fields: ["Host", "a", "B", "1", "a", "x y", "B", "2", "empty", ""] },
  },
  { name: "bytes above 127 in a value", wire: get("X: caf\xe9\r\n"), head: { fields: ["Host", "a", "X", "caf\xe9"] } },
  { name: "a tab within a value", wire: get("X: a\tb\r\n"), head: { fields: ["Host", "a", "X", "a\tb"] } },
  {
    name: "every token character in a name",
    wire: get("!#$%&'*+-.^_`|~09Az: v\r\n"),
    head: { fields: ["Host", "a", "!#$%&'*+-.^_`|~09Az", "v"] },
  },
  { name: "Upgrade without a body", wire: get("Connection: Upgrade\r\nUpgrade: websocket\r\n"), head: { framing: 0 } },
  {
    name: "Upgrade with a body",
    wire: post("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n", "abc"),
    head: { framing: 3 },
    body: "abc",
  },
  { name: "Expect: 100-continue", wire: post("Expect: 100-continue\r\nContent-Length: 2\r\n", "ok"), body: "ok" },
  {
    name: "QUERY",
    wire: "QUERY / HTTP/1.1\r\nHost: a\r\n\r\n",
    head: { method: "QUERY" },
  },
  { name: "M-SEARCH", wire: "M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", head: { method: "M-SEARCH" } },
  {
    name: "CONNECT",
    wire: "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    head: { method: "CONNECT", target: "a:443", framing: 0 },
  },
  { name: "CONNECT in HTTP/1.0", wire: "CONNECT a:443 HTTP/1.0\r\n\r\n", head: { method: "CONNECT", minor: 0 } },
  {
    name: "CONNECT with Content-Length: 0",
    wire: "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    head: { method: "CONNECT", framing: 0 },
  },
];

const REFUSED_REQUESTS: readonly Bad[] = [
  // C1, C2, C3
  {
    name: "Content-Length beside Transfer-Encoding",
    wire: post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
  },
  {
    name: "Transfer-Encoding beside Content-Length",
    wire: post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
  },
  {
    name: "two Transfer-Encoding lines",
    wire: post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
  },
  { name: "chunked twice in one line", wire: post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n") },
  {
    name: "a coding before chunked",
    wire: post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    code: "request-unsupported",
  },
  {
    name: "an empty list member before chunked",
    wire: post("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"),
    code: "request-unsupported",
  },
  { name: "an empty list member behind chunked", wire: post("Transfer-Encoding: chunked,\r\n", "0\r\n\r\n") },
  { name: "a coding that only ends in chunked", wire: post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n") },
  { name: "chunked with a parameter", wire: post("Transfer-Encoding: chunked;a=b\r\n", "0\r\n\r\n") },
  { name: "chunked before another coding", wire: post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n") },
  { name: "Transfer-Encoding: identity", wire: post("Transfer-Encoding: identity\r\n", "0\r\n\r\n") },
  { name: "an empty Transfer-Encoding", wire: post("Transfer-Encoding:\r\n", "0\r\n\r\n") },
  { name: "chunked with a vertical tab", wire: post("Transfer-Encoding: chunked\x0b\r\n", "0\r\n\r\n") },
  { name: "chunked in quotes", wire: post('Transfer-Encoding: "chunked"\r\n', "0\r\n\r\n") },
  { name: "Transfer-Encoding in HTTP/1.0", wire: "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
  // C4
  ...["+5", "-5", "0x5", "5_0", "5 0", "5,5", "5, 6", "", " ", "five", "5;a", "5.0", "1e1", "18446744073709551616"].map(
    (length) => ({
      name: `Content-Length "${length}"`,
      wire: post(`Content-Length: ${length}\r\n`, "abcde"),
    }),
  ),
  {
    name: "Content-Length beyond 2^53-1",
    wire: post("Content-Length: 9007199254740993\r\n", "abcde"),
  },
  { name: "two Content-Length lines that differ", wire: post("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef") },
  { name: "two equal Content-Length lines", wire: post("Content-Length: 5\r\nContent-Length: 5\r\n", "abcde") },
  // C5, C6, C7
  ...["+3", "-3", "0x3", " 3", "3 ", "3_", "g", "", "ffffffffffffffff1", "3\t"].map((size) => ({
    name: `a chunk size "${size}"`,
    wire: chunked(`${size}\r\nabc\r\n0\r\n\r\n`),
  })),
  { name: "a chunk size ended by LF", wire: chunked("3\nabc\r\n0\r\n\r\n") },
  { name: "chunk data ended by LF", wire: chunked("3\r\nabc\n0\r\n\r\n") },
  { name: "chunk data longer than its size", wire: chunked("3\r\nabcd\r\n0\r\n\r\n") },
  { name: "a last chunk ended by LF", wire: chunked("0\n\r\n") },
  { name: "a trailer section ended by LF", wire: chunked("0\r\n\n") },
  { name: "two bytes that are no CRLF behind the last chunk", wire: chunked("0\r\nxx") + get("") },
  { name: "a bare CR in a chunk extension", wire: chunked("3;a\rb\r\nabc\r\n0\r\n\r\n") },
  { name: "a bare LF in a chunk extension", wire: chunked("3;a\nb\r\nabc\r\n0\r\n\r\n") },
  { name: "a space in a trailer's name", wire: chunked("0\r\nX Y: 1\r\n\r\n") },
  { name: "more chunk extensions than the limit", wire: chunked(`3;a=${"b".repeat(20_000)}\r\nabc\r\n0\r\n\r\n`) },
  { name: "more trailers than the limit", wire: chunked(`0\r\n${`X: ${"y".repeat(1000)}\r\n`.repeat(20)}\r\n`) },
  // C8 to C12
  { name: "a space before the colon", wire: get("X : 1\r\n") },
  { name: "a tab before the colon", wire: get("X\t: 1\r\n") },
  { name: "an empty field name", wire: get(": 1\r\n") },
  { name: "a space in a field name", wire: get("X Y: 1\r\n") },
  { name: "a line without a colon", wire: get("nonsense\r\n") },
  ...["(", "@", "[", "\x80", "\x7f", "\x01", '"', "/"].map((char) => ({
    name: `${JSON.stringify(char)} in a field name`,
    wire: get(`X${char}Y: 1\r\n`),
  })),
  { name: "a folded line", wire: get("X: 1\r\n 2\r\n") },
  { name: "a line folded with a tab", wire: get("X: 1\r\n\t2\r\n") },
  ...["\0", "\x01", "\x0b", "\x1b", "\x7f"].map((char) => ({
    name: `${JSON.stringify(char)} in a value`,
    wire: get(`X: a${char}b\r\n`),
  })),
  { name: "a bare CR in a value", wire: get("X: a\rb\r\n") },
  { name: "a bare CR that ends a line", wire: get("X: a\rY: b\r\n") },
  { name: "a bare LF that ends the request line", wire: "GET / HTTP/1.1\nHost: a\r\n\r\n" },
  { name: "a bare LF that ends a field", wire: "GET / HTTP/1.1\r\nHost: a\n\r\n" },
  { name: "a bare LF that ends the head", wire: "GET / HTTP/1.1\r\nHost: a\r\n\n" },
  { name: "whitespace before the first field", wire: "GET / HTTP/1.1\r\n Host: a\r\n\r\n" },
  // C14
  { name: "two spaces before the target", wire: "GET  / HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "two spaces behind the target", wire: "GET /  HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "a tab in the request line", wire: "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "a space behind the version", wire: "GET / HTTP/1.1 \r\nHost: a\r\n\r\n" },
  { name: "a space in the target", wire: "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "a control character in the target", wire: "GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "a method in lower case", wire: "get / HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "an unknown method", wire: "FROB / HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "a space in front of the method", wire: " GET / HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "no version (HTTP/0.9)", wire: "GET /\r\n\r\n" },
  { name: "http in lower case", wire: "GET / http/1.1\r\nHost: a\r\n\r\n" },
  { name: "a version of two digits", wire: "GET / HTTP/1.10\r\nHost: a\r\n\r\n" },
  { name: "HTTP/2.0", wire: "GET / HTTP/2.0\r\nHost: a\r\n\r\n", code: "version-unsupported" },
  { name: "the HTTP/2 preface", wire: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" },
  {
    name: "an RTSP request",
    wire: "DESCRIBE /a RTSP/1.0\r\nCSeq: 1\r\n\r\n",
  },
  { name: "an RTSP method in HTTP", wire: "DESCRIBE /a HTTP/1.1\r\nHost: a\r\n\r\n" },
  { name: "an ICE request", wire: "SOURCE /a ICE/1.0\r\n\r\n" },
  { name: "a TLS hello", wire: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" },
  // A11
  { name: "CONNECT with a length", wire: "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde" },
  {
    name: "CONNECT with Transfer-Encoding",
    wire: "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
  },
  // C22, from the other side
  { name: "a head that is cut", wire: "GET / HTTP/1.1\r\nHost: a\r\n", code: "peer-closed" },
  { name: "a body that is cut", wire: post("Content-Length: 5\r\n", "abc"), code: "peer-closed" },
  { name: "a chunked body that is cut", wire: chunked("3\r\nabc\r\n"), code: "peer-closed" },
  { name: "a chunked body without its last line", wire: chunked("3\r\nabc\r\n0\r\n"), code: "peer-closed" },
];

function describeTaken(vectors: readonly Good[], readAll: (wire: string) => Reading): void {
  for (const { name, wire, head, body, trailers } of vectors) {
    test(`takes ${name}`, () => {
      const { messages, error } = readAll(wire);
      expect(error).toBeUndefined();
      expect(messages).toHaveLength(1);
      if (head !== undefined) expect(messages[0]!.head).toMatchObject(head);
      expect(messages[0]!.body).toBe(body ?? "");
      expect(messages[0]!.trailers).toEqual(trailers ?? []);
    });
  }
}

function describeRefused(vectors: readonly Bad[], usual: ErrorCode, readAll: (wire: string) => Reading): void {
  for (const { name, wire, code } of vectors) {
    test(`refuses ${name}`, () => {
      const { messages, error } = readAll(wire);
      expect({ messages, error }).toEqual({ messages: [], error: code ?? usual });
    });
  }
}

describe("a request reader", () => {
  describeTaken(TAKEN_REQUESTS, (wire) => requests(wire));
  describeRefused(REFUSED_REQUESTS, "bad-request", (wire) => requests(wire));
});

// --- where messages end ------------------------------------------------------

const FIRST = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n";
const SECOND =
  "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n\r\n\r\n0\r\n\r\n\r\n0\r\nX: 1\r\n\r\n";
const THIRD = "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
const PIPELINE = FIRST + SECOND + THIRD + THIRD;

function summary({ messages, error, rest }: Reading): unknown {
  const told = messages.map(({ head, body, trailers }) => [
    "target" in head ? head.target : head.status,
    body,
    trailers,
  ]);
  return { told, error, rest };
}

const PIPELINED = {
  told: [
    ["/1", "\r\n\r\n", []],
    ["/2", "\r\n\r\n0\r\n\r\n", ["X", "1"]],
    ["/3", "", []],
    ["/3", "", []],
  ],
  error: undefined,
  rest: "",
};

describe("a reader of pipelined messages", () => {
  test("stops feeding at the end of each one", () => {
    const ends: number[] = [];
    const reader = new RequestReader({ onHead() {}, onBody() {}, onComplete() {} });
    const bytes = Buffer.from(PIPELINE);
    for (let at = 0; at < bytes.length; ends.push(at)) at += reader.feed(bytes.subarray(at));
    expect(reader.isMidMessage).toBe(false);
    // The head of a message with a body is not an end, the last byte of its body is.
    expect(ends).toEqual([FIRST.length, (FIRST + SECOND).length, (FIRST + SECOND + THIRD).length, PIPELINE.length]);
  });

  test("reads them from one chunk, and byte by byte", () => {
    const bytes = Buffer.from(PIPELINE);
    expect(summary(read({ kind: "request" }, [bytes]))).toEqual(PIPELINED);
    expect(summary(read({ kind: "request" }, byteByByte(bytes)))).toEqual(PIPELINED);
  });

  // An empty line that begins at one of a chunk's first three bytes is not found: `#sliceEnd` searches from the third on.
  test("reads them wherever the bytes are cut", () => {
    const wrong: { at: number; result: unknown }[] = [];
    for (const [left, right] of splits(Buffer.from(PIPELINE))) {
      const result = summary(read({ kind: "request" }, [left, right]));
      if (!Bun.deepEquals(result, PIPELINED)) wrong.push({ at: left.length, result });
    }
    expect(wrong).toEqual([]);
  });

  // `Uint8Array.prototype.indexOf(CRLFCRLF)` never finds anything; a cast does not make a Buffer.
  test("reads them from arrays that are no Buffer", () => {
    expect(summary(read({ kind: "request" }, [new Uint8Array(Buffer.from(PIPELINE))]))).toEqual(PIPELINED);
  });

  // The same.
  test("reads answers wherever the bytes are cut", () => {
    const answers =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" +
      "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    const expected = {
      told: [
        [100, "", []],
        [200, "ok", []],
        [204, "", []],
        [200, "ab", []],
      ],
      error: undefined,
      rest: "",
    };
    const wrong: { at: number; result: unknown }[] = [];
    for (const [left, right] of splits(Buffer.from(answers))) {
      const result = summary(read({ kind: "response" }, [left, right]));
      if (!Bun.deepEquals(result, expected)) wrong.push({ at: left.length, result });
    }
    expect(wrong).toEqual([]);
  });

  test("refuses what follows a good message when that is malformed", () => {
    const bytes = Buffer.from(`${THIRD}GET / HTTP/1.1\r\nX : 1\r\n\r\n`);
    for (const chunks of [[bytes], byteByByte(bytes)]) {
      const { messages, error } = read({ kind: "request" }, chunks);
      expect(messages).toHaveLength(1);
      expect(error).toBe("bad-request");
    }
  });

  test("returns from feed after the handler call that paused it", () => {
    const calls: string[] = [];
    const reader: RequestReader = new RequestReader({
      onHead: () => (calls.push("head"), reader.pause()),
      onBody: (chunk) => void calls.push(Buffer.from(chunk).toString()),
      onComplete: () => void calls.push("complete"),
    });
    const bytes = Buffer.from(post("Content-Length: 3\r\n", "abc"));
    const taken = reader.feed(bytes);
    expect([taken, calls]).toEqual([bytes.length - 3, ["head"]]);
    expect(reader.isMidMessage).toBe(true);
    expect(reader.feed(bytes.subarray(taken))).toBe(3);
    expect(calls).toEqual(["head", "abc", "complete"]);
  });
});

describe("bytes behind a message that ends HTTP are left unread", () => {
  const tail = "\x16\x03\x01 GET / HTTP/1.1\r\n\r\n\0\xff\r\n\r\n";
  const heads: [string, Setup, string, string | number][] = [
    ["a CONNECT", { kind: "request" }, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "a:443"],
    [
      "a 200 to CONNECT",
      { kind: "response", context: "to-connect" },
      "HTTP/1.1 200 Connection established\r\n\r\n",
      200,
    ],
    ["a 204 to CONNECT", { kind: "response", context: "to-connect" }, "HTTP/1.0 204 \r\nVia: 1.1 x\r\n\r\n", 204],
    [
      "a 200 to CONNECT with a length",
      { kind: "response", context: "to-connect" },
      "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
      200,
    ],
    [
      "a chunked 200 to CONNECT",
      { kind: "response", context: "to-connect" },
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
      200,
    ],
    [
      "a 101",
      { kind: "response" },
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
      101,
    ],
    ["a 101 without Upgrade", { kind: "response" }, "HTTP/1.1 101 Switching Protocols\r\n\r\n", 101],
  ];
  for (const [name, setup, head, start] of heads) {
    test(`behind ${name}, wherever the bytes are cut`, () => {
      const expected = { told: [[start, "", []]], error: undefined, rest: tail };
      const bytes = Buffer.from(head + tail, "latin1");
      for (const chunks of [...splits(bytes), byteByByte(bytes), [new Uint8Array(bytes)]]) {
        const cut = chunks[0]!.length;
        expect({ cut, ...(summary(read(setup, chunks)) as object) }).toEqual({ cut, ...expected });
      }
    });
  }

  // llhttp refuses the two together before anybody asks about the context.
  test("behind a 200 to CONNECT with both a length and Transfer-Encoding", () => {
    // curl test 1287 sends this: both fields mean nothing here (RFC 9110 section 9.3.6).
    const head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
    expect(summary(responses(head + tail, "to-connect"))).toEqual({
      told: [[200, "", []]],
      error: undefined,
      rest: tail,
    });
  });

  test("behind a CONNECT that follows another request", () => {
    const wire = `${THIRD}CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n${tail}`;
    expect(summary(read({ kind: "request" }, [Buffer.from(wire, "latin1")]))).toEqual({
      told: [
        ["/3", "", []],
        ["a:1", "", []],
      ],
      error: undefined,
      rest: tail,
    });
  });
});

// --- limits ------------------------------------------------------------------

describe("the limits of a head", () => {
  const limits = { bytes: 200, fields: 5 };
  const headOf = (size: number) => {
    const head = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    return `${head}${"x".repeat(size - head.length - 4)}\r\n\r\n`;
  };

  test("let a head of exactly as many bytes pass", () => {
    expect(requests(headOf(200), limits).error).toBeUndefined();
  });

  test("refuse a head of one byte more", () => {
    expect(requests(headOf(201), limits).error).toBe("head-too-large");
  });

  test("do not count bytes of the body", () => {
    const { error, messages } = requests(post("Content-Length: 500\r\n", "x".repeat(500)), limits);
    expect(error).toBeUndefined();
    expect(messages[0]!.body).toHaveLength(500);
  });

  test("count anew for each message", () => {
    const bytes = Buffer.from(headOf(150) + headOf(150));
    expect(read({ kind: "request", limits }, [bytes]).messages).toHaveLength(2);
    expect(read({ kind: "request", limits }, byteByByte(bytes)).messages).toHaveLength(2);
  });

  test("tell a request line that is too long from a head that is", () => {
    const bytes = Buffer.from(`GET /${"x".repeat(300)}`);
    expect(read({ kind: "request", limits }, [bytes]).error).toBe("uri-too-long");
    expect(read({ kind: "request", limits }, byteByByte(bytes)).error).toBe("uri-too-long");
  });

  // Whether the line's end came in the same chunk decides between 414 and 431.
  test("say that a request line is too long also when its end came in the same chunk", () => {
    expect(requests(`GET /${"x".repeat(300)} HTTP/1.1\r\nHost: a\r\n\r\n`, limits).error).toBe("uri-too-long");
  });

  test("let exactly as many fields pass", () => {
    expect(requests(get("X: 1\r\n".repeat(4)), limits).messages[0]!.head.fields).toHaveLength(10);
  });

  test("refuse one field more", () => {
    expect(requests(get("X: 1\r\n".repeat(5)), limits).error).toBe("head-too-large");
  });

  test("stop an answer's head, too", () => {
    const wire = Buffer.from(`HTTP/1.1 200 OK\r\nX: ${"x".repeat(300)}\r\n\r\n`);
    expect(read({ kind: "response", limits }, [wire]).error).toBe("bad-response");
    expect(read({ kind: "response", limits }, byteByByte(wire)).error).toBe("bad-response");
  });

  test("stop empty lines without end", () => {
    expect(requests("\r\n".repeat(500), limits).error).toBe("head-too-large");
  });
});

describe("more fields than llhttp hands over at once", () => {
  for (const count of [31, 32, 33, 63, 64, 65, 99]) {
    test(`keep their order and the target (${count})`, () => {
      const lines = Array.from({ length: count }, (_, i) => [`X-${i}`, `value ${i}`]);
      const wire = `GET /deep/path HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`;
      const { messages } = requests(wire);
      expect(messages[0]!.head).toMatchObject({ target: "/deep/path", fields: lines.flat() });
      const answer = `HTTP/1.1 200 Fine\r\n${wire.slice(wire.indexOf("X-0"), -2)}Content-Length: 0\r\n\r\n`;
      expect(responses(answer).messages[0]!.head).toMatchObject({
        status: 200,
        reason: "Fine",
        fields: [...lines.flat(), "Content-Length", "0"],
      });
    });
  }

  test("keep the order of trailers", () => {
    const lines = Array.from({ length: 70 }, (_, i) => [`T-${i}`, String(i)]);
    const wire = chunked(`1\r\nx\r\n0\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`);
    expect(requests(wire).messages[0]!.trailers).toEqual(lines.flat());
  });
});

// --- answers -----------------------------------------------------------------

const ok = (lines: string, body = "") => `HTTP/1.1 200 OK\r\n${lines}\r\n${body}`;

const TAKEN_RESPONSES: readonly Good[] = [
  {
    name: "a body by length",
    wire: ok("Content-Length: 3\r\n", "abc"),
    head: { status: 200, reason: "OK", minor: 1, framing: 3, keepAlive: true },
    body: "abc",
  },
  {
    name: "a chunked body with trailers",
    wire: ok("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nX: 1\r\n\r\n"),
    head: { framing: "chunked" },
    body: "abc",
    trailers: ["X", "1"],
  },
  {
    name: "a body until the end of the connection",
    wire: ok("", "abc\r\n\r\ndef"),
    head: { framing: "until-close" },
    body: "abc\r\n\r\ndef",
  },
  { name: "an empty body until the end of the connection", wire: ok(""), head: { framing: "until-close" }, body: "" },
  { name: "no reason", wire: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", head: { status: 200, reason: "" } },
  { name: "an empty reason", wire: "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", head: { status: 200, reason: "" } },
  {
    name: "a reason of several words",
    wire: "HTTP/1.1 404 Not here, caf\xe9\r\nContent-Length: 0\r\n\r\n",
    head: { status: 404, reason: "Not here, caf\xe9" },
  },
  {
    name: "HTTP/1.0",
    wire: "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
    head: { minor: 0, keepAlive: false },
    body: "x",
  },
  {
    name: "Connection: close",
    wire: ok("Connection: close\r\nContent-Length: 1\r\n", "x"),
    head: { keepAlive: false },
    body: "x",
  },
  {
    name: "204 without a body whatever its length says",
    wire: "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
    head: { status: 204, framing: 0 },
    body: "",
  },
  {
    name: "304 with a length and without a body",
    wire: "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
    head: { status: 304, framing: 0, fields: ["Content-Length", "3"] },
  },
  {
    name: "304 with Transfer-Encoding and without a body",
    wire: "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    head: { status: 304, framing: 0 },
  },
  {
    name: "103 Early Hints",
    wire: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    head: { status: 103, framing: 0 },
  },
  {
    name: "several Set-Cookie lines",
    wire: ok("Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n"),
    head: { fields: ["Set-Cookie", "a=1", "Set-Cookie", "b=2", "Content-Length", "0"] },
  },
  { name: "status 599", wire: "HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", head: { status: 599 } },
];

const REFUSED_RESPONSES: readonly Bad[] = [
  {
    name: "Content-Length beside Transfer-Encoding",
    wire: ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
  },
  { name: "an unknown Transfer-Encoding", wire: ok("Transfer-Encoding: gzip\r\n", "abc") },
  { name: "a coding before chunked", wire: ok("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n") },
  { name: "chunked twice", wire: ok("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n") },
  {
    name: "two Transfer-Encoding lines",
    wire: ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
  },
  {
    name: "an empty list member behind chunked",
    wire: ok("Transfer-Encoding: chunked,\r\n", "3\r\nabc\r\n0\r\n\r\n"),
  },
  { name: "an empty Transfer-Encoding", wire: ok("Transfer-Encoding:\r\n", "abc") },
  { name: "Transfer-Encoding in HTTP/1.0", wire: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
  ...["+5", "-5", "0x5", "5_0", "5, 5", "5, 6", "", "five", "18446744073709551616"].map((length) => ({
    name: `Content-Length "${length}"`,
    wire: ok(`Content-Length: ${length}\r\n`, "abcde"),
  })),
  {
    name: "Content-Length beyond 2^53-1",
    wire: ok("Content-Length: 9007199254740993\r\n", "abcde"),
  },
  { name: "two Content-Length lines", wire: ok("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef") },
  { name: "a malformed chunk size", wire: ok("Transfer-Encoding: chunked\r\n", "g\r\n") },
  { name: "chunk data ended by LF", wire: ok("Transfer-Encoding: chunked\r\n", "3\r\nabc\n0\r\n\r\n") },
  { name: "a folded line", wire: ok("X: 1\r\n 2\r\n") },
  { name: "a space before the colon", wire: ok("X : 1\r\n") },
  { name: "a line without a colon", wire: ok("nonsense\r\n") },
  { name: "NUL in a value", wire: ok("X: a\0b\r\n") },
  { name: "a bare CR in a value", wire: ok("X: a\rb\r\n") },
  { name: "a bare CR in the reason", wire: "HTTP/1.1 200 O\rK\r\n\r\n" },
  {
    name: "a control character in the reason",
    wire: "HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
  },
  { name: "bare LF line ends", wire: "HTTP/1.1 200 OK\nContent-Length: 0\n\n" },
  { name: "a status of two digits", wire: "HTTP/1.1 20 OK\r\n\r\n" },
  { name: "a status of four digits", wire: "HTTP/1.1 2000 OK\r\n\r\n" },
  { name: "status 099", wire: "HTTP/1.1 099 Low\r\n\r\n" },
  { name: "status 600", wire: "HTTP/1.1 600 High\r\n\r\n" },
  { name: "a status with letters", wire: "HTTP/1.1 2xx OK\r\n\r\n" },
  { name: "no status", wire: "HTTP/1.1\r\n\r\n" },
  { name: "HTTP/2.0", wire: "HTTP/2.0 200 OK\r\n\r\n" },
  { name: "HTTP/0.9", wire: "HTTP/0.9 200 OK\r\n\r\n" },
  { name: "ICY", wire: "ICY 200 OK\r\n\r\n" },
  { name: "RTSP", wire: "RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n" },
  { name: "an SSH banner", wire: "SSH-2.0-OpenSSH_9.2p1\r\n" },
  { name: "a TLS alert", wire: "\x15\x03\x01\x00\x02\x02\x0a" },
  { name: "HTML without a head", wire: "<html><body>no</body></html>\r\n\r\n" },
  { name: "a head that is cut", wire: "HTTP/1.1 200 OK\r\nX: 1\r\n", code: "response-incomplete" },
  { name: "a body shorter than its length", wire: ok("Content-Length: 5\r\n", "abc"), code: "response-incomplete" },
  {
    name: "a chunked body without its last chunk",
    wire: ok("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n"),
    code: "response-incomplete",
  },
  {
    name: "a chunked body without its last line",
    wire: ok("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n"),
    code: "response-incomplete",
  },
];

describe("an answer reader", () => {
  describeTaken(TAKEN_RESPONSES, (wire) => responses(wire));
  describeRefused(REFUSED_RESPONSES, "bad-response", (wire) => responses(wire));

  for (const lines of ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""]) {
    test(`reads no body in an answer to HEAD with ${JSON.stringify(lines)}`, () => {
      const { messages, error } = responses(ok(lines), "to-head");
      expect(error).toBeUndefined();
      expect(messages.map(({ head, body }) => [head.framing, body])).toEqual([[0, ""]]);
    });
  }

  test("reads a refusal's body in an answer to CONNECT", () => {
    const { messages } = responses("HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nnope", "to-connect");
    expect(messages.map(({ head, body }) => [(head as ResponseHead).status, body])).toEqual([[403, "nope"]]);
  });

  test("asks for the context at each head", () => {
    const seen: [number, Framing][] = [];
    const reader = new ResponseReader({
      onHead: (head) => void seen.push([head.status, head.framing]),
      onBody() {},
      onComplete() {},
    });
    reader.context = "to-head";
    reader.feed(Buffer.from(ok("Content-Length: 5\r\n")));
    reader.context = "normal";
    reader.feed(Buffer.from(ok("Content-Length: 5\r\n", "abcde")));
    reader.context = "to-connect";
    reader.feed(Buffer.from(ok("Content-Length: 5\r\n")));
    expect(seen).toEqual([
      [200, 0],
      [200, 5],
      [200, 0],
    ]);
  });
});

describe("finish", () => {
  test("completes a body that ends with the connection, once", () => {
    let completed = 0;
    const reader = new ResponseReader({ onHead() {}, onBody() {}, onComplete: () => void completed++ });
    reader.feed(Buffer.from(ok("", "abc")));
    expect(completed).toBe(0);
    reader.finish();
    reader.finish();
    expect(completed).toBe(1);
  });

  test("is quiet between messages", () => {
    const reader = new RequestReader({ onHead() {}, onBody() {}, onComplete() {} });
    reader.finish();
    reader.feed(Buffer.from(get("")));
    reader.finish();
    expect(reader.isMidMessage).toBe(false);
  });
});

describe("two readers at once", () => {
  // `batchTarget` is shared by all parsers; it must belong to one.
  test("do not mix their messages up", () => {
    const seen: string[] = [];
    const readerOf = (name: string) =>
      new RequestReader({
        onHead: (head) => void seen.push(`${name} ${head.target} ${head.fields.length / 2}`),
        onBody: (chunk) => void seen.push(`${name} ${Buffer.from(chunk).toString()}`),
        onComplete: () => void seen.push(`${name} done`),
      });
    const [a, b] = [readerOf("a"), readerOf("b")];
    const many = "X: 1\r\n".repeat(40);
    const wireA = `POST /a HTTP/1.1\r\n${many}Content-Length: 2\r\n\r\n`;
    const wireB = `POST /b HTTP/1.1\r\n${many}Content-Length: 2\r\n\r\n`;
    a.feed(Buffer.from(wireA.slice(0, -2)));
    b.feed(Buffer.from(wireB.slice(0, -2)));
    a.feed(Buffer.from("\r\n"));
    b.feed(Buffer.from("\r\n"));
    a.feed(Buffer.from("AA"));
    b.feed(Buffer.from("BB"));
    expect(seen).toEqual(["a /a 41", "b /b 41", "a AA", "a done", "b BB", "b done"]);
  });
});
