import { canonicalHost, formatTarget, parsePort, tcpTarget, type TcpTarget } from "../core/address.ts";
import { bridge } from "../core/bridge.ts";
import { deadlineIn, now, sweep } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../core/stream.ts";
import {
  endToEnd,
  fieldTokens,
  fieldValues,
  formatHead,
  nominatesFraming,
  safeTrailers,
  withoutFields,
  type Fields,
} from "../wire/fields.ts";
import { ResponseReader, type MessageHandler, type RequestHead, type ResponseHead } from "../wire/http1.ts";
import { errorAnswer, textAnswer } from "./answers.ts";
import type { CredentialAttempt } from "../transports/proxy-credentials.ts";
import { checkTarget, dialTarget } from "./context.ts";
import type { BodyTaker, HttpConnection } from "./http.ts";
import type { Way } from "./route-table.ts";

/** An absolute-form request, taken apart. */
export interface ForwardTarget {
  readonly tcp: TcpTarget;
  /** Host as it goes to the origin: without the default port. */
  readonly host: string;
  /** Path and query byte for byte, `/` where there was none. */
  readonly path: string;
}

/** Absolute-form `http://host[:port]/path` (RFC 9112 section 3.2.2); throws on anything else. */
export function parseForwardTarget(head: RequestHead): ForwardTarget {
  const match = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)([^#]*)$/i.exec(head.target);
  if (match === null) throw new SeikanError("bad-request", "the request target is no absolute http:// URL");
  if (match[1]!.toLowerCase() !== "http") {
    throw new SeikanError("request-unsupported", `this proxy forwards http:// only, not ${match[1]}://`, {
      hints: ["clients reach https:// through CONNECT"],
    });
  }
  const authority = match[2]!;
  if (authority.includes("@")) throw new SeikanError("bad-request", "a request target carries no user or password");
  const parts = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(authority);
  const host = parts === null ? undefined : canonicalHost(parts[1]!);
  const port = parts?.[2] === undefined || parts[2] === "" ? 80 : parsePort(parts[2]);
  if (host === undefined || port === undefined)
    throw new SeikanError("bad-request", "the request target has no valid host");
  const tcp = tcpTarget(host, port);
  const rest = match[3]!;
  const path = rest === "" ? (head.method === "OPTIONS" ? "*" : "/") : rest.startsWith("?") ? `/${rest}` : rest;
  return { tcp, host: port === 80 ? formatTarget(tcp).replace(/:80$/, "") : formatTarget(tcp), path };
}

/** An upstream connection between two requests of one client. */
export interface UpstreamSlot {
  kept: KeptUpstream | undefined;
}

class KeptUpstream implements Sink {
  readonly stream: ByteStream;
  readonly origin: string;
  readonly #slot: UpstreamSlot;

  constructor(slot: UpstreamSlot, stream: ByteStream, origin: string) {
    this.#slot = slot;
    this.stream = stream;
    this.origin = origin;
    slot.kept = this;
    stream.attach(this);
  }

  /** Bytes nobody asked for are never matched to the next request (RFC 9112 section 9.2). */
  onData(): void {
    this.abort(new SeikanError("bad-response", "the origin sent bytes without a request"));
  }

  onEnd(): void {
    this.abort(new SeikanError("cancelled", "the origin closed an idle connection"));
  }

  onDrain(): void {}

  onClose(): void {
    if (this.#slot.kept === this) this.#slot.kept = undefined;
  }

  abort(reason: SeikanError): void {
    this.stream.abort(reason);
  }
}

/** Small pieces are joined into one write; larger ones are passed on as they are. */
const JOIN_BYTES = 16 * 1024;

/** Gathers what one turn writes to a stream. */
class Writer {
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

function lastChunk(trailers: Fields): Uint8Array {
  if (trailers.length === 0) return Buffer.from("0\r\n\r\n");
  return Buffer.concat([Buffer.from("0\r\n"), formatHead("", trailers).subarray(2)]);
}

/** One request forwarded and its answer brought back. Owns the upstream stream while it runs. */
export class Exchange implements Sink, MessageHandler<ResponseHead>, BodyTaker {
  readonly #connection: HttpConnection;
  readonly #head: RequestHead;
  readonly #target: ForwardTarget;
  readonly #exposed: boolean;
  readonly #user: string | undefined;
  readonly #startedAt = now();
  readonly #done = Promise.withResolvers<void>();
  #reader: ResponseReader;
  readonly #client: Writer;
  #upstream: Writer | undefined;
  #way: Way | undefined;
  /** Our credentials at an upstream proxy. */
  #attempt: CredentialAttempt | undefined;
  #resend: () => Promise<void> = () => Promise.resolve();
  #response: ResponseHead | undefined;
  #chunksToClient = false;
  #closesClient = false;
  #answeredBytes = false;
  #over = false;
  #status = 0;
  #progress = 0;
  readonly #watch: (time: number) => boolean;

  constructor(
    connection: HttpConnection,
    head: RequestHead,
    target: ForwardTarget,
    who: { exposed: boolean; user: string | undefined },
  ) {
    this.#connection = connection;
    this.#head = head;
    this.#target = target;
    this.#exposed = who.exposed;
    this.#user = who.user;
    this.#client = new Writer(connection.stream);
    this.#reader = this.#newReader();
    this.#watch = this.#stallWatch();
  }

  /** True once any byte of an answer is on its way: from then on errors can only cut it. */
  get hasAnswered(): boolean {
    return this.#answeredBytes;
  }

  /** Resolves when the exchange is over, however it went: the client has been told. */
  async run(): Promise<void> {
    try {
      await this.#start();
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
    await this.#done.promise;
  }

  async #start(): Promise<void> {
    const fields = this.#requestFields();
    if (fields === undefined) return;
    this.#way = this.#connection.context.routes.choose(this.#target.tcp);
    const proxy = this.#way.httpProxy;
    const url = `http://${this.#target.host}${this.#target.path}`;
    this.#attempt = proxy?.credentials.attempt(this.#head.method, url);
    await this.#send(proxy === undefined ? this.#target.path : url, fields);
    this.#connection.takeBody(this);
  }

  /** Sends the head upstream: to the origin, or in absolute-form to the proxy that leads there. */
  async #send(target: string, fields: readonly string[]): Promise<void> {
    const upstream = await this.#reach();
    if (this.#over) return upstream.abort(new SeikanError("cancelled", "the client has gone"));
    const authorization = this.#attempt?.value;
    const added = withoutFields(this.#way?.httpProxy?.fields ?? [], (name) => name === "host");
    if (authorization !== undefined) added.push("Proxy-Authorization", authorization);
    this.#upstream = new Writer(upstream);
    this.#upstream.put(formatHead(`${this.#head.method} ${target} HTTP/1.1`, [...fields, ...added]));
    upstream.attach(this);
    upstream.resume();
    this.#resend = () => this.#send(target, fields);
    sweep.add(this.#watch);
    this.#upstream.flush();
  }

  // --- the request -----------------------------------------------------------

  /** The fields as they go on; undefined when the request was answered here. */
  #requestFields(): string[] | undefined {
    const { method, fields, framing, minor } = this.#head;
    const { via } = this.#connection.context;
    if (nominatesFraming(fields))
      throw new SeikanError("bad-request", "Connection names a field that frames the message");
    if (method === "TRACE") throw new SeikanError("method-refused", "TRACE is not forwarded");
    this.#checkExpect();
    if (via !== undefined && fieldTokens(fields, "via").some((entry) => entry.split(/\s+/)[1] === via.toLowerCase())) {
      throw new SeikanError("loop", "this request has been here before (Via)");
    }
    const kept = withoutFields(
      endToEnd(fields),
      (name) => name === "host" || (name === "content-length" && framing === "chunked"),
    );
    const forwards = this.#maxForwards(kept);
    if (forwards === undefined) return undefined;
    const added = ["Host", this.#target.host, ...forwards];
    if (via !== undefined) added.push("Via", `1.${minor} ${via}`);
    if (framing === "chunked") added.push("Transfer-Encoding", "chunked");
    if (fieldTokens(fields, "te").includes("trailers")) added.push("TE", "trailers", "Connection", "TE");
    if (this.#wantsWebSocket()) added.push("Connection", "Upgrade", "Upgrade", "websocket");
    return added;
  }

  #checkExpect(): void {
    const { fields, minor } = this.#head;
    const expectations = fieldTokens(fields, "expect");
    if (minor === 1 && expectations.some((token) => token !== "100-continue")) {
      throw new SeikanError("expectation-failed", "the only expectation is 100-continue");
    }
  }

  /** RFC 9110 section 7.6.2, for OPTIONS. */
  #maxForwards(kept: string[]): string[] | undefined {
    const [text] = this.#head.method === "OPTIONS" ? fieldValues(kept, "max-forwards") : [];
    if (text === undefined || !/^\d+$/.test(text.trim())) return kept;
    const left = Number(text);
    if (left > 0) return [...withoutFields(kept, (name) => name === "max-forwards"), "Max-Forwards", String(left - 1)];
    const fields = ["Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT"];
    this.#status = 200;
    this.#connection.stream.write(textAnswer({ status: 200, text: "seikan", fields }));
    this.#connection.finish();
    this.#settle(undefined);
    return undefined;
  }

  #wantsWebSocket(): boolean {
    const { fields, minor } = this.#head;
    return (
      minor === 1 &&
      fieldTokens(fields, "connection").includes("upgrade") &&
      fieldTokens(fields, "upgrade").includes("websocket")
    );
  }

  /** What an upstream connection may be used for again. */
  get #origin(): string {
    return this.#way?.httpProxy?.name ?? formatTarget(this.#target.tcp);
  }

  async #reach(): Promise<ByteStream> {
    const { context, upstream } = this.#connection;
    const { tcp } = this.#target;
    const way = this.#way!;
    checkTarget(context, tcp, way, this.#exposed);
    const kept = upstream.kept;
    upstream.kept = undefined;
    if (kept?.origin === this.#origin && !kept.stream.isClosed) {
      kept.stream.detach();
      return kept.stream;
    }
    kept?.abort(new SeikanError("cancelled", "another origin is asked"));
    if (way.httpProxy === undefined) return dialTarget(context, tcp, way, this.#exposed);
    return way.httpProxy.reach(way.httpProxy.proxy, { deadline: deadlineIn(context.limits.connectMs) });
  }

  write(chunk: Uint8Array): boolean {
    this.#progress = now();
    this.#upstream!.body(chunk, this.#head.framing === "chunked");
    return this.#upstream!.flush();
  }

  end(trailers: Fields): void {
    if (this.#head.framing !== "chunked") return;
    this.#upstream!.put(lastChunk(safeTrailers(trailers, this.#head.fields)));
    this.#upstream!.flush();
  }

  // --- the answer --------------------------------------------------------------

  onData(chunk: Uint8Array): void {
    let rest = chunk;
    this.#progress = now();
    const reader = this.#reader;
    try {
      while (rest.length > 0 && !this.#over && reader === this.#reader) rest = rest.subarray(reader.feed(rest));
    } catch (thrown) {
      return this.#fail(toSeikanError(thrown));
    }
    // A challenge was met: what is left belongs to the answer that nobody wants.
    if (reader !== this.#reader) return;
    if (this.#response?.status === 101) return this.#tunnel(rest);
    if (this.#over) {
      if (rest.length > 0) this.#upstream!.stream.abort(new SeikanError("bad-response", "bytes behind the answer"));
      return;
    }
    if (!this.#client.flush()) this.#upstream!.stream.pause();
  }

  onHead(head: ResponseHead): void {
    if (head.status === 101 && !(this.#wantsWebSocket() && fieldTokens(head.fields, "upgrade").includes("websocket"))) {
      throw new SeikanError("bad-response", "the origin switched protocols unasked");
    }
    if (head.status === 407 && this.#attempt !== undefined) return this.#challenged(head);
    const { minor } = this.#head;
    if (head.status === 101) this.#over = true;
    if (head.status >= 200 || head.status === 101) this.#response = head;
    else if (minor === 0) return;
    this.#status = head.status;
    this.#answeredBytes = true;
    this.#client.put(formatHead(`HTTP/1.1 ${head.status} ${head.reason}`, this.#responseFields(head)));
  }

  /** An upstream proxy wants credentials; that is between it and us. A body is not sent twice. */
  #challenged(head: ResponseHead): void {
    const proxy = this.#way!.httpProxy!;
    const upstream = this.#upstream!.stream;
    this.#reader.pause();
    upstream.detach();
    upstream.abort(new SeikanError("hop-auth", "authenticating on a new connection"));
    this.#reader = this.#newReader();
    const answer = this.#attempt!.challenged(fieldValues(head.fields, "proxy-authenticate"), proxy.name);
    answer
      .then(() => {
        if (this.#head.framing === 0) return this.#resend();
        throw new SeikanError("hop-auth", `${proxy.name} wants other credentials; now it is known which: try again`);
      })
      .catch((thrown: unknown) => this.#fail(toSeikanError(thrown)));
  }

  #newReader(): ResponseReader {
    const context = this.#head.method === "HEAD" ? "to-head" : "normal";
    return new ResponseReader(this, context, this.#connection.context.limits.head);
  }

  #responseFields(head: ResponseHead): string[] {
    const { via } = this.#connection.context;
    const fields = endToEnd(head.fields);
    if (via !== undefined && head.status >= 200) fields.push("Via", `1.${head.minor} ${via}`);
    if (head.status === 101) return [...fields, "Connection", "Upgrade", "Upgrade", "websocket"];
    if (head.status < 200) return fields;
    const unframed = head.framing === "chunked" || head.framing === "until-close";
    this.#chunksToClient = unframed && this.#head.minor === 1;
    this.#closesClient =
      !this.#head.keepAlive ||
      (unframed && this.#head.minor === 0) ||
      !this.#connection.isRequestComplete ||
      this.#connection.context.isDraining();
    if (this.#chunksToClient) fields.push("Transfer-Encoding", "chunked");
    if (this.#closesClient) fields.push("Connection", "close");
    else if (this.#head.minor === 0) fields.push("Connection", "keep-alive");
    return fields;
  }

  onBody(chunk: Uint8Array): void {
    this.#client.body(chunk, this.#chunksToClient);
  }

  onComplete(trailers: Fields): void {
    const response = this.#response;
    if (response === undefined || response.status === 101) return;
    if (this.#chunksToClient) this.#client.put(lastChunk(safeTrailers(trailers, response.fields)));
    this.#client.flush();
    this.#settle(undefined);
    this.#release(response);
    if (this.#closesClient) this.#connection.finish();
    else this.#connection.nextRequest();
  }

  /** Keeps the upstream connection for the next request, if both sides are where they should be. */
  #release(response: ResponseHead): void {
    const upstream = this.#upstream!.stream;
    const reusable =
      response.keepAlive &&
      response.framing !== "until-close" &&
      this.#connection.isRequestComplete &&
      !this.#closesClient;
    if (!reusable || upstream.isClosed) return upstream.abort(new SeikanError("cancelled", "the answer is complete"));
    upstream.resume();
    new KeptUpstream(this.#connection.upstream, upstream, this.#origin);
  }

  #tunnel(rest: Uint8Array): void {
    this.#client.flush();
    const outbound = this.#upstream!.stream;
    const inbound = this.#connection.leave();
    sweep.delete(this.#watch);
    outbound.detach();
    outbound.unread(rest);
    const { context } = this.#connection;
    context.live.add(inbound);
    void bridge(inbound, outbound, context.limits).then(({ up, down, error }) => {
      context.live.delete(inbound);
      this.#upstream!.bytes += up;
      this.#client.bytes += down;
      this.#settle(error);
    });
  }

  onEnd(): void {
    if (this.#over) return;
    try {
      this.#reader.finish();
      if (!this.#over) this.#fail(new SeikanError("response-incomplete", "the origin closed without an answer"));
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
  }

  onDrain(): void {
    this.#connection.resume();
  }

  onClose(reason: CloseReason): void {
    if (!this.#over)
      this.#fail(reason.error ?? new SeikanError("response-incomplete", "the origin closed without an answer"));
  }

  // --- both sides ---------------------------------------------------------------

  clientDrained(): void {
    this.#progress = now();
    this.#upstream?.stream.resume();
  }

  clientLost(error: SeikanError | undefined): void {
    if (this.#over) return;
    this.#settle(error ?? new SeikanError("peer-closed", "the client has gone"));
    this.#upstream?.stream.abort(new SeikanError("cancelled", "the client has gone"));
  }

  /** Tells the client while that is possible; cuts its connection once an answer has begun. */
  #fail(error: SeikanError): void {
    if (this.#over) return;
    const answer = errorAnswer(error, this.#connection.context.proxyName, this.#head.method === "HEAD");
    if (!this.#answeredBytes) this.#status = error.outcome.status;
    this.#settle(error);
    this.#upstream?.stream.abort(error);
    if (this.#answeredBytes) return this.#connection.finishWith((stream) => stream.abort(error));
    this.#connection.stream.write(answer);
    this.#connection.finish();
  }

  #settle(error: SeikanError | undefined): void {
    if (this.#over && this.#response?.status !== 101) return;
    this.#over = true;
    this.#reader.release();
    sweep.delete(this.#watch);
    this.#connection.context.access({
      kind: "request",
      client: this.#connection.client,
      user: this.#user,
      method: this.#head.method,
      target: this.#head.target,
      way: this.#way,
      status: this.#status,
      up: this.#upstream?.bytes ?? 0,
      down: this.#client.bytes,
      startedAt: this.#startedAt,
      error,
    });
    this.#done.resolve();
  }

  /** A body that stands still, or an answer that never comes. */
  #stallWatch(): (time: number) => boolean {
    const { bodyMs, lingerMs } = this.#connection.context.limits;
    this.#progress = now();
    return (time) => {
      const waitsForClient = !this.#connection.isRequestComplete;
      const limit = waitsForClient ? bodyMs : lingerMs;
      if (limit <= 0 || time - this.#progress < limit) return true;
      const code = waitsForClient ? "body-timeout" : "response-timeout";
      const what = waitsForClient ? "the request's body stands still" : "the origin does not answer";
      this.#fail(new SeikanError(code, `${what} for ${limit / 1000} s`));
      return false;
    };
  }
}
