import { formatTarget } from "../core/address.ts";
import { bridge } from "../core/bridge.ts";
import { deadlineIn, now, sweep } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../core/stream.ts";
import type { CredentialAttempt } from "../transports/proxy-credentials.ts";
import {
  endToEnd,
  fieldTokens,
  fieldValues,
  formatHead,
  safeTrailers,
  withoutFields,
  type Fields,
} from "../wire/fields.ts";
import { ResponseReader, type MessageHandler, type RequestHead, type ResponseHead } from "../wire/http1.ts";
import { errorAnswer, textAnswer } from "./answers.ts";
import { checkTarget, dialTarget, type Client, type RouteContext } from "./context.ts";
import { forwardedFields, maxForwards, wantsWebSocket, type ForwardTarget } from "./forward-request.ts";
import { lastChunk, MessageWriter } from "./message-writer.ts";
import type { Way } from "./route-table.ts";
import { KeptUpstream, type UpstreamSlot } from "./upstream.ts";

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
  readonly #target: ForwardTarget;
  readonly #exposed: boolean;
  readonly #user: string | undefined;
  readonly #startedAt = now();
  readonly #done = Promise.withResolvers<void>();
  #reader: ResponseReader;
  readonly #client: MessageWriter;
  #upstream: MessageWriter | undefined;
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
    connection: ClientConnection,
    head: RequestHead,
    target: ForwardTarget,
    who: { exposed: boolean; user: string | undefined },
  ) {
    this.#connection = connection;
    this.#head = head;
    this.#target = target;
    this.#exposed = who.exposed;
    this.#user = who.user;
    this.#client = new MessageWriter(connection.stream);
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
    const { via } = this.#connection.context;
    const fields = forwardedFields(this.#head, this.#target.host, via);
    if (maxForwards(this.#head) === 0) return this.#answerOptions();
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
    this.#upstream = new MessageWriter(upstream);
    this.#upstream.put(formatHead(`${this.#head.method} ${target} HTTP/1.1`, [...fields, ...added]));
    upstream.attach(this);
    upstream.resume();
    this.#resend = () => this.#send(target, fields);
    sweep.add(this.#watch);
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
    if (
      head.status === 101 &&
      !(wantsWebSocket(this.#head) && fieldTokens(head.fields, "upgrade").includes("websocket"))
    ) {
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
    const answer = errorAnswer(error, this.#connection.context.proxyName, { headOnly: this.#head.method === "HEAD" });
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
