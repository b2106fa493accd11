import { HTTPParser, methods } from "node:_http_common";
import { SeikanError, type ErrorCode } from "../core/errors.ts";
import { fieldValue, fieldValues, type Fields } from "./fields.ts";

/**
 * HTTP/1 messages through llhttp, as Bun ships it. The only file that knows it.
 *
 * llhttp is strict about line ends, field syntax and framing. It is lenient
 * where this file is not: it takes Transfer-Encoding in HTTP/1.0 and codings
 * before `chunked`, and reads on into the next message of the same chunk. So
 * it gets its input in slices that end where a message can end.
 */

export interface RequestHead {
  readonly method: string;
  /** As received: authority-form, absolute-form, origin-form or `*`. */
  readonly target: string;
  readonly minor: 0 | 1;
  readonly fields: Fields;
  readonly keepAlive: boolean;
  readonly framing: Framing;
}

export interface ResponseHead {
  readonly status: number;
  readonly reason: string;
  readonly minor: 0 | 1;
  readonly fields: Fields;
  readonly keepAlive: boolean;
  readonly framing: Framing;
}

/** How a body ends: by length in bytes (0: there is none), by its last chunk, or with the connection. */
export type Framing = number | "chunked" | "until-close";

export interface HeadLimits {
  readonly bytes: number;
  readonly fields: number;
}

export const HEAD_LIMITS: HeadLimits = { bytes: 64 * 1024, fields: 100 };

/** What a reader found, called between two slices and not from inside the parser. */
export interface MessageHandler<Head> {
  onHead(head: Head): void;
  onBody(chunk: Uint8Array): void;
  /** The message is complete. The reader stops here and takes the next one with the next `feed`. */
  onComplete(trailers: Fields): void;
}

/** What kind of body a response has whatever its fields say (RFC 9112 section 6.3). */
export type ResponseContext = "normal" | "to-head" | "to-connect";

const NOTHING: Uint8Array = new Uint8Array(0);

/** What is left of a chunk behind `taken` bytes; most are taken whole, and a subarray costs as much as a small message. */
export function behind(chunk: Uint8Array, taken: number): Uint8Array {
  return taken === chunk.length ? NOTHING : chunk.subarray(taken);
}

const REQUEST = HTTPParser.REQUEST;
const RESPONSE = HTTPParser.RESPONSE;

/** Bytes of framing a chunked body may spend beyond this many per chunk, and once for trailers. */
const CHUNK_OVERHEAD = 16;
const TRAILER_BYTES = 16 * 1024;

const REQUEST_LINE = /^[A-Z-]+ [^\s]+ HTTP\/\d\.\d\r$/;
const STATUS_LINE = /^HTTP\/\d\.\d \d{3}(?: [\t\x20-\x7e\x80-\xff]*)?\r$/;

const CRLFCRLF = Buffer.from("\r\n\r\n");

abstract class MessageReader<Head extends { framing: Framing }> {
  readonly #kind: number;
  readonly #handler: MessageHandler<Head>;
  readonly #limits: HeadLimits;
  #parser: Parser | undefined;
  #state: "head" | "body" = "head";
  #fresh = true;
  #headBytes = 0;
  #lineSeen = false;
  #startLine = "";
  #remaining: Framing = 0;
  #overhead = 0;
  #paused = false;

  constructor(kind: number, handler: MessageHandler<Head>, limits: HeadLimits) {
    this.#kind = kind;
    this.#handler = handler;
    this.#limits = limits;
  }

  /** True between the first byte of a message and its end. */
  get isMidMessage(): boolean {
    return !this.#fresh;
  }

  /** Makes `feed` return after the handler call that runs now. */
  pause(): void {
    this.#paused = true;
  }

  /**
   * Reads on and returns how many bytes it took: all of them, unless the
   * message ended or the handler paused. Throws on a malformed message; the
   * reader is useless afterwards.
   */
  feed(bytes: Uint8Array): number {
    this.#paused = false;
    const view = bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    let offset = 0;
    while (offset < view.length) {
      const end = this.#sliceEnd(view, offset);
      const complete = this.#slice(view, offset, end);
      offset = complete.upgradedAt === undefined ? end : offset + complete.upgradedAt;
      if (complete.done || this.#paused) break;
    }
    return offset;
  }

  /** The connection ended: completes a body that ends with it, throws when a message is cut. */
  finish(): void {
    if (this.#state === "body" && this.#remaining === "until-close") this.#complete([]);
    else if (!this.#fresh) throw this.incomplete();
    this.release();
  }

  /** Gives the parser back; 2 KiB each would be too much for an idle tunnel. */
  release(): void {
    if (this.#parser !== undefined) releaseParser(this.#parser);
    this.#parser = undefined;
  }

  protected abstract toHead(parsed: ParsedHead): Head;
  /** What a start line looks like, up to its CR. */
  protected abstract readonly startLine: RegExp;
  /** What llhttp shall tolerate in the next message. */
  protected lenience(): number {
    return HTTPParser.kLenientNone;
  }
  /** What llhttp shall do with the body: 0 as framed, 1 there is none, 2 there is none and HTTP ends. */
  abstract bodyMode(parsed: ParsedHead): 0 | 1 | 2;
  protected abstract malformed(message: string, code?: ErrorCode): SeikanError;
  protected abstract incomplete(): SeikanError;

  protected length(text: string): number {
    const length = Number(text);
    if (!Number.isSafeInteger(length)) throw this.malformed("Content-Length is too large");
    return length;
  }

  /** A message can only end at an empty line or with the last byte of its length. */
  #sliceEnd(bytes: Buffer, offset: number): number {
    if (this.#state === "body") {
      if (typeof this.#remaining === "number") return Math.min(bytes.length, offset + this.#remaining);
      if (this.#remaining === "until-close") return bytes.length;
    }
    // An empty line that began in the chunk before is found byte by byte.
    if (!this.#fresh && offset < 3) return offset + 1;
    const found = bytes.indexOf(CRLFCRLF, Math.max(0, offset - 3));
    return found < 0 ? bytes.length : found + 4;
  }

  #slice(bytes: Buffer, from: number, to: number): { done: boolean; upgradedAt: number | undefined } {
    const input = from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to);
    if (this.#state === "body" && typeof this.#remaining === "number") return this.#countBody(input);
    const parser = (this.#parser ??= takeParser(this.#kind, this.lenience(), this.#limits.bytes));
    parser.mode = this;
    this.#fresh = false;
    if (this.#state === "head") this.#countHead(input);
    const taken = parser.engine.execute(input);
    if (typeof taken !== "number") throw this.#parseError(taken);
    this.#dispatchHead(parser);
    this.#dispatchBody(parser, input.length);
    if (!parser.complete) return { done: false, upgradedAt: undefined };
    this.#complete(parser.extra);
    return { done: true, upgradedAt: taken < input.length ? taken : undefined };
  }

  /** A body of known length needs no parser: the slice is no longer than it. */
  #countBody(input: Buffer): { done: boolean; upgradedAt: undefined } {
    this.#remaining = (this.#remaining as number) - input.length;
    this.#handler.onBody(input);
    const done = this.#remaining === 0;
    if (done) this.#complete([]);
    return { done, upgradedAt: undefined };
  }

  #countHead(input: Buffer): void {
    const { bytes } = this.#limits;
    this.#headBytes += input.length;
    this.#collectStartLine(input);
    if (this.#kind === REQUEST && this.#startLine.length > bytes) {
      throw this.malformed(`request line longer than ${bytes} bytes`, "uri-too-long");
    }
    if (this.#headBytes > bytes) throw this.malformed(`head larger than ${bytes} bytes`, "head-too-large");
  }

  /** llhttp takes start lines of other protocols and odd spaces, so the line is kept to be looked at. */
  #collectStartLine(input: Buffer): void {
    let from = 0;
    while (!this.#lineSeen && from < input.length) {
      const end = input.indexOf(10, from);
      this.#startLine += input.toString("latin1", from, end < 0 ? input.length : end);
      if (end < 0) return;
      from = end + 1;
      // Empty lines in front of a request are ignored (RFC 9112 section 2.2).
      if (this.#startLine === "\r") this.#startLine = "";
      else this.#lineSeen = true;
    }
  }

  #dispatchHead(parser: Parser): void {
    const parsed = parser.head;
    if (parsed === undefined) return;
    parser.head = undefined;
    if (parsed.fields.length / 2 > this.#limits.fields) {
      throw this.malformed(`more than ${this.#limits.fields} header fields`, "head-too-large");
    }
    if (!this.startLine.test(this.#startLine)) throw this.malformed("the start line is not HTTP's");
    const head = this.toHead(parsed);
    this.#state = "body";
    this.#remaining = head.framing;
    this.#handler.onHead(head);
  }

  #dispatchBody(parser: Parser, sliceLength: number): void {
    const chunks = parser.body;
    let length = 0;
    for (const chunk of chunks) length += chunk.length;
    if (this.#remaining === "chunked" && this.#state === "body") {
      this.#overhead += sliceLength - length - CHUNK_OVERHEAD * chunks.length;
      if (this.#overhead > TRAILER_BYTES) throw this.malformed("chunk extensions or trailers are too large");
    } else if (typeof this.#remaining === "number") this.#remaining -= length;
    if (chunks.length === 0) return;
    parser.body = [];
    for (const chunk of chunks) this.#handler.onBody(chunk);
  }

  #complete(trailers: Fields): void {
    this.#state = "head";
    this.#fresh = true;
    this.#headBytes = 0;
    this.#overhead = 0;
    this.#lineSeen = false;
    this.#startLine = "";
    this.release();
    this.#handler.onComplete(trailers);
  }

  #parseError(error: ParseFailure): SeikanError {
    return this.malformed(error.reason ?? error.message);
  }
}

/** Reads requests, one after the other. */
export class RequestReader extends MessageReader<RequestHead> {
  constructor(handler: MessageHandler<RequestHead>, limits: HeadLimits = HEAD_LIMITS) {
    super(REQUEST, handler, limits);
  }

  protected readonly startLine = REQUEST_LINE;

  protected toHead(parsed: ParsedHead): RequestHead {
    const { method, target, fields, keepAlive } = parsed;
    if (method === "") throw this.malformed("no method of HTTP");
    const minor = this.#checkVersion(parsed);
    const framing = this.#framing(method, minor, fields);
    return { method, target, minor, fields, keepAlive, framing };
  }

  bodyMode(): 0 {
    return 0;
  }

  #checkVersion(parsed: ParsedHead): 0 | 1 {
    if (parsed.major === 1 && parsed.minor <= 1) return parsed.minor === 0 ? 0 : 1;
    throw this.malformed(`HTTP/${parsed.major}.${parsed.minor} is not spoken here`, "version-unsupported");
  }

  #framing(method: string, minor: 0 | 1, fields: Fields): Framing {
    const coding = fieldValues(fields, "transfer-encoding");
    const length = fieldValue(fields, "content-length");
    if (method === "CONNECT") {
      if (coding.length > 0 || (length !== undefined && length !== "0"))
        throw this.malformed("a CONNECT request has no body");
      return 0;
    }
    if (coding.length === 0) return length === undefined ? 0 : this.length(length);
    if (minor === 0) throw this.malformed("Transfer-Encoding in HTTP/1.0");
    if (coding.length > 1 || coding[0]!.toLowerCase() !== "chunked") {
      throw this.malformed("the only Transfer-Encoding is chunked", "request-unsupported");
    }
    return "chunked";
  }

  protected malformed(message: string, code: ErrorCode = "bad-request"): SeikanError {
    return new SeikanError(code, code === "bad-request" ? `malformed request: ${message}` : message);
  }

  protected incomplete(): SeikanError {
    return new SeikanError("peer-closed", "the client closed in the middle of a request");
  }
}

/** Reads responses. `context` is asked for at each head: it belongs to the request being answered. */
export class ResponseReader extends MessageReader<ResponseHead> {
  context: ResponseContext;

  constructor(
    handler: MessageHandler<ResponseHead>,
    context: ResponseContext = "normal",
    limits: HeadLimits = HEAD_LIMITS,
  ) {
    super(RESPONSE, handler, limits);
    this.context = context;
  }

  protected readonly startLine = STATUS_LINE;

  /** The framing of a 2xx to CONNECT says nothing (RFC 9110 section 9.3.6), however wrong it is. */
  protected override lenience(): number {
    return this.context === "to-connect" ? HTTPParser.kLenientChunkedLength : HTTPParser.kLenientNone;
  }

  protected toHead(parsed: ParsedHead): ResponseHead {
    const { status, reason, fields, keepAlive } = parsed;
    if (parsed.major !== 1 || parsed.minor > 1) throw this.malformed(`answer in HTTP/${parsed.major}.${parsed.minor}`);
    if (status < 100 || status > 599) throw this.malformed(`status ${status}`);
    const minor = parsed.minor === 0 ? 0 : 1;
    return { status, reason, minor, fields, keepAlive, framing: this.#framing(status, minor, fields) };
  }

  bodyMode(parsed: ParsedHead): 0 | 1 | 2 {
    if (this.context === "to-connect" && isSuccess(parsed.status)) return 2;
    return this.context === "to-head" ? 1 : 0;
  }

  #framing(status: number, minor: 0 | 1, fields: Fields): Framing {
    if (this.context === "to-connect" && isSuccess(status)) return 0;
    if (this.context === "to-head" || status < 200 || status === 204 || status === 304) return 0;
    const codings = fieldValues(fields, "transfer-encoding");
    const length = fieldValue(fields, "content-length");
    if (codings.length > 0) {
      if (minor === 0) throw this.malformed("Transfer-Encoding in HTTP/1.0");
      if (length !== undefined) throw this.malformed("Transfer-Encoding and Content-Length");
      if (codings.length > 1 || codings[0]!.toLowerCase() !== "chunked")
        throw this.malformed("unknown Transfer-Encoding");
      return "chunked";
    }
    return length === undefined ? "until-close" : this.length(length);
  }

  protected malformed(message: string): SeikanError {
    return new SeikanError("bad-response", `malformed answer: ${message}`);
  }

  protected incomplete(): SeikanError {
    return new SeikanError("response-incomplete", "the connection ended in the middle of an answer");
  }
}

function isSuccess(status: number): boolean {
  return status >= 200 && status < 300;
}

// --- llhttp ----------------------------------------------------------------

interface ParseFailure extends Error {
  readonly reason?: string;
}

interface Engine {
  initialize(kind: number, owner: object, maxHeaderSize: number, lenience: number): void;
  execute(bytes: Uint8Array): number | ParseFailure;
  owner: Parser;
  [callback: number]: (...args: never[]) => unknown;
}

interface ParsedHead {
  readonly major: number;
  readonly minor: number;
  readonly method: string;
  readonly target: string;
  readonly status: number;
  readonly reason: string;
  readonly fields: Fields;
  readonly keepAlive: boolean;
}

interface BodyMode {
  bodyMode(parsed: ParsedHead): 0 | 1 | 2;
}

/** What llhttp said during one `execute`. */
interface Parser {
  readonly engine: Engine;
  mode: BodyMode;
  head: ParsedHead | undefined;
  body: Uint8Array[];
  /** Fields beyond llhttp's first batch; after the head: trailers. */
  extra: string[];
  complete: boolean;
  /** llhttp hands the target over with the first batch of fields. */
  target: string;
}

const spare: Parser[] = [];
const SPARE_PARSERS = 64;

function takeParser(kind: number, lenience: number, headBytes: number): Parser {
  const parser = spare.pop() ?? createParser();
  parser.head = undefined;
  parser.body = [];
  parser.extra = [];
  parser.complete = false;
  parser.target = "";
  // Its own limit must not come first: ours knows what to say.
  parser.engine.initialize(kind, parser.engine, headBytes * 2, lenience);
  return parser;
}

function releaseParser(parser: Parser): void {
  if (spare.length < SPARE_PARSERS) spare.push(parser);
}

function createParser(): Parser {
  const engine = new HTTPParser() as unknown as Engine;
  const parser: Parser = {
    engine,
    mode: { bodyMode: () => 0 as const },
    head: undefined,
    body: [],
    extra: [],
    complete: false,
    target: "",
  };
  engine.owner = parser;
  engine[HTTPParser.kOnHeaders] = onFields;
  engine[HTTPParser.kOnHeadersComplete] = onHeadersComplete;
  engine[HTTPParser.kOnBody] = onBody;
  engine[HTTPParser.kOnMessageComplete] = onMessageComplete;
  return parser;
}

function onFields(this: Engine, fields: string[], target: string): void {
  this.owner.extra.push(...fields);
  if (target !== "") this.owner.target = target;
}

function onHeadersComplete(
  this: Engine,
  major: number,
  minor: number,
  fields: string[] | null,
  method: number | null,
  target: string | null,
  status: number | null,
  reason: string | null,
  _upgrade: boolean,
  keepAlive: boolean,
): number {
  const parser = this.owner;
  const head: ParsedHead = {
    major,
    minor,
    method: method === null ? "" : methodName(method),
    target: target ?? parser.target,
    status: status ?? 0,
    reason: reason ?? "",
    // After a first batch llhttp hands over the rest the same way.
    fields: fields ?? parser.extra,
    keepAlive,
  };
  parser.extra = [];
  parser.head = head;
  return parser.mode.bodyMode(head);
}

/** llhttp's numbers skip RTSP's methods, Bun's list does not hold them. */
const QUERY = 46;

/** Empty for a method of another protocol (RTSP, ICE), which is refused. */
function methodName(number: number): string {
  if (number === QUERY) return "QUERY";
  return methods[number] !== "SOURCE" && number < methods.length - 1 ? methods[number]! : "";
}

function onBody(this: Engine, chunk: Uint8Array): void {
  this.owner.body.push(chunk);
}

function onMessageComplete(this: Engine): void {
  this.owner.complete = true;
}
