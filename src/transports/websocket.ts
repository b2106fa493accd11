import { SeikanError, toSeikanError } from "../core/errors.ts";
import {
  createStream,
  type ByteStream,
  type CloseReason,
  type Driver,
  type Sink,
  type Stream,
} from "../core/stream.ts";
import {
  applyMask,
  CLOSE_CODE,
  closePayload,
  encodeFrame,
  FrameError,
  FrameReader,
  OPCODE,
  writeFrameHeader,
  type FrameHandler,
} from "../wire/websocket.ts";
import { FramePool, HEADER_ROOM, type FrameBuffer } from "./frame-pool.ts";
import { closeGently } from "./gentle-close.ts";
import { Pulse, type Heartbeat, type Watched } from "./pulse.ts";

/**
 * A WebSocket as a byte stream, over any stream, as client and as server.
 *
 * What is written goes out in binary frames whose borders mean nothing; what
 * arrives comes out as it arrives. A close frame is the end of one direction:
 * the other one goes on until its own. A connection that ends without a close
 * frame was cut, and that is an error (RFC 6455 section 7.1.5).
 */

export interface WebSocketOptions {
  readonly role: "client" | "server";
  /** Who is at the other end, for errors: `wss://tunnel.example.com`. */
  readonly peer: string;
  /** Text messages are refused with 1003. */
  readonly binaryOnly: boolean;
  /** Most payload bytes in one frame from the peer. */
  readonly maxFrame: number;
  /** Masks with zeros: the connection below is encrypted, so that nothing on the way could be misled. */
  readonly zeroMask?: boolean;
  readonly heartbeat?: Heartbeat;
}

const NO_MASK = new Uint8Array(4);
const NO_PAYLOAD = new Uint8Array(0);
/** Larger writes are not gathered with what comes behind them. */
const GATHER_BYTES = 16 * 1024;

/** A smaller frame is copied out, so that a slow peer does not keep a whole buffer. */
const SMALL_FRAME = 8 * 1024;

const frames = new FramePool();

/** Speaks WebSocket on a stream whose opening handshake is done. Owns `inner`. */
export function webSocketStream(inner: ByteStream, options: WebSocketOptions): ByteStream {
  const driver = new WebSocketDriver(inner, options);
  driver.stream = createStream(driver, `WebSocket over ${inner.label}`);
  driver.start();
  return driver.stream;
}

class WebSocketDriver implements Driver, Sink, FrameHandler, Watched {
  readonly copies = true;
  stream!: Stream;
  readonly #inner: ByteStream;
  readonly #options: WebSocketOptions;
  readonly #reader: FrameReader;
  /** What was written and is not yet framed; many small writes make one frame. */
  #gathered: FrameBuffer | undefined;
  readonly #lent: FrameBuffer[] = [];
  #flushAsked = false;
  #blocked = false;
  #reading = true;
  #closeSent = false;
  #closeReceived = false;
  #over = false;
  #innerEnded = false;
  readonly #pulse: Pulse;

  constructor(inner: ByteStream, options: WebSocketOptions) {
    this.#inner = inner;
    this.#options = options;
    this.#reader = new FrameReader(this, options);
    this.#pulse = new Pulse(this, options.heartbeat);
  }

  start(): void {
    this.#pulse.start();
    this.#inner.attach(this);
  }

  // --- writing ---------------------------------------------------------------

  write(bytes: Uint8Array): number {
    let taken = 0;
    while (taken < bytes.length && !this.#blocked && !this.#over) {
      const buffer = (this.#gathered ??= frames.take());
      taken += buffer.append(bytes, taken);
      if (buffer.room === 0) this.#flush();
    }
    if (this.#gathered === undefined) return taken;
    if (this.#gathered.length >= GATHER_BYTES) this.#flush();
    else this.#flushSoon();
    return taken;
  }

  /** Behind everything else this turn writes. */
  #flushSoon(): void {
    if (this.#flushAsked) return;
    this.#flushAsked = true;
    queueMicrotask(() => {
      this.#flushAsked = false;
      this.#flush();
    });
  }

  #flush(): void {
    const buffer = this.#gathered;
    if (buffer === undefined || this.#over) return;
    this.#gathered = undefined;
    const key = this.#maskKey();
    const start = writeFrameHeader(buffer.bytes, HEADER_ROOM, OPCODE.binary, buffer.length, key);
    if (key !== undefined) applyMask(buffer.payload(), key);
    const frame = buffer.bytes.subarray(start, HEADER_ROOM + buffer.length);
    const isSmall = frame.length < SMALL_FRAME;
    const goesOn = this.#writeInner(isSmall ? new Uint8Array(frame) : frame);
    if (isSmall || (goesOn && this.#inner.copiesWrites)) frames.give(buffer);
    else if (this.#inner.copiesWrites) this.#lent.push(buffer);
  }

  #writeInner(frame: Uint8Array): boolean {
    this.#pulse.sent();
    const goesOn = this.#inner.write(frame);
    if (!goesOn) this.#blocked = true;
    return goesOn;
  }

  #maskKey(): Uint8Array | undefined {
    if (this.#options.role === "server") return undefined;
    return this.#options.zeroMask ? NO_MASK : randomKey();
  }

  #control(opcode: number, payload: Uint8Array): void {
    if (this.#over) return;
    this.#flush();
    this.#writeInner(encodeFrame(opcode, payload, this.#maskKey()));
  }

  onDrain(): void {
    this.#pulse.heard();
    this.#blocked = false;
    for (const buffer of this.#lent.splice(0)) frames.give(buffer);
    if (!this.#over) this.stream.drained();
  }

  shutdown(): void {
    this.#sendClose(CLOSE_CODE.normal);
    this.#finishIfClosed();
  }

  #sendClose(code: number): void {
    if (this.#closeSent) return;
    this.#control(OPCODE.close, closePayload(code));
    this.#closeSent = true;
  }

  /** Without a close frame: so the peer knows that something is missing. */
  destroy(): void {
    this.#leave();
    this.#inner.abort(new SeikanError("cancelled", "the WebSocket was aborted"));
  }

  // --- reading ---------------------------------------------------------------

  setReading(on: boolean): void {
    this.#reading = on;
    this.#pulse.heard();
    if (on) this.#inner.resume();
    else this.#inner.pause();
  }

  onData(chunk: Uint8Array): void {
    this.#pulse.heard();
    try {
      this.#reader.feed(chunk);
    } catch (thrown) {
      this.#refuse(toSeikanError(thrown));
    }
  }

  onMessageData(piece: Uint8Array): void {
    if (piece.length > 0 && !this.#over) this.stream.receive(piece);
  }

  onPing(payload: Uint8Array): void {
    // A peer that asks without reading gets no heap of answers.
    if (!this.#closeSent && !this.#blocked) this.#control(OPCODE.pong, payload);
  }

  onPong(): void {}

  onCloseFrame(code: number | undefined, reason: string): void {
    this.#closeReceived = true;
    if (code !== undefined && code !== CLOSE_CODE.normal && code !== CLOSE_CODE.goingAway) {
      this.#sendClose(code);
      return this.#lose(new SeikanError("peer-closed", closeSentence(this.#options.peer, code, reason)));
    }
    this.stream.receiveEnd();
    this.#finishIfClosed();
  }

  onEnd(): void {
    if (this.#over) return;
    this.#innerEnded = true;
    // It said its last word before: it may still listen.
    if (!this.#closeReceived) this.#lose(this.#cut(undefined));
  }

  onClose(reason: CloseReason): void {
    if (this.#over) return;
    this.#leave();
    this.stream.lost(this.#cut(reason.error));
  }

  #cut(cause: SeikanError | undefined): SeikanError {
    const how = cause?.message ?? "it ended without a close frame";
    return new SeikanError("peer-reset", `the WebSocket with ${this.#options.peer} was cut (${how})`, { cause });
  }

  /** Tells the peer what it did wrong, and gives up. */
  #refuse(error: SeikanError): void {
    this.#sendClose(error instanceof FrameError ? error.closeCode : CLOSE_CODE.internalError);
    this.#lose(new SeikanError(error.code, `${this.#options.peer}: ${error.message}`, { cause: error }));
  }

  #lose(error: SeikanError): void {
    this.#leave();
    closeGently(this.#inner);
    this.stream.lost(error);
  }

  /** Both close frames are on their way: the server ends the connection, the client waits for that. */
  #finishIfClosed(): void {
    if (!this.#closeSent || !this.#closeReceived || this.#over) return;
    this.#leave();
    closeGently(this.#inner, this.#options.role === "server" || this.#innerEnded ? "now" : "after-peer");
    this.stream.lost();
  }

  #leave(): void {
    this.#over = true;
    this.#reader.stop();
    this.#pulse.stop();
    if (this.#gathered !== undefined) frames.give(this.#gathered);
    this.#gathered = undefined;
  }

  // --- signs of life -----------------------------------------------------------

  get isReading(): boolean {
    return this.#reading;
  }

  get mayAnswer(): boolean {
    return !this.#closeReceived;
  }

  ask(): void {
    if (!this.#closeSent && !this.#blocked) this.#control(OPCODE.ping, NO_PAYLOAD);
  }

  giveUp(silentMs: number): void {
    const { peer } = this.#options;
    const error = new SeikanError("peer-silent", `${peer} gave no sign of life for ${Math.round(silentMs / 1000)} s`);
    this.#leave();
    this.#inner.abort(error);
    this.stream.lost(error);
  }
}

function closeSentence(peer: string, code: number, reason: string): string {
  return `${peer} closed the WebSocket with ${code}${reason === "" ? "" : ` (${reason})`}`;
}

const KEYS = 1024;
let randomBytes = new Uint8Array(0);
let nextKey = 0;

/** A fresh unpredictable mask (RFC 6455 section 5.3), cut from a supply. */
export function randomKey(): Uint8Array {
  if (nextKey >= randomBytes.length) {
    randomBytes = crypto.getRandomValues(new Uint8Array(4 * KEYS));
    nextKey = 0;
  }
  nextKey += 4;
  return randomBytes.subarray(nextKey - 4, nextKey);
}
