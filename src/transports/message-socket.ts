import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../core/stream.ts";
import {
  CLOSE_CODE,
  closePayload,
  encodeFrame,
  FrameError,
  FrameReader,
  OPCODE,
  type FrameHandler,
} from "../wire/websocket.ts";
import { closeGently } from "./gentle-close.ts";
import { Pulse, type Heartbeat, type Watched } from "./pulse.ts";
import { randomKey } from "./websocket.ts";

/** Gets what a message socket says, synchronously. */
export interface MessageSink {
  /** A piece of a message; `last`: it ends with it, and such a piece can be empty. */
  onMessage(piece: Uint8Array, last: boolean): void;
  onDrain(): void;
  /** The last call; without an error the peer closed it. */
  onClose(error: SeikanError | undefined): void;
}

export interface MessageSocketOptions {
  readonly role: "client" | "server";
  /** Who is at the other end, for errors. */
  readonly peer: string;
  readonly heartbeat: Heartbeat | undefined;
}

const NO_PAYLOAD = new Uint8Array(0);

/**
 * A WebSocket whose messages matter, other than that of a tunnel: for
 * protocols of others. Messages of any length go in and out in pieces, and
 * `pause` reaches the source. Owns the stream.
 */
export class MessageSocket implements Sink, FrameHandler, Watched {
  readonly #inner: ByteStream;
  readonly #options: MessageSocketOptions;
  readonly #sink: MessageSink;
  readonly #reader: FrameReader;
  readonly #pulse: Pulse;
  #isMidMessage = false;
  #closeSent = false;
  #blocked = false;
  #over = false;
  isReading = true;
  /** What the peer has beyond the heartbeat's time-out: it may be too busy to answer a ping. */
  slackMs = 0;

  constructor(inner: ByteStream, sink: MessageSink, options: MessageSocketOptions) {
    this.#inner = inner;
    this.#options = options;
    this.#sink = sink;
    this.#reader = new FrameReader(this, { ...options, maxFrame: Number.MAX_SAFE_INTEGER, binaryOnly: false });
    this.#pulse = new Pulse(this, options.heartbeat);
    this.#pulse.start();
    // What came behind the handshake is for a sink that knows its socket.
    queueMicrotask(() => inner.attach(this));
  }

  get isOpen(): boolean {
    return !this.#over && !this.#closeSent;
  }

  // --- writing --------------------------------------------------------------------

  sendText(text: string): boolean {
    return this.#send(OPCODE.text, Buffer.from(text, "utf8"), true);
  }

  /** A piece of a binary message; false: stop until `onDrain`. */
  sendPiece(piece: Uint8Array, last: boolean): boolean {
    const opcode = this.#isMidMessage ? OPCODE.continuation : OPCODE.binary;
    this.#isMidMessage = !last;
    return this.#send(opcode, piece, last);
  }

  #send(opcode: number, payload: Uint8Array, final: boolean): boolean {
    if (!this.isOpen) return false;
    this.#pulse.sent();
    const key = this.#options.role === "client" ? randomKey() : undefined;
    const goesOn = this.#inner.write(encodeFrame(opcode, payload, key, final));
    if (!goesOn) this.#blocked = true;
    return goesOn;
  }

  onDrain(): void {
    this.#pulse.heard();
    this.#blocked = false;
    if (!this.#over) this.#sink.onDrain();
  }

  /** Says goodbye; nothing is heard of it any more but its close. */
  close(code: number = CLOSE_CODE.normal, reason = ""): void {
    if (this.#over) return;
    this.#sendClose(code, reason);
    this.#end(undefined);
    closeGently(this.#inner);
  }

  #sendClose(code: number, reason: string): void {
    this.#send(OPCODE.close, closePayload(code, reason), true);
    this.#closeSent = true;
  }

  /** Ends it without a word. */
  abort(reason: SeikanError): void {
    if (this.#over) return;
    this.#end(reason);
    this.#inner.abort(reason);
  }

  // --- reading --------------------------------------------------------------------

  pause(): void {
    this.isReading = false;
    this.#inner.pause();
  }

  resume(): void {
    this.isReading = true;
    this.#pulse.heard();
    this.#inner.resume();
  }

  onData(chunk: Uint8Array): void {
    this.#pulse.heard();
    try {
      this.#reader.feed(chunk);
    } catch (thrown) {
      const error = toSeikanError(thrown);
      this.#sendClose(error instanceof FrameError ? error.closeCode : CLOSE_CODE.protocolError, "");
      this.#end(new SeikanError(error.code, `${this.#options.peer}: ${error.message}`, { cause: error }));
      closeGently(this.#inner);
    }
  }

  onMessageData(piece: Uint8Array, _isText: boolean, last: boolean): void {
    if (!this.#over) this.#sink.onMessage(piece, last);
  }

  onPing(payload: Uint8Array): void {
    if (!this.#blocked) this.#send(OPCODE.pong, payload, true);
  }

  onPong(): void {}

  onCloseFrame(code: number | undefined): void {
    this.#sendClose(code ?? CLOSE_CODE.normal, "");
    this.#end(undefined);
    closeGently(this.#inner);
  }

  onEnd(): void {
    this.#lose("it ended without a close frame");
  }

  onClose(reason: CloseReason): void {
    this.#lose(reason.error?.message ?? "it ended");
  }

  #lose(why: string): void {
    if (this.#over) return;
    const error = new SeikanError("peer-reset", `the WebSocket with ${this.#options.peer} was cut (${why})`);
    this.#end(error);
    this.#inner.abort(error);
  }

  #end(error: SeikanError | undefined): void {
    if (this.#over) return;
    this.#over = true;
    this.#reader.stop();
    this.#pulse.stop();
    this.#sink.onClose(error);
  }

  // --- signs of life ----------------------------------------------------------------

  get mayAnswer(): boolean {
    return true;
  }

  ask(): void {
    if (!this.#blocked) this.#send(OPCODE.ping, NO_PAYLOAD, true);
  }

  giveUp(silentMs: number): void {
    const { peer } = this.#options;
    this.abort(new SeikanError("peer-silent", `${peer} gave no sign of life for ${Math.round(silentMs / 1000)} s`));
  }
}
