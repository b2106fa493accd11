import type { Deadline } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../core/stream.ts";
import { fieldValue, formatHead } from "../wire/fields.ts";
import {
  RequestReader,
  ResponseReader,
  type MessageHandler,
  type RequestHead,
  type ResponseHead,
} from "../wire/http1.ts";
import { CONTROL_BYTES, JSON_TYPE } from "../wire/registration.ts";
import { readStep, type Step } from "./handshake.ts";

/** Small JSON requests on streams of a session (docs/PROTOCOL.md, "Agents"). */

/** A request's path and JSON text. */
export interface ControlRequest {
  readonly path: string;
  readonly text: string;
}

const NOTHING = new Uint8Array(0);

/** Reads one request; what follows stays in the stream. The caller still owns it. */
export async function readControl(stream: ByteStream, deadline: Deadline, peer: string): Promise<ControlRequest> {
  const reading = new Collected<RequestHead>((handler) => new RequestReader(handler));
  const { head, text } = await readStep(stream, reading, deadline, peer);
  if (head.method !== "POST") throw new SeikanError("bad-request", `${peer} asks with ${head.method} instead of POST`);
  return { path: head.target, text };
}

/**
 * Asks and resolves to the JSON text of a 200, complete or, with `firstLine`,
 * as far as its first line: the rest stays in the stream, which the caller
 * owns also when this rejects with what the far end said.
 */
export async function askControl(
  stream: ByteStream,
  { path, text }: ControlRequest,
  deadline: Deadline,
  peer: string,
): Promise<string> {
  const body = Buffer.from(text, "utf8");
  const fields = ["Host", "agent", "Content-Type", JSON_TYPE, "Content-Length", String(body.length)];
  stream.write(Buffer.concat([formatHead(`POST ${path} HTTP/1.1`, fields), body]));
  const reading = new Collected<ResponseHead>((handler) => new ResponseReader(handler));
  const { head, text: answer } = await readStep(stream, reading, deadline, peer);
  if (head.status === 200) return answer;
  throw refusal(head, answer, peer);
}

function refusal({ status, fields }: ResponseHead, answer: string, peer: string): SeikanError {
  const [first = "", ...rest] = answer.split("\n").map((line) => line.trim());
  const said = first.replace(/^seikan: /, "") || `status ${status}`;
  const hints = rest.filter((line) => line.startsWith("hint: ")).map((line) => line.slice("hint: ".length));
  const code = status >= 500 ? "hop-refused" : "hop-auth";
  const names = fieldValue(fields, "proxy-status") === undefined ? `${peer} answers: ` : `${peer} refuses: `;
  return new SeikanError(code, names + said, { hopStatus: status, hints });
}

type Reader = Pick<RequestReader, "feed" | "pause" | "release">;

/** Collects one message; of a body that lasts as long as the connection only its first line. */
class Collected<Head extends { framing: unknown }> implements Step<{ head: Head; text: string }>, MessageHandler<Head> {
  readonly #reader: Reader;
  #head: Head | undefined;
  #pieces: Uint8Array[] = [];
  #length = 0;
  #done = false;

  constructor(create: (handler: MessageHandler<Head>) => Reader) {
    this.#reader = create(this);
  }

  take(chunk: Uint8Array) {
    let rest = chunk;
    while (rest.length > 0 && !this.#done) rest = rest.subarray(this.#reader.feed(rest));
    if (!this.#done) return undefined;
    this.#reader.release();
    const text = Buffer.concat([NOTHING, ...this.#pieces]);
    const end = this.#head!.framing === "until-close" ? text.indexOf(10) : -1;
    const value = { head: this.#head!, text: text.toString("utf8", 0, end < 0 ? text.length : end) };
    return { value, rest: end < 0 ? rest : Buffer.concat([text.subarray(end + 1), rest]) };
  }

  onHead(head: Head): void {
    this.#head = head;
  }

  onBody(chunk: Uint8Array): void {
    this.#length += chunk.length;
    if (this.#length > CONTROL_BYTES) throw new SeikanError("bad-request", "the message is too long");
    this.#pieces.push(chunk);
    if (this.#head!.framing === "until-close" && chunk.includes(10)) {
      this.#done = true;
      this.#reader.pause();
    }
  }

  onComplete(): void {
    this.#done = true;
  }
}

/** Gives every line of text that arrives to `take`; owns nothing. `closed` comes once. */
export class LineReader implements Sink {
  readonly #take: (line: string) => void;
  readonly #closed: (reason: CloseReason) => void;
  #rest = "";
  readonly #decoder = new TextDecoder();

  constructor(take: (line: string) => void, closed: (reason: CloseReason) => void) {
    this.#take = take;
    this.#closed = closed;
  }

  onData(chunk: Uint8Array): void {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split("\n");
    this.#rest = lines.pop()!.slice(0, CONTROL_BYTES);
    for (const line of lines) this.#take(line);
  }

  onEnd(): void {}

  onDrain(): void {}

  onClose(reason: CloseReason): void {
    this.#closed(reason);
  }
}
