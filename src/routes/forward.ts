import { bridge } from "../core/bridge.ts";
import { now } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../core/stream.ts";
import type { CredentialAttempt } from "../transports/proxy-credentials.ts";
import { endToEnd, fieldTokens, fieldValues, formatHead, safeTrailers, type Fields } from "../wire/fields.ts";
import { behind, ResponseReader, type MessageHandler, type RequestHead, type ResponseHead } from "../wire/http1.ts";
import { answerStatus, errorAnswer, textAnswer, type ErrorStyle } from "./answers.ts";
import type { Client, RouteContext } from "./context.ts";
import { maxForwards, wantsWebSocket } from "./forward-request.ts";
import { lastChunk, MessageWriter } from "./message-writer.ts";
import type { Way } from "./route-table.ts";
import { KeptUpstream, type IdleConnection, type UpstreamSlot } from "./upstream.ts";

/** Where one request goes on to, and what changes on its way there and back. */
export interface Destination {
  /** For the log; known once it was reached. */
  readonly way: Way | undefined;
  /** The request as it goes on. Throws to refuse it. */
  prepare(): Outgoing;
  /** A kept connection to this origin may take the request. Throws when it may not be made at all. */
  accepts(origin: string): boolean;
  /** Opens a connection of its own. */
  reach(): Promise<ByteStream>;
  /** Names what a connection leads to, so that a further request to the same place can take it. */
  readonly origin: string;
  /** Our credentials at an upstream proxy. */
  readonly credentials: CredentialAttempt | undefined;
  /** The name of that proxy, for errors. */
  readonly proxyName: string;
  /** The fields of an answer as they go back, less what belongs to one hop. */
  answerFields(fields: string[]): string[];
  /** How its errors are told. */
  readonly style: ErrorStyle;
  /** How long the request may wait for the head of its answer; 0: for ever. */
  readonly answerMs: number;
  /** Its connection may wait for a further request. */
  mayKeep(): boolean;
  /** Where connections to it are listed that wait for a further request. */
  readonly idle: Set<IdleConnection> | undefined;
  /** It became a connection of its own. */
  upgraded?(): void;
  /** The exchange is over, however it went. */
  settled(): void;
}

export interface Outgoing {
  /** The request target: origin-form, or absolute-form for a proxy. */
  readonly target: string;
  readonly fields: readonly string[];
}

/** Gets the body of the request that is being answered. */
export interface BodyTaker {
  /** `false`: stop until the connection is resumed. */
  write(chunk: Uint8Array): boolean;
  end(trailers: Fields): void;
}

/** What an exchange may do with the client connection it answers on. */
export interface ClientConnection {
  readonly context: RouteContext;
  readonly stream: ByteStream;
  readonly client: Client;
  readonly upstream: UpstreamSlot;
  readonly isRequestComplete: boolean;
  /** Hands the request's body over as it comes; `resume` after a `write` that said false. */
  takeBody(taker: BodyTaker): void;
  resume(): void;
  /** The answer is complete: the next request may be read. */
  nextRequest(): void;
  /** Ends the connection behind what was written. */
  finish(): void;
  /** Leaves the last word to `last`, which owns the stream. */
  finishWith(last: (stream: ByteStream) => void): void;
  /** Gives the stream away: an upgraded connection. */
  leave(): ByteStream;
}

/** One request forwarded and its answer brought back. Owns the upstream stream while it runs. */
export class Exchange implements Sink, MessageHandler<ResponseHead>, BodyTaker {
  readonly #connection: ClientConnection;
  readonly #head: RequestHead;
  readonly #destination: Destination;
  readonly #user: string | undefined;
  readonly #startedAt = now();
  #reader: ResponseReader;
  readonly #client: MessageWriter;
  #upstream: MessageWriter | undefined;
  #origin = "";
  #outgoing: Outgoing | undefined;
  #response: ResponseHead | undefined;
  #chunksToClient = false;
  #closesClient = false;
  #answeredBytes = false;
  #over = false;
  #status = 0;
  #progress = 0;

  constructor(connection: ClientConnection, head: RequestHead, destination: Destination, user: string | undefined) {
    this.#connection = connection;
    this.#head = head;
    this.#destination = destination;
    this.#user = user;
    this.#client = new MessageWriter(connection.stream);
    this.#reader = this.#newReader();
  }

  /** True once any byte of an answer is on its way: from then on errors can only cut it. */
  get hasAnswered(): boolean {
    return this.#answeredBytes;
  }

  /** Begins; however it goes, the client is told. */
  start(): void {
    try {
      const outgoing = this.#destination.prepare();
      if (maxForwards(this.#head) === 0) return this.#answerOptions();
      const kept = this.#takeKept();
      if (kept === undefined) return void this.#reach(outgoing);
      this.#send(kept, outgoing);
      this.#connection.takeBody(this);
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
  }

  /** On a connection of its own. */
  async #reach(outgoing: Outgoing): Promise<void> {
    try {
      const upstream = await this.#destination.reach();
      this.#origin = this.#destination.origin;
      this.#send(upstream, outgoing);
      if (!this.#over) this.#connection.takeBody(this);
    } catch (thrown) {
      this.#fail(toSeikanError(thrown));
    }
  }

  #send(upstream: ByteStream, outgoing: Outgoing): void {
    if (this.#over) return upstream.abort(new SeikanError("cancelled", "the client has gone"));
    const authorization = this.#destination.credentials?.value;
    const credentials = authorization === undefined ? [] : ["Proxy-Authorization", authorization];
    this.#upstream = new MessageWriter(upstream);
    const startLine = `${this.#head.method} ${outgoing.target} HTTP/1.1`;
    this.#upstream.put(formatHead(startLine, [...outgoing.fields, ...credentials]));
    upstream.attach(this);
    upstream.resume();
    this.#outgoing = outgoing;
    this.#progress = now();
    this.#upstream.flush();
  }

  // --- the request -----------------------------------------------------------

  /** An OPTIONS request that may go no further asks us. */
  #answerOptions(): void {
    const fields = ["Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT"];
    this.#status = 200;
    this.#connection.stream.write(textAnswer({ status: 200, text: "seikan", fields }));
    this.#connection.finish();
    this.#settle(undefined);
  }

  /** The connection of this client's last request, if this one may go there, too. */
  #takeKept(): ByteStream | undefined {
    const slot = this.#connection.upstream;
    const { kept } = slot;
    if (kept === undefined) return undefined;
    const fits = !kept.stream.isClosed && this.#destination.accepts(kept.origin);
    slot.kept = undefined;
    if (fits) {
      this.#origin = kept.origin;
      return kept.take();
    }
    kept.abort(new SeikanError("cancelled", "another origin is asked"));
    return undefined;
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
      while (rest.length > 0 && !this.#over && reader === this.#reader) rest = behind(rest, reader.feed(rest));
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
    if (
      head.status === 101 &&
      !(wantsWebSocket(this.#head) && fieldTokens(head.fields, "upgrade").includes("websocket"))
    ) {
      throw new SeikanError("bad-response", "the origin switched protocols unasked");
    }
    const { credentials } = this.#destination;
    if (head.status === 407 && credentials !== undefined) return this.#challenged(head, credentials);
    const { minor } = this.#head;
    if (head.status === 101) this.#over = true;
    if (head.status >= 200 || head.status === 101) this.#response = head;
    else if (minor === 0) return;
    this.#status = head.status;
    this.#answeredBytes = true;
    this.#client.put(formatHead(`HTTP/1.1 ${head.status} ${head.reason}`, this.#responseFields(head)));
  }

  /** An upstream proxy wants credentials; that is between it and us. A body is not sent twice. */
  #challenged(head: ResponseHead, credentials: CredentialAttempt): void {
    const { proxyName } = this.#destination;
    const upstream = this.#upstream!.stream;
    this.#reader.pause();
    upstream.detach();
    upstream.abort(new SeikanError("hop-auth", "authenticating on a new connection"));
    this.#reader = this.#newReader();
    const answer = credentials.challenged(fieldValues(head.fields, "proxy-authenticate"), proxyName);
    answer
      .then(() => {
        if (this.#head.framing === 0) return this.#again();
        throw new SeikanError("hop-auth", `${proxyName} wants other credentials; now it is known which: try again`);
      })
      .catch((thrown: unknown) => this.#fail(toSeikanError(thrown)));
  }

  async #again(): Promise<void> {
    this.#send(await this.#destination.reach(), this.#outgoing!);
  }

  #newReader(): ResponseReader {
    const context = this.#head.method === "HEAD" ? "to-head" : "normal";
    return new ResponseReader(this, context, this.#connection.context.limits.head);
  }

  #responseFields(head: ResponseHead): string[] {
    const { via } = this.#connection.context;
    const fields = this.#destination.answerFields(endToEnd(head.fields));
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
      !this.#closesClient &&
      this.#destination.mayKeep();
    if (!reusable || upstream.isClosed) return upstream.abort(new SeikanError("cancelled", "the answer is complete"));
    upstream.resume();
    new KeptUpstream(this.#connection.upstream, upstream, this.#origin, this.#destination.idle);
  }

  #tunnel(rest: Uint8Array): void {
    this.#destination.upgraded?.();
    this.#client.flush();
    const outbound = this.#upstream!.stream;
    const inbound = this.#connection.leave();
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
    const style = { ...this.#destination.style, headOnly: this.#head.method === "HEAD" };
    const answer = errorAnswer(error, this.#connection.context.proxyName, style);
    if (!this.#answeredBytes) this.#status = answerStatus(error, style);
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
    this.#connection.context.access({
      kind: "request",
      client: this.#connection.client,
      user: this.#user,
      method: this.#head.method,
      target: this.#head.target,
      way: this.#destination.way,
      status: this.#status,
      up: this.#upstream?.bytes ?? 0,
      down: this.#client.bytes,
      startedAt: this.#startedAt,
      error,
    });
    this.#destination.settled();
  }

  /** Asked every second: a body that stands still, or an answer that never comes, ends it. */
  tick(time: number): void {
    if (this.#over || this.#upstream === undefined) return;
    const { bodyMs, lingerMs } = this.#connection.context.limits;
    const waitsForClient = !this.#connection.isRequestComplete;
    const limit = waitsForClient ? bodyMs : this.#response === undefined ? this.#destination.answerMs : lingerMs;
    if (limit <= 0 || time - this.#progress < limit) return;
    const code = waitsForClient ? "body-timeout" : "response-timeout";
    const what = waitsForClient ? "the request's body stands still" : "the origin does not answer";
    this.#fail(new SeikanError(code, `${what} for ${limit / 1000} s`));
  }
}
