import { badTarget, parseAuthority, parseIp, parsePort } from "../core/address.ts";
import { deadlineIn, now, sweep } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../core/stream.ts";
import { fieldValue, fieldValues, type Fields } from "../wire/fields.ts";
import { CONNECT_UDP } from "../transports/connect-udp.ts";
import { wantsUpgrade } from "../wire/websocket-handshake.ts";
import { behind, RequestReader, type MessageHandler, type RequestHead } from "../wire/http1.ts";
import { closeGently } from "../transports/gentle-close.ts";
import { answerStatus, closeWith, errorAnswer, textAnswer, type ErrorStyle } from "./answers.ts";
import { openTunnel } from "./connect.ts";
import type { Client, RouteContext, Endpoint, Gateway } from "./context.ts";
import { parseForwardTarget } from "./forward-request.ts";
import { Exchange, type BodyTaker, type ClientConnection } from "./forward.ts";
import { ForwardProxy } from "./forward-proxy.ts";
import { admit, hostOf, pathOf, probeNonce, siteErrorStyle, SiteVisit, visitorOf } from "./ingress.ts";
import type { Site, Sites } from "./sites.ts";
import type { UpstreamSlot } from "./upstream.ts";
import { parseAuthorization } from "./users.ts";

const ESTABLISHED = Buffer.from("HTTP/1.1 200 Connection established\r\n\r\n");

/**
 * One HTTP/1 client connection. Owns its stream until a route takes it over.
 *
 * Requests are answered one at a time and in order: while one is being
 * answered, nothing of the next is read.
 */
export class HttpConnection implements Sink, MessageHandler<RequestHead>, ClientConnection {
  readonly context: RouteContext;
  readonly stream: ByteStream;
  readonly client: Client;
  /** The upstream connection of the last request, for the next one to the same origin. */
  readonly upstream: UpstreamSlot = { kept: undefined };
  readonly #reader: RequestReader;
  #state: "head" | "held" | "body" | "gone" = "head";
  #taker: BodyTaker | undefined;
  #exchange: Exchange | undefined;
  #requestComplete = true;
  #received: RequestHead | undefined;
  #clientEnded = false;
  /** A complete head must be here by then; 0: none is waited for. */
  #headDeadline = 0;

  constructor(context: RouteContext, stream: ByteStream, client: Client) {
    this.context = context;
    this.stream = stream;
    this.client = client;
    this.#reader = new RequestReader(this, context.limits.head);
    sweep.add(this.#tick);
    stream.attach(this);
  }

  /** Aborts the connection and what it waits for: the server is shutting down. */
  abort(reason: SeikanError): void {
    this.stream.abort(reason);
  }

  // --- reading -------------------------------------------------------------

  onData(chunk: Uint8Array): void {
    let rest = chunk;
    try {
      while (rest.length > 0 && this.#isReading()) rest = behind(rest, this.#reader.feed(rest));
    } catch (thrown) {
      return this.#fail(toSeikanError(thrown));
    }
    if (rest.length > 0) {
      this.stream.pause();
      this.stream.unread(rest);
    }
    const head = this.#received;
    this.#received = undefined;
    if (head !== undefined) this.#serve(head);
    // Most heads come whole: then there was nothing to wait for.
    else if (this.#state === "head" && this.#headDeadline === 0) this.#expectHead();
  }

  onHead(head: RequestHead): void {
    this.#headDeadline = 0;
    this.#received = head;
    this.#requestComplete = false;
    this.#state = "held";
    this.#reader.pause();
  }

  onBody(chunk: Uint8Array): void {
    if (this.#taker?.write(chunk) === false) {
      this.#reader.pause();
      this.stream.pause();
    }
  }

  onComplete(trailers: Fields): void {
    this.#requestComplete = true;
    if (this.#state !== "body") return;
    this.#state = "held";
    this.#taker?.end(trailers);
  }

  onEnd(): void {
    this.#clientEnded = true;
    if (this.#state === "held") return;
    if (this.#state === "head" && !this.#reader.isMidMessage) return this.finish();
    this.#fail(new SeikanError("peer-closed", "the client closed in the middle of a request"));
  }

  onDrain(): void {
    this.#exchange?.clientDrained();
  }

  onClose(reason: CloseReason): void {
    sweep.delete(this.#tick);
    this.#reader.release();
    const wasGone = this.#state === "gone";
    this.#state = "gone";
    if (!wasGone) this.#exchange?.clientLost(reason.error);
    this.upstream.kept?.abort(new SeikanError("cancelled", "the client has gone"));
    this.context.live.delete(this);
  }

  #isReading(): boolean {
    return this.#state === "head" || this.#state === "body";
  }

  // --- requests ------------------------------------------------------------

  #serve(head: RequestHead): void {
    const isExposed = this.client.exposed || cameThroughProxy(head.fields);
    if (head.method === "CONNECT") return void this.#connect(head, isExposed);
    const path = ownPath(head);
    const endpoint = path === undefined ? undefined : this.context.endpoints.find((one) => one.matches(path));
    if (endpoint?.protocol === CONNECT_UDP) return void this.#upgrade(endpoint, head, path!, isExposed);
    if (this.context.sites !== undefined) {
      const site = this.#findSite(this.context.sites, head, isExposed);
      if (site instanceof SeikanError) return this.#fail(site, head, siteErrorStyle(head));
      if (site !== undefined) return void this.#visit(site, head);
    }
    const isOrigin = path !== undefined || head.target === "*";
    const { sites } = this.context;
    if (isOrigin && sites !== undefined && endpoint?.checksHost !== true && !isForServer(sites, head, isExposed)) {
      return this.#fail(sites.unknown(hostOf(head) ?? "", isExposed), head, siteErrorStyle(head));
    }
    const gateway = path === undefined ? undefined : this.context.gateways.find((one) => one.matches(path));
    if (gateway !== undefined) return void this.#passOn(gateway, head, isExposed);
    if (head.target === "*" || (path !== undefined && endpoint === undefined)) return this.#answerOwn(head);
    if (endpoint === undefined) void this.#forward(head, isExposed);
    else void this.#upgrade(endpoint, head, path!, isExposed);
  }

  /** The site that a request is for; an error where it is for one that is not there. */
  #findSite(sites: Sites, head: RequestHead, exposed: boolean): Site | SeikanError | undefined {
    const host = hostOf(head);
    if (host === undefined) return undefined;
    try {
      return sites.find(host, { path: pathOf(head), exposed });
    } catch (thrown) {
      return toSeikanError(thrown);
    }
  }

  async #connect(head: RequestHead, exposed: boolean): Promise<void> {
    try {
      checkHost(head);
      const target = parseAuthority(head.target);
      if (target === undefined) throw badTarget(head.target);
      const pending = this.#authorize(head, exposed);
      const user = pending === undefined ? undefined : await pending;
      if (this.#state === "gone") return;
      openTunnel(this.context, this.leave(), {
        method: "CONNECT",
        target,
        client: this.client.isServer ? forwardedClient(head, this.client) : this.client,
        exposed,
        user,
        agent: agentOf(head),
        acceptStatus: 200,
        accept: acceptConnect,
        refuse: refuseConnect,
      });
    } catch (thrown) {
      this.#fail(toSeikanError(thrown), head);
    }
  }

  async #forward(head: RequestHead, exposed: boolean): Promise<void> {
    const { context, client } = this;
    try {
      checkHost(head);
      const target = parseForwardTarget(head, context.originTls !== undefined);
      const pending = this.#authorize(head, exposed);
      const user = pending === undefined ? undefined : await pending;
      if (this.#state === "gone") return;
      const destination = new ForwardProxy(context, head, target, { client, exposed, user, agent: agentOf(head) });
      this.#exchange = new Exchange(this, head, destination, user);
      this.#exchange.start();
    } catch (thrown) {
      this.#fail(toSeikanError(thrown), head);
    }
  }

  /** A path of ours whose requests go on to somewhere else. */
  async #passOn(gateway: Gateway, head: RequestHead, exposed: boolean): Promise<void> {
    const { context, client } = this;
    try {
      checkHost(head);
      const pending = this.#authorize(head, exposed);
      const user = pending === undefined ? undefined : await pending;
      if (this.#state === "gone") return;
      const destination = gateway.destination({ context, head, asker: { client, exposed, user } });
      this.#exchange = new Exchange(this, head, destination, user);
      this.#exchange.start();
    } catch (thrown) {
      this.#fail(toSeikanError(thrown), head, gateway.style);
    }
  }

  /** A visitor of one of our hosts. */
  async #visit(site: Site, head: RequestHead): Promise<void> {
    const { context, client } = this;
    try {
      checkHost(head);
      const nonce = probeNonce(head);
      if (nonce !== undefined) return await this.#probe(site, nonce);
      const visitor = visitorOf(head, client, context.trustedProxies);
      const pending = admit(site, head, visitor);
      if (pending !== undefined) await pending;
      if (this.#state === "gone") return;
      this.#exchange = new Exchange(this, head, new SiteVisit(context, head, site, visitor, client), undefined);
      this.#exchange.start();
    } catch (thrown) {
      this.#fail(toSeikanError(thrown), head, siteErrorStyle(head));
    }
  }

  async #probe(site: Site, nonce: string): Promise<void> {
    await site.probe(nonce, deadlineIn(this.context.limits.connectMs));
    if (this.#state === "gone") return;
    this.stream.write(textAnswer({ status: 200, text: "it answers" }));
    this.finish();
  }

  async #upgrade(endpoint: Endpoint, head: RequestHead, path: string, exposed: boolean): Promise<void> {
    const { context, client } = this;
    try {
      checkHost(head);
      await endpoint.serve({
        ...{ context, client, head, path, exposed },
        authorize: () => this.#authorize(head, exposed, ["authorization", "proxy-authorization"]),
        leave: () => (this.#state === "gone" ? undefined : this.leave()),
      });
    } catch (thrown) {
      const { protocol } = endpoint;
      const style = protocol === undefined ? siteErrorStyle(head) : { asOrigin: true, upgrade: protocol };
      this.#fail(toSeikanError(thrown), head, style);
    }
  }

  /** The user, or undefined where none is needed; throws when there must be one. */
  #authorize(
    head: RequestHead,
    exposed: boolean,
    names: readonly string[] = ["proxy-authorization"],
  ): Promise<string | undefined> | undefined {
    const { users, openToAll } = this.context;
    if (this.client.login !== undefined) return Promise.resolve(this.client.login.user);
    if (users === undefined) {
      if (!exposed || openToAll) return undefined;
      throw new SeikanError(
        "target-denied",
        "this server can be reached from outside and has no users, so it dials for nobody",
        {
          hints: ["start it with --auth USER:PASS, or with --no-auth to let everybody in"],
        },
      );
    }
    const shown = names.map((name) => fieldValue(head.fields, name)).find((value) => value !== undefined);
    return this.#authenticate(users, shown);
  }

  async #authenticate(users: NonNullable<RouteContext["users"]>, value: string | undefined): Promise<string> {
    const shown = parseAuthorization(value);
    if (shown === undefined) throw new SeikanError("auth-required", "this server wants a user and password");
    const user = await users.identify(shown, this.client.address);
    if (user !== undefined) return user;
    throw new SeikanError("auth-required", "wrong user or password");
  }

  #answerOwn(head: RequestHead): void {
    try {
      checkHost(head);
    } catch (thrown) {
      return this.#fail(toSeikanError(thrown), head);
    }
    const isHealth = head.target.split("?", 1)[0] === "/-/healthz" && (head.method === "GET" || head.method === "HEAD");
    const keepAlive = head.keepAlive && head.framing === 0 && !this.context.isDraining();
    const status = isHealth ? 200 : 404;
    const text = isHealth ? "ok" : this.context.greeting;
    this.#log(head, status, undefined);
    this.stream.write(textAnswer({ status, text, headOnly: head.method === "HEAD", keepAlive }));
    if (keepAlive) this.nextRequest();
    else this.finish();
  }

  // --- what an exchange may do ----------------------------------------------

  get isRequestComplete(): boolean {
    return this.#requestComplete;
  }

  /** Hands the request's body over as it comes; call `resume` after a `write` that said false. */
  takeBody(taker: BodyTaker): void {
    if (this.#requestComplete) return taker.end([]);
    this.#taker = taker;
    this.#state = "body";
    this.stream.resume();
  }

  resume(): void {
    if (this.#state === "body") this.stream.resume();
  }

  /** The answer is complete: reads the next request, or ends the connection. */
  nextRequest(): void {
    if (this.#state === "gone") return;
    this.#exchange = undefined;
    this.#taker = undefined;
    if (!this.#requestComplete || this.#clientEnded || this.context.isDraining()) return this.finish();
    this.#state = "head";
    this.#expectHead();
    this.stream.resume();
  }

  /** Ends the connection behind what was written. */
  finish(): void {
    if (this.#state !== "gone") this.finishWith((stream) => closeGently(stream));
  }

  /** The server is about to stop: nothing that idles is waited for. */
  drain(): void {
    if (this.#state === "head" && !this.#reader.isMidMessage) this.finish();
  }

  /** Gives the stream away: an upgraded connection. */
  leave(): ByteStream {
    this.#leave();
    this.context.live.delete(this);
    return this.stream;
  }

  #leave(): void {
    this.#state = "gone";
    sweep.delete(this.#tick);
    this.#reader.release();
    this.stream.detach();
    this.stream.resume();
  }

  /** The last answer on this connection: what went wrong. Without `head` the request itself was malformed. */
  #fail(error: SeikanError, head?: RequestHead, kind: ErrorStyle = {}): void {
    if (this.#state === "gone") return;
    const exchange = this.#exchange;
    const style = { ...kind, headOnly: head?.method === "HEAD" };
    this.#log(head, answerStatus(error, style), error);
    this.finishWith((stream) => {
      // An answer that has begun can only be cut, so that it does not look complete.
      if (exchange?.hasAnswered) stream.abort(error);
      else closeWith(stream, errorAnswer(error, this.context.proxyName, style));
    });
    exchange?.clientLost(error);
  }

  /** Leaves the last word on the connection to `last`, which owns the stream. */
  finishWith(last: (stream: ByteStream) => void): void {
    this.#leave();
    this.upstream.kept?.abort(new SeikanError("cancelled", "the client connection is over"));
    this.context.live.delete(this);
    if (!this.stream.isClosed) last(this.stream);
  }

  #log(head: RequestHead | undefined, status: number, error: SeikanError | undefined): void {
    if (head === undefined) this.context.log.debug(`bad request: ${error?.message}`, { peer: this.client.address });
    this.context.access({
      kind: "request",
      method: head?.method ?? "-",
      target: head?.target ?? "-",
      client: this.client,
      user: undefined,
      way: undefined,
      status,
      startedAt: now(),
      up: 0,
      down: 0,
      error,
    });
  }

  #expectHead(): void {
    const { headMs } = this.context.limits;
    this.#headDeadline = headMs > 0 ? now() + headMs : 0;
  }

  /** Every second: what is waited for too long. */
  readonly #tick = (time: number): boolean => {
    if (this.#state === "head" && this.#headDeadline > 0 && time > this.#headDeadline) this.#headIsLate();
    else this.#exchange?.tick(time);
    return this.#state !== "gone";
  };

  #headIsLate(): void {
    if (!this.#reader.isMidMessage) return this.finish();
    const { headMs } = this.context.limits;
    this.#fail(new SeikanError("head-timeout", `no complete request head within ${headMs / 1000} s`));
  }
}

/**
 * The path when the request is for a resource of ours. Requests for
 * connect-udp are, also in absolute-form (RFC 9298 section 3.2).
 */
function ownPath({ target, fields }: RequestHead): string | undefined {
  const path = target.startsWith("/") ? target : undefined;
  const absolute =
    path ?? (wantsUpgrade(fields, CONNECT_UDP) ? /^https?:\/\/[^/?#]+(\/.*)$/i.exec(target)?.[1] : undefined);
  return absolute?.split("?", 1)[0];
}

function acceptConnect(stream: ByteStream): ByteStream {
  stream.write(ESTABLISHED);
  return stream;
}

/** Our own paths are for names that are no site's. */
function isForServer(sites: Sites, head: RequestHead, exposed: boolean): boolean {
  const host = hostOf(head);
  return host === undefined || sites.isApex(host, exposed);
}

/** The agent that shall dial, where the request names one. */
function agentOf(head: RequestHead): string | undefined {
  return fieldValue(head.fields, "seikan-agent")?.trim();
}

/** Whom our server speaks for (RFC 7239): it alone writes this field. */
function forwardedClient(head: RequestHead, server: Client): Client {
  const match = /^for="?(\[[^\]]+\]|[^:"]+):(\d+)"?$/.exec(fieldValue(head.fields, "forwarded") ?? "");
  const address = match === null ? undefined : parseIp(match[1]!.replace(/^\[(.*)\]$/, "$1"));
  const port = match === null ? undefined : parsePort(match[2]!);
  if (address === undefined) return server;
  return { ...server, address: address.toString(), port: port ?? 0 };
}

/** After a refusal nothing more is read as HTTP: the client may have sent tunnel bytes (RFC 9931). */
function refuseConnect(stream: ByteStream, error: SeikanError, proxyName: string): number {
  closeWith(stream, errorAnswer(error, proxyName));
  return error.outcome.status;
}

/** Somebody put a proxy in front of a loopback listener: then its clients are not local. */
function cameThroughProxy(fields: Fields): boolean {
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i]!.toLowerCase();
    if (name === "via" || name === "forwarded" || name.startsWith("x-forwarded-")) return true;
  }
  return false;
}

/** Exactly one valid Host in HTTP/1.1 (RFC 9112 section 3.2). */
function checkHost(head: RequestHead): void {
  const hosts = fieldValues(head.fields, "host");
  if (hosts.length > 1) throw new SeikanError("bad-request", "malformed request: more than one Host");
  if (hosts.length === 0) {
    if (head.minor === 0) return;
    throw new SeikanError("bad-request", "malformed request: no Host");
  }
  if (!/^(\[[0-9a-f:.]+\]|[^\s:/?#@,[\]]*)(:\d*)?$/i.test(hosts[0]!)) {
    throw new SeikanError("bad-request", "malformed request: the Host is no host");
  }
}
