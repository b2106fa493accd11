import { SeikanError, toSeikanError } from "../core/errors.ts";
import {
  createStream,
  type ByteStream,
  type CloseReason,
  type Driver,
  type Sink,
  type Stream,
} from "../core/stream.ts";
import { endToEnd, fieldTokens, fieldValue, formatHead, withoutFields, type Fields } from "../wire/fields.ts";
import {
  RequestReader,
  ResponseReader,
  type MessageHandler,
  type RequestHead,
  type ResponseHead,
} from "../wire/http1.ts";
import {
  CLIENT_ERROR,
  formatRequest,
  formatResponse,
  HEAD_BYTES,
  parseRequest,
  parseResponse,
  type WspRequest,
} from "../wire/wsp.ts";
import { memoryPair } from "./memory.ts";
import type { MessageSink, MessageSocket } from "./message-socket.ts";

/**
 * Both ends of a wsp connection, each as HTTP/1.1 over a byte stream: what
 * forwards requests elsewhere forwards them here. One request at a time.
 */

const NOTHING = new Uint8Array(0);
const CRLF = Buffer.from("\r\n");
const CONTINUE = Buffer.from("HTTP/1.1 100 Continue\r\n\r\n");
const LAST_CHUNK = Buffer.from("0\r\n\r\n");

function chunk(piece: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`${piece.length.toString(16)}\r\n`, "latin1"), piece, CRLF]);
}

/** Collects the pieces of a short message. */
class HeadText {
  #pieces: Uint8Array[] = [];
  #length = 0;

  /** The whole text once it is complete. */
  take(piece: Uint8Array, last: boolean): string | undefined {
    this.#pieces.push(new Uint8Array(piece));
    this.#length += piece.length;
    if (this.#length > HEAD_BYTES) throw new SeikanError("peer-protocol", "a wsp head is too long");
    if (!last) return undefined;
    const text = Buffer.concat(this.#pieces).toString("utf8");
    this.#pieces = [];
    this.#length = 0;
    return text;
  }
}

/** What wsp's client says of its rules, in its only piece. */
const FORBIDDEN = /^Destination is (?:forbidden|not allowed)/;

// --- the server's end ---------------------------------------------------------------

/** What of the answer is expected. */
type Phase = "nothing" | "head" | "body" | "done";

/**
 * One request through a wsp connection: HTTP/1.1 in absolute-form is written,
 * HTTP/1.1 comes back. `over` hears whether the connection may be used again.
 */
export class WspExchange implements Driver, MessageSink, MessageHandler<RequestHead> {
  readonly copies = true;
  stream!: Stream;
  readonly #socket: MessageSocket;
  readonly #over: (isReusable: boolean) => void;
  readonly #reader = new RequestReader(this);
  readonly #head = new HeadText();
  #phase: Phase = "nothing";
  #isSent = false;
  #blocked = false;
  /** One of its own rules forbids the request: wsp's client has not read the body then, and takes the next request for that. */
  #isForbidden = false;
  /** Bytes of the answer's body that are still to come; undefined: not known. */
  #missing: number | undefined;
  /** Whoever asked has all it wanted: the rest of the message is only waited for. */
  #isLeft = false;
  #method = "";
  #chunked = false;
  #bodyless = false;
  #isOver = false;

  static open(socket: MessageSocket, peer: string, over: (isReusable: boolean) => void): WspExchange {
    const exchange = new WspExchange(socket, over);
    exchange.stream = createStream(exchange, `wsp ${peer}`);
    return exchange;
  }

  private constructor(socket: MessageSocket, over: (isReusable: boolean) => void) {
    this.#socket = socket;
    this.#over = over;
  }

  // --- the request, written as HTTP ---

  /** Takes a whole chunk, or none while the connection takes no more. */
  write(bytes: Uint8Array): number {
    if (this.#blocked) return 0;
    try {
      let rest = bytes;
      while (rest.length > 0) rest = rest.subarray(this.#reader.feed(rest));
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
    return bytes.length;
  }

  onHead(head: RequestHead): void {
    this.#method = head.method;
    this.#phase = "head";
    const length = typeof head.framing === "number" ? head.framing : undefined;
    const fields = withoutFields(head.fields, (name) => isFraming(name) || name === "expect");
    this.#sent(this.#socket.sendText(formatRequest({ method: head.method, url: head.target, fields, length })));
    // The client has no way to say it.
    if (fieldTokens(head.fields, "expect").includes("100-continue")) this.stream.receive(CONTINUE);
  }

  onBody(piece: Uint8Array): void {
    this.#sent(this.#socket.sendPiece(piece, false));
  }

  #sent(goesOn: boolean): void {
    if (!goesOn) this.#blocked = true;
  }

  /** Always sent, also when there is none. */
  onComplete(): void {
    this.#sent(this.#socket.sendPiece(NOTHING, true));
    this.#isSent = true;
  }

  onDrain(): void {
    this.#blocked = false;
    this.stream.drained();
  }

  // --- the answer, read as HTTP ---

  onMessage(piece: Uint8Array, last: boolean): void {
    try {
      if (this.#phase === "head") this.#takeHead(piece, last);
      else if (this.#phase === "body") this.#takeBody(piece, last);
      else throw new SeikanError("peer-protocol", "a wsp message that nobody asked for");
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
  }

  #takeHead(piece: Uint8Array, last: boolean): void {
    const text = this.#head.take(piece, last);
    if (text === undefined) return;
    const { status, fields, length } = parseResponse(text);
    this.#phase = "body";
    this.#isForbidden = status === CLIENT_ERROR;
    this.#bodyless = this.#method === "HEAD" || status === 204 || status === 304;
    this.#chunked = length === undefined && !this.#bodyless;
    this.#missing = this.#bodyless ? 0 : length;
    const said = this.#bodyless ? (status === 204 ? undefined : declared(fields)) : length;
    const framing = this.#chunked
      ? ["Transfer-Encoding", "chunked"]
      : said === undefined
        ? []
        : ["Content-Length", String(said)];
    const all = [...withoutFields(endToEnd(fields), isFraming), ...framing, "Connection", "close"];
    this.stream.receive(formatHead(`HTTP/1.1 ${status} ${status === CLIENT_ERROR ? "Client Error" : ""}`, all));
  }

  #takeBody(piece: Uint8Array, last: boolean): void {
    if (this.#missing !== undefined) this.#missing = Math.max(0, this.#missing - piece.length);
    if (piece.length > 0) this.#isForbidden &&= FORBIDDEN.test(Buffer.from(piece.subarray(0, 64)).toString("latin1"));
    if (piece.length > 0 && !this.#bodyless && !this.#isLeft)
      this.stream.receive(this.#chunked ? chunk(piece) : new Uint8Array(piece));
    if (!last) return;
    this.#phase = "done";
    // First: whoever gets the last chunk ends the stream.
    this.#settle(this.#isSent && !this.#isForbidden);
    if (this.#chunked && !this.#isLeft) this.stream.receive(LAST_CHUNK);
    if (!this.#isLeft) this.stream.receiveEnd();
  }

  onClose(error: SeikanError | undefined): void {
    this.#isOver = true;
    this.#reader.release();
    this.stream.lost(error ?? new SeikanError("peer-closed", "the wsp client closed in the middle of a request"));
  }

  // --- the end ---

  shutdown(): void {}

  destroy(): void {
    // Nothing was asked yet: the connection is as good as before.
    if (this.#phase === "nothing") return this.#settle(true);
    this.#isLeft = this.#isSent && this.#phase === "body" && this.#missing === 0;
    if (this.#isLeft) this.#socket.resume();
    else this.#settle(false);
  }

  setReading(on: boolean): void {
    if (this.#isOver || this.#isLeft) return;
    if (on) this.#socket.resume();
    else this.#socket.pause();
  }

  #fail(error: SeikanError): void {
    this.#settle(false);
    this.stream.lost(error);
  }

  #settle(isReusable: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#reader.release();
    this.#over(isReusable);
  }
}

function isFraming(name: string): boolean {
  return name === "content-length" || name === "transfer-encoding" || name === "connection" || name === "keep-alive";
}

// --- the client's end ----------------------------------------------------------------

export interface WspServing {
  /** Serves HTTP/1.1 requests in absolute-form, one after the other, and owns the stream. */
  readonly serve: (stream: ByteStream) => void;
  /** The sentence that forbids a request; undefined: it may be made. */
  readonly forbids: (request: WspRequest) => string | undefined;
  /** A request began, or is over. */
  readonly busy: (isBusy: boolean) => void;
  readonly closed: (error: SeikanError | undefined) => void;
}

/** Answers the requests that come over one wsp connection. */
export class WspResponder implements MessageSink {
  socket!: MessageSocket;
  readonly #serving: WspServing;
  readonly #head = new HeadText();
  #request: WspRequest | undefined;
  #answering: Answering | undefined;
  #refusal: string | undefined;

  constructor(serving: WspServing) {
    this.#serving = serving;
  }

  onMessage(piece: Uint8Array, last: boolean): void {
    try {
      if (this.#request === undefined) this.#takeHead(piece, last);
      else this.#takeBody(piece, last);
    } catch (thrown) {
      const error = toSeikanError(thrown);
      this.socket.abort(error);
    }
  }

  #takeHead(piece: Uint8Array, last: boolean): void {
    if (this.#answering !== undefined)
      throw new SeikanError("peer-protocol", "a wsp request before the last was answered");
    const text = this.#head.take(piece, last);
    if (text === undefined) return;
    const request = parseRequest(text);
    this.#request = request;
    this.#serving.busy(true);
    this.#refusal = impossible(request) ?? this.#serving.forbids(request);
    if (this.#refusal !== undefined) return;
    const [inside, outside] = memoryPair();
    this.#answering = new Answering(outside, request, this.socket, () => this.#done());
    this.#serving.serve(inside);
  }

  #takeBody(piece: Uint8Array, last: boolean): void {
    if (this.#answering?.write(piece, last) === false) this.socket.pause();
    if (!last) return;
    this.#request = undefined;
    if (this.#refusal === undefined) return;
    refuse(this.socket, this.#refusal);
    this.#done();
  }

  #done(): void {
    this.#answering = undefined;
    this.#refusal = undefined;
    if (this.socket.isOpen) this.socket.resume();
    this.#serving.busy(false);
  }

  onDrain(): void {
    this.#answering?.drained();
  }

  onClose(error: SeikanError | undefined): void {
    this.#answering?.abort(error ?? new SeikanError("peer-closed", "the wsp server closed the connection"));
    this.#serving.closed(error);
  }
}

/** wsp asks for answers to requests, by URL, and for nothing else; not every method can be written in HTTP/1 here. */
function impossible({ method, url }: WspRequest): string | undefined {
  const isPossible = method !== "CONNECT" && /^[A-Z-]{1,32}$/.test(method) && /^https?:\/\/[\x21-\x7e]*$/i.test(url);
  return isPossible ? undefined : `Unable to execute request : ${method} ${url.slice(0, 200)}`;
}

/** What wsp's callers are told when it did not work: text with status 527. */
function refuse(socket: MessageSocket, why: string): void {
  const body = Buffer.from(`${why}\n`, "utf8");
  const fields = ["Content-Type", "text/plain; charset=utf-8"];
  socket.sendText(formatResponse({ status: CLIENT_ERROR, fields, length: body.length }));
  socket.sendPiece(body, true);
}

/** One request on its way through our own forward proxy. */
class Answering implements Sink, MessageHandler<ResponseHead> {
  readonly #stream: ByteStream;
  readonly #socket: MessageSocket;
  readonly #reader: ResponseReader;
  readonly #chunked: boolean;
  readonly #isHead: boolean;
  /** Bytes of the request's body that are still to come; less than nothing: not known. */
  #missing: number;
  readonly #finished: () => void;
  #answered = false;
  #isOver = false;

  constructor(stream: ByteStream, request: WspRequest, socket: MessageSocket, finished: () => void) {
    this.#stream = stream;
    this.#socket = socket;
    this.#finished = finished;
    this.#chunked = request.length === undefined;
    this.#missing = request.length ?? -1;
    this.#isHead = request.method === "HEAD";
    this.#reader = new ResponseReader(this, this.#isHead ? "to-head" : "normal");
    const framing = this.#chunked
      ? ["Transfer-Encoding", "chunked"]
      : request.length! > 0
        ? ["Content-Length", String(request.length)]
        : [];
    const kept = endToEnd(request.fields, (name) => isFraming(name) || name === "host" || name === "trailer");
    const fields = ["Host", hostOf(request.url), ...kept, ...framing, "Connection", "close"];
    stream.attach(this);
    stream.write(formatHead(`${request.method} ${request.url} HTTP/1.1`, fields));
  }

  /** A piece of the request's body; false: stop until the next request is wanted. */
  write(piece: Uint8Array, last: boolean): boolean {
    let goesOn = true;
    this.#missing -= piece.length;
    if (this.#isOver) return true;
    if (last && this.#missing > 0) {
      this.#fail(new SeikanError("peer-protocol", "the request's body is shorter than its ContentLength"));
      return true;
    }
    if (piece.length > 0) goesOn = this.#stream.write(this.#chunked ? chunk(piece) : new Uint8Array(piece));
    if (last && this.#chunked) goesOn = this.#stream.write(LAST_CHUNK);
    return goesOn;
  }

  onData(bytes: Uint8Array): void {
    try {
      let rest = bytes;
      while (rest.length > 0 && !this.#isOver) rest = rest.subarray(this.#reader.feed(rest));
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
  }

  onHead(head: ResponseHead): void {
    if (head.status < 200) return;
    this.#answered = true;
    // Ours, and not what the destination said.
    const isOwn = (fieldValue(head.fields, "proxy-status") ?? "").startsWith("seikan-agent; error=");
    const status = isOwn ? CLIENT_ERROR : head.status;
    const framed = typeof head.framing === "number" ? head.framing : undefined;
    const length = this.#isHead ? declared(head.fields) : (declared(head.fields) ?? framed);
    const fields = withoutFields(head.fields, (name) => isFraming(name) && name !== "content-length");
    this.#socket.sendText(formatResponse({ status, fields, length }));
  }

  onBody(piece: Uint8Array): void {
    if (!this.#socket.sendPiece(piece, false)) this.#stream.pause();
  }

  onComplete(): void {
    if (!this.#answered) return;
    this.#socket.sendPiece(NOTHING, true);
    this.#end();
    this.#stream.abort(new SeikanError("cancelled", "the answer is complete"));
  }

  onEnd(): void {
    if (this.#isOver) return;
    try {
      this.#reader.finish();
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
  }

  onDrain(): void {
    this.#socket.resume();
  }

  onClose(reason: CloseReason): void {
    if (!this.#isOver) this.#fail(reason.error ?? new SeikanError("response-incomplete", "the answer is incomplete"));
  }

  drained(): void {
    this.#stream.resume();
  }

  abort(reason: SeikanError): void {
    this.#isOver = true;
    this.#reader.release();
    this.#stream.abort(reason);
  }

  /** An answer that has begun can only be cut, so that it does not look complete. */
  #fail(error: SeikanError): void {
    if (this.#isOver) return;
    this.abort(error);
    if (this.#answered) return this.#socket.abort(error);
    refuse(this.#socket, `Unable to execute request : ${error.message}`);
    this.#finished();
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#reader.release();
    this.#finished();
  }
}

/** Of an answer without a body (HEAD). */
function declared(fields: Fields): number | undefined {
  const text = fieldValue(fields, "content-length");
  return text === undefined || !/^\d+$/.test(text) ? undefined : Number(text);
}

function hostOf(url: string): string {
  return /^[a-z]+:\/\/(?:[^/?#@]*@)?([^/?#]*)/i.exec(url)?.[1] ?? "";
}
