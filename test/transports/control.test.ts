import { describe, expect, test } from "bun:test";
import { deadlineIn, type Deadline } from "../../src/core/clock.ts";
import { SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { errorAnswer, textAnswer } from "../../src/routes/answers.ts";
import { askControl, LineReader, readControl, type ControlRequest } from "../../src/transports/control.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { CONTROL_BYTES, JSON_TYPE } from "../../src/wire/registration.ts";
import { soon } from "../support/pairs.ts";
import { byteByByte, cutAtRandom, randomNumbers } from "../support/random.ts";
import { Recorder, reset, within } from "../support/wait.ts";

const random = randomNumbers();

const REGISTER: ControlRequest = { path: "/-/register", text: '{"agent":"läptop","exposures":[]}' };
const BEHIND = "bytes behind the message: \u{1f409}\n";

/** The same bytes whole, byte by byte and at random cuts. */
function everyWay(bytes: Buffer): [way: string, chunks: Buffer[]][] {
  const cuts = Array.from({ length: 16 }, () => cutAtRandom(bytes, random));
  return [
    ["whole", [bytes]],
    ["byte by byte", byteByByte(bytes)],
    ...cuts.map((chunks): [string, Buffer[]] => [`cut into ${chunks.map(({ length }) => length).join("+")}`, chunks]),
  ];
}

/** Each chunk arrives by itself. */
function send(stream: ByteStream, chunks: readonly Uint8Array[]): void {
  for (const chunk of chunks) stream.write(Uint8Array.from(chunk));
}

function message(startLine: string, fields: readonly string[], body: string | Uint8Array = ""): Buffer {
  const bytes = typeof body === "string" ? Buffer.from(body) : body;
  return Buffer.concat([Buffer.from(`${[startLine, ...fields].join("\r\n")}\r\n\r\n`, "latin1"), bytes]);
}

const post = (text: string, path = "/-/register") =>
  message(`POST ${path} HTTP/1.1`, ["Host: agent", `Content-Length: ${Buffer.byteLength(text)}`], text);

/** What is left in a stream, once that many bytes came. */
async function remaining(stream: ByteStream, length: number): Promise<string> {
  const recorder = new Recorder(stream);
  await recorder.received(length);
  return recorder.bytes.toString();
}

async function failureOf(work: Promise<unknown>): Promise<SeikanError> {
  const outcome = await within(
    work.then(
      (value) => `no failure but ${Bun.inspect(value)}`,
      (error: unknown) => error,
    ),
    "the failure",
  );
  if (outcome instanceof SeikanError) return outcome;
  throw outcome instanceof Error ? outcome : new Error(String(outcome));
}

/** Asks; the far end, played by hand, answers with these bytes. */
function asked(answer: readonly Uint8Array[], deadline: Deadline = soon()) {
  const [near, far] = memoryPair();
  const server = new Recorder(far);
  const answered = askControl(near, REGISTER, deadline, "the server");
  send(far, answer);
  return { near, far, server, answered };
}

/** Reads a request of these bytes. */
function reading(request: readonly Uint8Array[], deadline: Deadline = soon()) {
  const [near, far] = memoryPair();
  send(far, request);
  return { near, far, request: readControl(near, deadline, "the agent") };
}

describe("a control request", () => {
  test("goes out as one POST with its length in bytes", async () => {
    const { near, server, answered } = asked([textAnswer({ status: 200, text: "{}" })]);
    await answered;
    near.end();
    await server.end();
    expect(server.bytes.toString()).toBe(
      [
        "POST /-/register HTTP/1.1",
        "Host: agent",
        `Content-Type: ${JSON_TYPE}`,
        `Content-Length: ${REGISTER.text.length + 1}`,
        "",
        REGISTER.text,
      ].join("\r\n"),
    );
  });

  test("arrives as it was asked, and its answer as it was given", async () => {
    const [near, far] = memoryPair({ window: 100, chunk: 7 });
    const long: ControlRequest = { path: "/-/health", text: JSON.stringify({ name: "ä".repeat(20_000) }) };
    const answered = askControl(near, long, soon(), "the server");
    expect(await readControl(far, soon(), "the agent")).toEqual(long);
    far.write(textAnswer({ status: 200, text: long.text, contentType: JSON_TYPE }));
    expect(JSON.parse(await answered)).toEqual(JSON.parse(long.text));
  });

  test("is read however it is cut, and what follows stays in the stream", async () => {
    for (const [way, chunks] of everyWay(Buffer.concat([post(REGISTER.text), Buffer.from(BEHIND)]))) {
      const { near, request } = reading(chunks);
      expect({ way, request: await request }).toEqual({ way, request: REGISTER });
      expect({ way, rest: await remaining(near, Buffer.byteLength(BEHIND)) }).toEqual({ way, rest: BEHIND });
    }
  });

  test("is read in chunks, too", async () => {
    const body = Buffer.from(REGISTER.text);
    const pieces = [body.subarray(0, 12), body.subarray(12)].flatMap((piece) => [
      Buffer.from(`${piece.length.toString(16)}\r\n`),
      piece,
      Buffer.from("\r\n"),
    ]);
    const chunked = message(
      "POST /-/register HTTP/1.1",
      ["Host: agent", "Transfer-Encoding: chunked"],
      Buffer.concat([...pieces, Buffer.from("0\r\n\r\n")]),
    );
    for (const [way, chunks] of everyWay(chunked)) {
      expect({ way, request: await reading(chunks).request }).toEqual({ way, request: REGISTER });
    }
  });

  test("may have no body", async () => {
    expect(await reading([message("POST /-/health HTTP/1.1", ["Host: agent"])]).request).toEqual({
      path: "/-/health",
      text: "",
    });
  });

  for (const method of ["GET", "PUT", "DELETE", "OPTIONS"]) {
    test(`is no ${method}`, async () => {
      const { near, far, request } = reading([
        message(`${method} /-/register HTTP/1.1`, ["Host: agent", "Content-Length: 2"], "{}"),
      ]);
      const error = await failureOf(request);
      expect([error.code, error.message]).toEqual(["bad-request", `the agent asks with ${method} instead of POST`]);
      // Whoever asked can still be told.
      near.write(errorAnswer(error, "seikan"));
      const told = new Recorder(far);
      await told.received(10);
      expect(told.text).toStartWith("HTTP/1.1 400 ");
    });
  }

  test("is as long as it may be, and no longer", async () => {
    const longest = "x".repeat(CONTROL_BYTES);
    expect((await reading([post(longest)]).request).text.length).toBe(CONTROL_BYTES);
    const { near, far, request } = reading([post(`${longest}x`)]);
    const error = await failureOf(request);
    expect([error.code, error.message]).toEqual(["bad-request", "the message is too long"]);
    near.write(errorAnswer(error, "seikan"));
    await new Recorder(far).received(10);
  });

  test("is not longer in chunks without end", async () => {
    const chunk = `10000\r\n${"x".repeat(0x10000)}\r\n`;
    const head = message("POST /-/register HTTP/1.1", ["Host: agent", "Transfer-Encoding: chunked"]);
    const chunks = Array.from({ length: 17 }, () => Buffer.from(chunk));
    expect((await failureOf(reading([head, ...chunks]).request)).code).toBe("bad-request");
  });

  for (const [what, bytes] of [
    ["of another protocol", Buffer.from("SSH-2.0-OpenSSH_9.9\r\n\r\n")],
    ["with two lengths", message("POST / HTTP/1.1", ["Host: a", "Content-Length: 1", "Content-Length: 2"])],
    ["that is an answer", textAnswer({ status: 200, text: "{}" })],
  ] as const) {
    test(`${what} is refused`, async () => {
      expect((await failureOf(reading([bytes]).request)).code).toBe("bad-request");
    });
  }

  const whole = post(REGISTER.text);
  for (const [where, length] of [
    ["at its beginning", 0],
    ["within its head", 30],
    ["before its body", whole.length - Buffer.byteLength(REGISTER.text)],
    ["within its body", whole.length - 3],
  ] as const) {
    test(`fails when the peer ends ${where}`, async () => {
      const { far, request } = reading([whole.subarray(0, length)]);
      far.end();
      const error = await failureOf(request);
      expect([error.code, error.message]).toEqual([
        "hop-closed",
        "the agent closed the connection during the handshake",
      ]);
    });

    test(`fails when the peer is lost ${where}`, async () => {
      const { far, request } = reading([whole.subarray(0, length)]);
      far.abort(reset());
      const error = await failureOf(request);
      expect(error.code).toBe("hop-closed");
      expect(error.message).toStartWith("the agent ended the connection during the handshake: ");
    });

    test(`fails when no more comes ${where}`, async () => {
      const { near, request } = reading([whole.subarray(0, length)], deadlineIn(5));
      const error = await failureOf(request);
      expect([error.code, error.message]).toEqual([
        "connect-timeout",
        "the agent does not answer within the connect timeout",
      ]);
      expect(near.isClosed).toBe(false);
    });
  }
});

describe("an answer to a control request", () => {
  test("is read however it is cut, and what follows stays in the stream", async () => {
    const text = JSON.stringify({ exposures: [], warnings: ["ü\n"] });
    const bytes = Buffer.concat([textAnswer({ status: 200, text, contentType: JSON_TYPE }), Buffer.from(BEHIND)]);
    for (const [way, chunks] of everyWay(bytes)) {
      const { near, answered } = asked(chunks);
      expect({ way, answer: (await answered).trimEnd() }).toEqual({ way, answer: text });
      expect({ way, rest: await remaining(near, Buffer.byteLength(BEHIND)) }).toEqual({ way, rest: BEHIND });
    }
  });

  test("that lasts gives its first line, and its further lines as they come", async () => {
    const first = JSON.stringify({ exposures: [], warnings: ["→"] });
    const events = [1, 2, 3].map((ms) => JSON.stringify({ event: "request", target: "/ä\u{1f409}", ms }));
    const bytes = message("HTTP/1.1 200 OK", [`Content-Type: ${JSON_TYPE}`], `${[first, ...events].join("\n")}\n`);
    for (const [way, chunks] of everyWay(bytes)) {
      const { near, far, answered } = asked(chunks);
      expect({ way, first: await answered }).toEqual({ way, first });
      const lines: string[] = [];
      const closed = Promise.withResolvers<unknown>();
      near.attach(new LineReader((line) => void lines.push(line), closed.resolve));
      far.write(Buffer.from("one more\n"));
      far.end();
      near.end();
      expect(await within(closed.promise, `the end of the lines, ${way}`)).toEqual({ error: undefined });
      expect({ way, lines }).toEqual({ way, lines: [...events, "one more"] });
    }
  });

  test("that lasts fails when the peer ends before the first line does", async () => {
    const { far, answered } = asked([message("HTTP/1.1 200 OK", [], '{"exposures":')]);
    far.end();
    expect((await failureOf(answered)).code).toBe("hop-closed");
  });

  test("that lasts and has no first line is not collected without end", async () => {
    const { answered } = asked([message("HTTP/1.1 200 OK", []), Buffer.alloc(CONTROL_BYTES + 1, "x")]);
    expect((await failureOf(answered)).message).toBe("the message is too long");
  });

  test("is no longer than it may be", async () => {
    const { answered } = asked([textAnswer({ status: 200, text: "x".repeat(CONTROL_BYTES) })]);
    expect((await failureOf(answered)).message).toBe("the message is too long");
  });

  test("is one of HTTP", async () => {
    const { answered } = asked([Buffer.from("SSH-2.0-OpenSSH_9.9\r\n\r\n")]);
    expect((await failureOf(answered)).code).toBe("bad-response");
  });

  test("that never comes is not waited for", async () => {
    const { near, server, answered } = asked([], deadlineIn(5));
    const error = await failureOf(answered);
    expect([error.code, error.message]).toEqual([
      "connect-timeout",
      "the server does not answer within the connect timeout",
    ]);
    expect([server.reason, near.isClosed]).toEqual([undefined, false]);
  });

  for (const [how, leave] of [
    ["ends", (far: ByteStream) => far.end()],
    ["is lost", (far: ByteStream) => far.abort(reset())],
  ] as const) {
    test(`fails when the peer ${how} within it`, async () => {
      const { far, answered } = asked([textAnswer({ status: 200, text: "{}" }).subarray(0, -2)]);
      leave(far);
      expect((await failureOf(answered)).code).toBe("hop-closed");
    });
  }
});

describe("a refusal of a control request", () => {
  for (const [code, status, kind] of [
    ["name-taken", 409, "hop-auth"],
    ["not-granted", 403, "hop-auth"],
    ["auth-required", 401, "hop-auth"],
    ["bad-request", 400, "hop-auth"],
    ["shutdown", 503, "hop-refused"],
    ["limit-reached", 503, "hop-refused"],
    ["internal", 500, "hop-refused"],
  ] as [ErrorCode, number, ErrorCode][]) {
    test(`for ${code} keeps its sentence, its hints and its status ${status}`, async () => {
      const hints = ["choose another with --name", "or wait: it may go"];
      const said = new SeikanError(code, "the name läptop is taken", { hints });
      for (const [way, chunks] of everyWay(errorAnswer(said, "seikan", { asOrigin: true }))) {
        const error = await failureOf(asked(chunks).answered);
        expect({ way, code: error.code, status: error.hopStatus, message: error.message, hints: error.hints }).toEqual({
          ...{ way, code: kind, status },
          ...{ message: "the server refuses: the name läptop is taken", hints },
        });
      }
    });
  }

  test("leaves the stream to whoever asked", async () => {
    const { near, answered } = asked([errorAnswer(new SeikanError("name-taken", "taken"), "seikan")]);
    await failureOf(answered);
    expect(near.isClosed).toBe(false);
  });

  for (const [what, bytes, message_] of [
    [
      "in the words of another program",
      message("HTTP/1.1 404 Not Found", ["Content-Length: 20"], "Not found\nnginx/1.27\n"),
      "the server answers: Not found",
    ],
    ["without words", message("HTTP/1.1 404 Not Found", ["Content-Length: 0"]), "the server answers: status 404"],
    ["without a body at all", message("HTTP/1.1 204 No Content", []), "the server answers: status 204"],
    ["that is no refusal", message("HTTP/1.1 201 Created", ["Content-Length: 2"], "{}"), "the server answers: {}"],
  ] as const) {
    test(`${what} is one, too`, async () => {
      const error = await failureOf(asked([bytes]).answered);
      expect([error.message, error.hints]).toEqual([message_, []]);
    });
  }
});

describe("a line reader", () => {
  function reader(chunks: readonly Uint8Array[]) {
    const lines: string[] = [];
    const closes: unknown[] = [];
    const sink = new LineReader(
      (line) => void lines.push(line),
      (reason) => void closes.push(reason),
    );
    for (const chunk of chunks) sink.onData(Uint8Array.from(chunk));
    return { sink, lines, closes };
  }

  test("takes lines however they are cut, with empty ones", () => {
    const bytes = Buffer.from("\nä\n\n\u{1f409}\u{1f409}\nz\n\n");
    for (const [way, chunks] of everyWay(bytes)) {
      expect({ way, lines: reader(chunks).lines }).toEqual({
        way,
        lines: ["", "ä", "", "\u{1f409}\u{1f409}", "z", ""],
      });
    }
  });

  test("drops a line that the end cuts", () => {
    const { sink, lines, closes } = reader([Buffer.from("a\nhalf")]);
    sink.onEnd();
    sink.onClose({ error: undefined });
    expect([lines, closes]).toEqual([["a"], [{ error: undefined }]]);
  });

  test("tells why it is over", () => {
    const { sink, closes } = reader([]);
    const error = reset();
    sink.onClose({ error });
    expect(closes).toEqual([{ error }]);
  });

  test("holds no more of a line than a message may have", () => {
    const chunk = Buffer.alloc(64 * 1024, "x");
    const { lines } = reader([...Array.from({ length: 40 }, () => chunk), Buffer.from("\nnext\n")]);
    expect(lines.at(-1)).toBe("next");
    expect(lines).toHaveLength(2);
    expect(lines[0]!.length).toBeLessThanOrEqual(CONTROL_BYTES + chunk.length);
  });
});
