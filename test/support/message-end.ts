import { tcpTarget } from "../../src/core/address.ts";
import type { ByteStream, CloseReason, Sink } from "../../src/core/stream.ts";
import { readStep, decodeStep } from "../../src/transports/handshake.ts";
import { listen, tcpDialer } from "../../src/transports/tcp.ts";
import { formatHead } from "../../src/wire/fields.ts";
import type { RequestHead, ResponseHead } from "../../src/wire/http1.ts";
import * as handshake from "../../src/wire/websocket-handshake.ts";
import { closePayload, encodeFrame, FrameReader, type FrameHandler } from "../../src/wire/websocket.ts";
import { frame } from "./frames.ts";
import { soon } from "./pairs.ts";
import { until } from "./wait.ts";

// --- the opening handshake, by hand ------------------------------------------

interface Head {
  readonly startLine: string;
  readonly fields: string[];
}

function readHead(stream: ByteStream): Promise<Head> {
  const step = decodeStep((bytes) => {
    const text = Buffer.from(bytes).toString("latin1");
    const end = text.indexOf("\r\n\r\n");
    if (end < 0) return undefined;
    const [startLine = "", ...lines] = text.slice(0, end).split("\r\n");
    const fields = lines.flatMap((line) => [
      line.slice(0, line.indexOf(":")),
      line.slice(line.indexOf(":") + 1).trim(),
    ]);
    return { value: { startLine, fields }, length: end + 4 };
  }, 64 * 1024);
  return readStep(stream, step, soon(), "the peer");
}

/** Connects and upgrades; the stream is behind the 101. */
export async function upgradeClient(port: number, path = "/"): Promise<ByteStream> {
  const stream = await tcpDialer()(tcpTarget("127.0.0.1", port), { deadline: soon() });
  const key = handshake.webSocketKey();
  stream.write(formatHead(`GET ${path} HTTP/1.1`, ["Host", `127.0.0.1:${port}`, ...handshake.upgradeFields(key, [])]));
  const { startLine, fields } = await readHead(stream);
  if (!startLine.startsWith("HTTP/1.1 101 ")) throw new Error(`no upgrade: ${startLine}`);
  const fault = handshake.answerFault({ status: 101, fields } as unknown as ResponseHead, key, []);
  if (fault !== undefined) throw new Error(fault);
  return stream;
}

/** A listener that upgrades every connection. */
export function upgradeServer(accept: (stream: ByteStream) => void): { port: number } & Disposable {
  const listener = listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, (stream) => {
    void readHead(stream).then(({ startLine, fields }) => {
      const head = { method: startLine.split(" ")[0], minor: 1, fields } as unknown as RequestHead;
      const refusal = handshake.upgradeRefusal(head);
      if (refusal !== undefined) throw new Error(refusal);
      stream.write(formatHead("HTTP/1.1 101 Switching Protocols", handshake.acceptFields(head, undefined)));
      accept(stream);
    });
  });
  return { port: listener.port!, [Symbol.dispose]: () => listener.close() };
}

// --- messages ------------------------------------------------------------------

export interface Message {
  readonly isText: boolean;
  readonly bytes: Buffer;
}

/** An end that speaks whole messages with the frame codec: what webSocketStream does not want to know. */
export class MessageEnd implements Sink, FrameHandler {
  readonly messages: Message[] = [];
  /** Pieces in which the last message came. */
  pieces = 0;
  pongs = 0;
  pings = 0;
  close: { code: number | undefined; reason: string } | undefined;
  error: string | undefined;
  isOver = false;
  onMessage: (message: Message) => void = () => {};
  readonly #stream: ByteStream;
  readonly #role: "client" | "server";
  readonly #reader: FrameReader;
  #parts: Uint8Array[] = [];
  #closeSent = false;

  constructor(stream: ByteStream, role: "client" | "server") {
    this.#stream = stream;
    this.#role = role;
    this.#reader = new FrameReader(this, { role, maxFrame: 16 * 1024 * 1024, binaryOnly: false });
    stream.attach(this);
  }

  #key(): Uint8Array | undefined {
    return this.#role === "client" ? crypto.getRandomValues(new Uint8Array(4)) : undefined;
  }

  send(data: string | Uint8Array): void {
    const isText = typeof data === "string";
    this.#stream.write(encodeFrame(isText ? 1 : 2, isText ? new TextEncoder().encode(data) : data, this.#key()));
  }

  /** One message in several frames, the borders wherever. */
  sendInParts(isText: boolean, parts: readonly Uint8Array[]): void {
    for (const [index, payload] of parts.entries()) {
      const opcode = index > 0 ? 0 : isText ? 1 : 2;
      this.#stream.write(frame({ opcode, payload, fin: index === parts.length - 1, key: this.#key() }));
      if (index === 0) this.ping("between");
    }
  }

  ping(payload: string): void {
    this.#stream.write(encodeFrame(9, new TextEncoder().encode(payload), this.#key()));
  }

  sendClose(code: number, reason = ""): void {
    if (this.#closeSent) return;
    this.#closeSent = true;
    this.#stream.write(encodeFrame(8, closePayload(code, reason), this.#key()));
  }

  /** Waits for so many messages. */
  async got(count: number): Promise<readonly Message[]> {
    await until(() => this.messages.length >= count || this.isOver, `${count} messages are there`, 20_000);
    if (this.messages.length < count) throw new Error(`only ${this.messages.length} messages: ${this.error ?? "end"}`);
    return this.messages;
  }

  async over(): Promise<void> {
    await until(() => this.isOver, "the connection is over");
  }

  onData(chunk: Uint8Array): void {
    try {
      this.#reader.feed(chunk);
    } catch (error) {
      this.error = (error as Error).message;
      this.#stream.end();
    }
  }

  onMessageData(piece: Uint8Array, isText: boolean, last: boolean): void {
    this.#parts.push(piece.slice());
    if (!last) return;
    this.pieces = this.#parts.length;
    const message = { isText, bytes: Buffer.concat(this.#parts) };
    this.#parts = [];
    this.messages.push(message);
    this.onMessage(message);
  }

  onPing(payload: Uint8Array): void {
    this.pings++;
    this.#stream.write(encodeFrame(10, payload, this.#key()));
  }

  onPong(): void {
    this.pongs++;
  }

  onCloseFrame(code: number | undefined, reason: string): void {
    this.close = { code, reason };
    this.sendClose(code ?? 1000);
    if (this.#role === "server") this.#stream.end();
  }

  onEnd(): void {
    this.#stream.end();
  }

  onDrain(): void {}

  onClose(reason: CloseReason): void {
    this.isOver = true;
    if (this.close === undefined) this.error ??= reason.error?.message;
  }
}
