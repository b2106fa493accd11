import type { ByteStream } from "../core/stream.ts";
import { formatHead, type Fields } from "../wire/fields.ts";

/** Small pieces are joined into one write; larger ones are passed on as they are. */
const JOIN_BYTES = 16 * 1024;

/** Gathers what one turn writes to a stream. */
export class MessageWriter {
  readonly stream: ByteStream;
  #pieces: Uint8Array[] = [];
  #length = 0;
  bytes = 0;

  constructor(stream: ByteStream) {
    this.stream = stream;
  }

  put(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.#length += piece.length;
  }

  body(chunk: Uint8Array, chunked: boolean): void {
    this.bytes += chunk.length;
    if (chunked) this.put(Buffer.from(`${chunk.length.toString(16)}\r\n`, "latin1"));
    this.put(chunk);
    if (chunked) this.put(CRLF);
  }

  /** `false`: the stream wants no more for now. */
  flush(): boolean {
    const pieces = this.#pieces;
    if (pieces.length === 0) return true;
    this.#pieces = [];
    const joined = this.#length <= JOIN_BYTES ? [pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces)] : pieces;
    this.#length = 0;
    let ready = true;
    for (const piece of joined) ready = this.stream.write(piece);
    return ready;
  }
}

const CRLF = Buffer.from("\r\n");

/** The end of a chunked body, trailers included (RFC 9112 section 7.1). */
export function lastChunk(trailers: Fields): Uint8Array {
  if (trailers.length === 0) return Buffer.from("0\r\n\r\n");
  return Buffer.concat([Buffer.from("0\r\n"), formatHead("", trailers).subarray(2)]);
}
