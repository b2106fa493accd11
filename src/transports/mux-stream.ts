import { now } from "../core/clock.ts";
import type { SeikanError } from "../core/errors.ts";
import type { Driver, Stream } from "../core/stream.ts";
import { FLAG, INITIAL_WINDOW, yamuxError } from "../wire/yamux.ts";

/** While streams take turns each sends this much: few bytes, so that whoever writes little at once gets its share. */
const TURN_BYTES = 32 * 1024;

/** What a stream may ask of the session that carries it. */
export interface MuxCarrier {
  /** The carrying stream takes no more for now. */
  readonly isBlocked: boolean;
  /** Other streams have something to send, too. */
  readonly isContended: boolean;
  /** The most one data frame may carry. */
  readonly frameBytes: number;
  /** Asks for one call of `turn`, behind all others that asked. */
  waitForTurn(driver: MuxDriver): void;
  sendData(id: number, flags: number, bytes: Uint8Array): void;
  sendWindow(id: number, flags: number, delta: number): void;
  /** How large a window may become that was half used up within `elapsedMs`. */
  grownWindow(window: number, elapsedMs: number): number;
  /** Both directions are over, or a reset ended it. */
  finished(driver: MuxDriver): void;
}

/** One stream's end in this process. */
export class MuxDriver implements Driver {
  stream!: Stream;
  readonly id: number;
  readonly #session: MuxCarrier;
  /** Flags for the next frame: SYN until one was sent. */
  #flags: number;
  /** What the peer lets us send. */
  #credit = INITIAL_WINDOW;
  /** What the peer may have under way to us, all told. */
  window = INITIAL_WINDOW;
  /** What it may still send, of which so much was announced and has not arrived. */
  #allowed = INITIAL_WINDOW;
  #announced = 0;
  #reading = true;
  #wantsTurn = false;
  #hasTurn = false;
  #isWaiting = false;
  #finished = false;
  #peerFinished = false;
  #endsWithFrame = false;
  #isOver = false;
  #grantedAt = 0;

  constructor(session: MuxCarrier, id: number, flags: number) {
    this.#session = session;
    this.id = id;
    this.#flags = flags;
  }

  // --- sending -----------------------------------------------------------------

  write(bytes: Uint8Array): number {
    const session = this.#session;
    if (session.isBlocked || (session.isContended && !this.#hasTurn)) return this.#later();
    const most = session.frameBytes;
    let left = this.#hasTurn && session.isContended ? TURN_BYTES : Infinity;
    let taken = 0;
    while (taken < bytes.length && this.#credit > 0 && left > 0 && !session.isBlocked) {
      const length = Math.min(bytes.length - taken, this.#credit, left, most);
      this.#credit -= length;
      left -= length;
      const piece = length === bytes.length ? bytes : bytes.subarray(taken, taken + length);
      session.sendData(this.id, this.#takeFlags(), piece);
      taken += length;
    }
    if (taken < bytes.length) this.#later();
    return taken;
  }

  #later(): number {
    this.#wantsTurn = true;
    if (this.#credit > 0 && !this.#isWaiting) {
      this.#isWaiting = true;
      this.#session.waitForTurn(this);
    }
    return 0;
  }

  /** The session has room, and it is this stream's turn. */
  turn(): void {
    this.#isWaiting = false;
    this.#wantsTurn = false;
    this.#hasTurn = true;
    this.stream.drained();
    this.#hasTurn = false;
  }

  /** The peer took bytes: that many more may come. */
  credited(length: number): void {
    this.#credit += length;
    if (this.#credit > 0xffffffff) throw yamuxError("a window larger than 2^32");
    if (!this.#wantsTurn || this.#isWaiting || this.#credit === 0) return;
    if (this.#session.isBlocked || this.#session.isContended) this.#later();
    else this.turn();
  }

  #takeFlags(): number {
    const flags = this.#flags;
    this.#flags = 0;
    return flags;
  }

  shutdown(): void {
    this.#finished = true;
    this.#session.sendWindow(this.id, this.#takeFlags() | FLAG.fin, 0);
    if (this.#peerFinished) this.#session.finished(this);
  }

  destroy(): void {
    // A stream that the peer never heard of needs no reset.
    if ((this.#flags & FLAG.syn) === 0) this.#session.sendWindow(this.id, FLAG.rst, 0);
    this.#session.finished(this);
  }

  // --- receiving -----------------------------------------------------------------

  announced(length: number): void {
    if (length > this.#allowed) throw yamuxError("more than the window holds");
    if (this.#peerFinished && length > 0) throw yamuxError("data behind the end of its stream");
    this.#announced = length;
  }

  received(piece: Uint8Array): void {
    this.#allowed -= piece.length;
    this.#announced -= piece.length;
    this.stream.receive(piece);
    // Whoever got it may have had enough.
    if (this.#isOver) return;
    if (this.#announced === 0 && this.#endsWithFrame) return this.#peerEnds();
    if (this.#reading) this.#grant();
  }

  finishAfter(length: number): void {
    if (length === 0) this.#peerEnds();
    else this.#endsWithFrame = true;
  }

  #peerEnds(): void {
    if (this.#peerFinished) return;
    this.#peerFinished = true;
    this.stream.receiveEnd();
    if (this.#finished) this.#session.finished(this);
  }

  setReading(on: boolean): void {
    this.#reading = on;
    // Everything that was held has been taken by now.
    if (on) this.#grant();
  }

  /** The session knows it no more: nothing is sent for it. */
  over(error: SeikanError | undefined): void {
    this.#isOver = true;
    this.stream.lost(error);
  }

  /** Gives credit back once half of the window was taken. */
  #grant(): void {
    if (this.#isOver || this.#peerFinished || this.#allowed * 2 > this.window) return;
    const time = now();
    this.window = this.#session.grownWindow(this.window, time - this.#grantedAt);
    this.#grantedAt = time;
    this.#session.sendWindow(this.id, this.#takeFlags(), this.window - this.#allowed);
    this.#allowed = this.window;
  }
}
