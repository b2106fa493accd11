import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
// Bun replaces "ws" by a WebSocket of its own.
import { WebSocket, WebSocketServer } from "../../node_modules/ws/wrapper.mjs";
import type { ByteStream } from "../../src/core/stream.ts";
import { webSocketStream } from "../../src/transports/websocket.ts";
import { MessageEnd, upgradeClient, upgradeServer } from "../support/message-end.ts";
import { Process } from "../support/process.ts";
import { pythonWith } from "../support/programs.ts";
import { pattern, Recorder, reset, until, within, writeAll } from "../support/wait.ts";

const MIB = 1024 * 1024;
const sha = (bytes: Uint8Array) => new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
const python = pythonWith("websockets");
const PEER = join(import.meta.dir, "..", "support", "websocket-peer.py");

const overStream = (stream: ByteStream, role: "client" | "server", binaryOnly = true) =>
  webSocketStream(stream, { role, peer: "the peer", binaryOnly, maxFrame: 16 * MIB });

/** Gives back what it gets, message by message. */
function echoMessages(stream: ByteStream): MessageEnd {
  const end = new MessageEnd(stream, "server");
  end.onMessage = ({ isText, bytes }) => end.send(isText ? bytes.toString() : bytes);
  return end;
}

/** Gives back what it gets as bytes, and ends when its peer does. */
function echoBytes(stream: ByteStream): ByteStream {
  const socket = overStream(stream, "server");
  socket.attach({
    onData: (chunk) => {
      if (!socket.write(chunk)) socket.pause();
    },
    onDrain: () => socket.resume(),
    onEnd: () => socket.end(),
    onClose() {},
  });
  return socket;
}

// --- servers of others -------------------------------------------------------

interface Server extends AsyncDisposable {
  readonly port: number;
  /** Waits until it said how a connection ended: `4000 bye`. */
  closes(how: string): Promise<void>;
}

/** Does what `echo` of websocket-peer.py does. */
async function wsServer(): Promise<Server> {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", maxPayload: 0 });
  const closed: string[] = [];
  server.on("connection", (socket) => {
    socket.on("message", (data: Buffer, isBinary: boolean) => {
      const text = isBinary || data.length > 100 ? "" : data.toString();
      if (text.startsWith("!close ")) {
        const [, code, ...reason] = text.split(" ");
        return socket.close(Number(code), reason.join(" "));
      }
      if (text === "!parts") {
        for (const [part, fin] of [["one,"], [""], ["two,"], ["κόσμε", true]] as [string, boolean?][])
          socket.send(part, { fin: fin ?? false });
        socket.send(Buffer.of(0), { fin: false });
        socket.send(Buffer.alloc(300, 255), { fin: false });
        return socket.send(Buffer.alloc(0), { fin: true, binary: true });
      }
      if (text === "!ping") {
        socket.once("pong", (payload: Buffer) => socket.send(payload.toString() === "from ws" ? "ponged" : "wrong"));
        return socket.ping("from ws");
      }
      return socket.send(data, { binary: isBinary });
    });
    socket.on("close", (code: number, reason: Buffer) => void closed.push(`${code} ${reason.toString()}`.trim()));
  });
  await within(new Promise((resolve) => server.once("listening", resolve)), "the ws server");
  return {
    port: (server.address() as { port: number }).port,
    closes: (how) => until(() => closed.includes(how), `ws closes with ${how}, not ${closed.join()}`),
    async [Symbol.asyncDispose]() {
      for (const socket of server.clients) socket.terminate();
      server.close();
    },
  };
}

async function pythonServer(): Promise<Server> {
  const process = new Process([python!, PEER, "serve"]);
  await process.prints("\n");
  return {
    port: Number(/port (\d+)/.exec(process.stdout)![1]),
    closes: (how) => process.prints(`closed ${how}`),
    [Symbol.asyncDispose]: () => process[Symbol.asyncDispose](),
  };
}

const SERVERS: [name: string, start: () => Promise<Server>, isHere: boolean][] = [
  ["npm ws", wsServer, true],
  ["Python's websockets", pythonServer, python !== undefined],
];

for (const [name, start, isHere] of SERVERS) {
  describe.skipIf(!isHere)(`a server with ${name}`, () => {
    const running: Promise<Server>[] = [];
    /** One for all tests: a Python takes a while to begin. */
    const server = () => (running[0] ??= start());
    afterAll(async () => (await running[0])?.[Symbol.asyncDispose]());
    const connected = async () => new MessageEnd(await upgradeClient((await server()).port), "client");

    test("echoes our messages: text, binary, empty, of every length form", async () => {
      const end = await connected();
      const texts = ["text κόσμε 𝄞", "", "x".repeat(125), "y".repeat(126), "é".repeat(40_000)];
      const binaries = [0, 1, 125, 126, 65535, 65536].map((length) => pattern(length));
      for (const message of [...texts, ...binaries]) end.send(message);
      const messages = await end.got(texts.length + binaries.length);
      expect(messages.slice(0, texts.length).map(({ isText, bytes }) => [isText, bytes.toString()])).toEqual(
        texts.map((text) => [true, text]),
      );
      expect(messages.slice(texts.length).map(({ isText, bytes }) => [isText, sha(bytes)])).toEqual(
        binaries.map((bytes) => [false, sha(bytes)]),
      );
      end.sendClose(1000);
      await end.over();
      expect(end.close).toEqual({ code: 1000, reason: "" });
    });

    test("echoes our messages of 5 MiB", async () => {
      const end = await connected();
      const [text, binary] = ["é".repeat((5 * MIB) / 2), pattern(5 * MIB)];
      end.send(text);
      end.send(binary);
      const messages = await end.got(2);
      expect([messages[0]!.isText, sha(messages[0]!.bytes)]).toEqual([true, sha(Buffer.from(text))]);
      expect([messages[1]!.isText, sha(messages[1]!.bytes)]).toEqual([false, sha(binary)]);
      end.sendClose(1000);
      await end.over();
    });

    test("echoes our fragmented messages, with pings between the fragments", async () => {
      const end = await connected();
      const text = Buffer.from("fragmented κόσμε 𝄞");
      // Also within characters.
      end.sendInParts(true, [text.subarray(0, 12), text.subarray(12, 12), text.subarray(12, 23), text.subarray(23)]);
      const bytes = pattern(200_000);
      end.sendInParts(false, [bytes.subarray(0, 1), bytes.subarray(1, 70_001), bytes.subarray(70_001)]);
      const messages = await end.got(2);
      expect(messages[0]).toEqual({ isText: true, bytes: text });
      expect([messages[1]!.isText, sha(messages[1]!.bytes)]).toEqual([false, sha(bytes)]);
      await until(() => end.pongs === 2, "both pings are answered");
      end.sendClose(1000);
      await end.over();
    });

    test("sends fragmented messages and pings that we understand", async () => {
      const end = await connected();
      end.send("!parts");
      const [text, binary] = await end.got(2);
      expect(text).toEqual({ isText: true, bytes: Buffer.from("one,two,κόσμε") });
      expect(binary).toEqual({ isText: false, bytes: Buffer.concat([Buffer.of(0), Buffer.alloc(300, 255)]) });
      end.send("!ping");
      expect((await end.got(3))[2]!.bytes.toString()).toBe("ponged");
      expect(end.pings).toBe(1);
      end.sendClose(1000);
      await end.over();
    });

    test("understands our close codes, and we understand its", async () => {
      const ours: [number, string][] = [
        [1000, ""],
        [1001, "away"],
        [1011, "ours"],
        [3000, "κ"],
        [4999, "bye"],
      ];
      for (const [code, reason] of ours) {
        const end = await connected();
        end.send("first");
        await end.got(1);
        end.sendClose(code, reason);
        await end.over();
        expect(end.close?.code).toBe(code);
        await (await server()).closes(`${code} ${reason}`.trim());
      }
      for (const code of [1000, 1001, 1008, 1011, 3000, 4242]) {
        const end = await connected();
        end.send(`!close ${code} its reason`);
        await end.over();
        expect(end.close).toEqual({ code, reason: "its reason" });
      }
    });

    test("gives 4 MiB back through our byte stream, and its close ends it", async () => {
      const stream = overStream(await upgradeClient((await server()).port), "client");
      const end = new Recorder(stream);
      const bytes = pattern(4 * MIB, 5);
      const chunks: Uint8Array[] = [];
      for (let at = 0, size = 1; at < bytes.length; at += size, size = ((size * 3) % 200_003) + 1)
        chunks.push(bytes.subarray(at, at + size));
      await writeAll(end, chunks);
      await end.received(bytes.length, 20_000);
      expect(sha(end.bytes)).toBe(sha(bytes));
      stream.end();
      await end.end();
      expect(await end.close()).toEqual({ error: undefined });
      await (await server()).closes("1000");
    });

    test("ends our byte stream with its close codes: cleanly, or with an error that names them", async () => {
      for (const [code, expected] of [
        [1000, undefined],
        [1001, undefined],
        [1011, "peer-closed"],
        [4001, "peer-closed"],
      ] as const) {
        const inner = await upgradeClient((await server()).port);
        // The byte stream speaks binary frames only; this asks for the close.
        inner.write(Buffer.from(maskedText(`!close ${code} its reason`)));
        const end = new Recorder(overStream(inner, "client"));
        if (expected === undefined) {
          await end.end();
          end.stream.end();
        }
        const { error } = await end.close();
        expect(error?.code).toBe(expected!);
        if (expected !== undefined) expect(error?.message).toContain(`${code} (its reason)`);
      }
    });
  });
}

/** A text frame with a mask of zeros. */
function maskedText(text: string): number[] {
  return [0x81, 0x80 + text.length, 0, 0, 0, 0, ...Buffer.from(text)];
}

// --- clients of others ---------------------------------------------------------

describe("a client with npm ws", () => {
  const open = async (port: number) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`, { maxPayload: 0 });
    const got: { data: Buffer; isBinary: boolean }[] = [];
    const closed: string[] = [];
    const pongs: string[] = [];
    socket.on("message", (data: Buffer, isBinary: boolean) => void got.push({ data, isBinary }));
    socket.on("close", (code: number, reason: Buffer) => void closed.push(`${code} ${reason.toString()}`.trim()));
    socket.on("pong", (payload: Buffer) => void pongs.push(payload.toString()));
    socket.on("error", (error: Error) => void closed.push(error.message));
    await within(new Promise((resolve) => socket.once("open", resolve)), "ws is connected");
    return {
      socket,
      got,
      pongs,
      receives: (count: number) =>
        until(() => got.length >= count || closed.length > 0, `ws has ${count} messages`, 20_000),
      closes: async (how: string) => {
        await until(() => closed.length > 0, "ws is closed");
        expect(closed).toEqual([how]);
      },
    };
  };

  test("has its messages echoed: text, binary, empty, long, fragmented", async () => {
    using server = upgradeServer(echoMessages);
    const client = await open(server.port);
    const messages = ["text κόσμε 𝄞", "", Buffer.alloc(0), pattern(125), pattern(126), pattern(65535), pattern(65536)];
    const large = ["é".repeat((5 * MIB) / 2), pattern(5 * MIB)];
    for (const message of [...messages, ...large]) client.socket.send(message);
    client.socket.send("frag", { fin: false });
    client.socket.send("", { fin: false });
    client.socket.ping("between");
    client.socket.send("mented κ", { fin: true });
    const expected = [...messages, ...large, "fragmented κ"];
    await client.receives(expected.length);
    expect(client.got.map(({ data, isBinary }) => [isBinary, sha(data)])).toEqual(
      expected.map((message) => [typeof message !== "string", sha(Buffer.from(message as string))]),
    );
    expect(client.pongs).toEqual(["between"]);
    client.socket.close(4001, "bye");
    await client.closes("4001");
  });

  test("understands our close codes, and we understand its", async () => {
    const ends: MessageEnd[] = [];
    using server = upgradeServer((stream) => void ends.push(new MessageEnd(stream, "server")));
    for (const [code, reason] of [
      [1000, "done"],
      [1001, ""],
      [1011, "ours"],
      [4999, "κ"],
    ] as const) {
      const client = await open(server.port);
      await until(() => ends.length === 1, "it is accepted");
      ends.pop()!.sendClose(code, reason);
      await client.closes(`${code} ${reason}`.trim());
    }
    for (const [code, reason] of [
      [1000, "done"],
      [1008, ""],
      [3333, "κ"],
    ] as const) {
      const client = await open(server.port);
      await until(() => ends.length === 1, "it is accepted");
      client.socket.close(code, reason);
      await client.closes(`${code}`);
      const end = ends.pop()!;
      await end.over();
      expect(end.close).toEqual({ code, reason });
    }
    const client = await open(server.port);
    await until(() => ends.length === 1, "it is accepted");
    client.socket.close();
    await client.closes("1000");
    expect(ends[0]!.close).toEqual({ code: undefined, reason: "" });
  });

  test("has 4 MiB echoed by our byte stream, and a clean close", async () => {
    using server = upgradeServer(echoBytes);
    const client = await open(server.port);
    const bytes = pattern(4 * MIB, 6);
    for (let at = 0, size = 1; at < bytes.length; at += size, size = ((size * 3) % 200_003) + 1)
      client.socket.send(bytes.subarray(at, at + size));
    const length = () => client.got.reduce((sum, { data }) => sum + data.length, 0);
    await until(() => length() >= bytes.length, "everything came back", 20_000);
    expect(client.got.every(({ isBinary }) => isBinary)).toBe(true);
    expect(sha(Buffer.concat(client.got.map(({ data }) => data)))).toBe(sha(bytes));
    client.socket.close(1000);
    await client.closes("1000");
  });

  test("is told what it did wrong by our byte stream", async () => {
    const ends: Recorder[] = [];
    using server = upgradeServer((stream) => void ends.push(new Recorder(overStream(stream, "server"))));
    const client = await open(server.port);
    client.socket.send("text where only binary messages are spoken");
    await client.closes("1003");
    expect((await ends[0]!.close()).error?.code).toBe("peer-protocol");

    const cut = await open(server.port);
    await until(() => ends.length === 2, "it is accepted");
    ends[1]!.stream.abort(reset());
    await cut.closes("1006");
  });
});

describe.skipIf(python === undefined)("a client with Python's websockets", () => {
  const run = (mode: string, port: number) => new Process([python!, PEER, mode, `ws://127.0.0.1:${port}/`]);

  test("has its messages echoed: text, binary, empty, long, fragmented", async () => {
    const ends: MessageEnd[] = [];
    using server = upgradeServer((stream) => void ends.push(echoMessages(stream)));
    await using client = run("client", server.port);
    expect([await client.exited(), client.stderr]).toEqual([0, ""]);
    expect(client.stdout).toStartWith("echoed\nclosed 4001");
    expect(ends[0]!.close).toEqual({ code: 4001, reason: "python says bye" });
    expect(ends[0]!.pings).toBe(1);
    expect(ends[0]!.error).toBeUndefined();
  });

  test("has 4 MiB echoed by our byte stream, and a clean close", async () => {
    const ends: ByteStream[] = [];
    using server = upgradeServer((stream) => void ends.push(echoBytes(stream)));
    await using client = run("bytes", server.port);
    expect([await client.exited(), client.stderr]).toEqual([0, ""]);
    expect(client.stdout).toStartWith("echoed\nclosed 1000");
    expect(await ends[0]!.closed).toEqual({ error: undefined });
  });

  test("is told by our byte stream how it ends: an end, a wrong message, a cut", async () => {
    for (const [how, binaryOnly, closeCode, errorCode] of [
      ["an end", false, "1000", undefined],
      ["a wrong message", true, "1003", "peer-protocol"],
      ["a cut", false, "1006", "cancelled"],
    ] as const) {
      const ends: Recorder[] = [];
      using server = upgradeServer((stream) => void ends.push(new Recorder(overStream(stream, "server", binaryOnly))));
      await using client = run("wait", server.port);
      await until(() => ends.length === 1, "it is accepted");
      if (how !== "a wrong message") await ends[0]!.received(5);
      if (how === "an end") ends[0]!.stream.end();
      if (how === "a cut") ends[0]!.stream.abort(reset());
      await client.prints(`closed ${closeCode}`);
      const { error } = await ends[0]!.close();
      expect(error?.code).toBe(errorCode!);
    }
  });
});
