import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
// Bun replaces "ws" by a WebSocket of its own.
import { WebSocket, WebSocketServer } from "../../node_modules/ws/wrapper.mjs";
import { until } from "./wait.ts";

// wsp carries HTTP over a pool of WebSockets that the client opens: github.com/root-gg/wsp and
// github.com/hgsgtk/wsp. Both roles are here, with the habits of the Go programs, and none of our code.

export type WspHeader = Record<string, string[]>;

export interface WspRequestHead {
  readonly Method: string;
  readonly URL: string;
  readonly Header: WspHeader;
  /** -1: chunked. */
  readonly ContentLength: number;
}

export interface WspResponseHead {
  readonly StatusCode: number;
  readonly Header: WspHeader;
  readonly ContentLength: number;
}

// --- one WebSocket of a pool -------------------------------------------------

type Kind = "text" | "binary";

export interface WspMessage {
  readonly from: "peer" | "us";
  readonly kind: Kind;
  /** More than one: it is fragmented. */
  frames: number;
  length: number;
  /** Its last frame is there. */
  isWhole: boolean;
  /** What a text message says. */
  text: string;
}

/** What gorilla's NextWriter gathers before it sends a frame. */
const FRAGMENT = 4096;
const HELD = 64 * 1024;
/** Messages of any length, in as many frames as there are. */
const UNLIMITED = { maxPayload: 0, maxFragments: 0, maxBufferedChunks: 0, perMessageDeflate: false };

/** What of `ws` knows frames: its events tell of whole messages only. */
interface FrameReceiver {
  _fragments: Buffer[];
  _messageLength: number;
  readonly _opcode: number;
  readonly _fin: boolean;
  dataMessage(this: FrameReceiver, after: unknown): void;
}

/** A message that comes in, perhaps not whole yet. */
class Incoming {
  readonly seen: WspMessage;
  readonly body: ReadableStream<Uint8Array>;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #isOver = false;

  constructor(seen: WspMessage, onPull: () => void) {
    this.seen = seen;
    const source = {
      start: (controller: ReadableStreamDefaultController<Uint8Array>) => void (this.#controller = controller),
      pull: onPull,
      cancel: () => {
        this.#isOver = true;
        onPull();
      },
    };
    this.body = new ReadableStream(source, { highWaterMark: HELD, size: (chunk) => chunk?.length ?? 0 });
  }

  get isFull(): boolean {
    return !this.#isOver && (this.#controller.desiredSize ?? 1) <= 0;
  }

  add(bytes: Uint8Array): void {
    if (!this.#isOver && bytes.length > 0) this.#controller.enqueue(bytes);
  }

  /** No more of it is wanted, or there is no more. */
  end(error?: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (error === undefined) this.#controller.close();
    else this.#controller.error(error);
  }
}

/** One WebSocket, used as the Go programs use theirs: one reader at a time, one message after the other. */
export class WspConnection {
  /** In their order, of both directions. */
  readonly messages: WspMessage[] = [];
  pings = 0;
  pongs = 0;
  /** 1006: without a close frame. */
  closeCode: number | undefined;
  isBusy = false;
  idleSince = performance.now();
  onMessage: () => void = () => {};
  onClose: () => void = () => {};
  readonly #socket: WebSocket;
  readonly #lost = Promise.withResolvers<never>();
  readonly #abort = new AbortController();
  /** Begun, and not asked for yet. */
  readonly #queue: Incoming[] = [];
  #incoming: Incoming | undefined;
  #reading: Incoming | undefined;
  #wanted: ((message: Incoming | undefined) => void) | undefined;
  #isFrozen = false;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    this.#lost.promise.catch(() => {});
    const receiver = (socket as unknown as { _receiver: FrameReceiver })._receiver;
    const { dataMessage } = receiver;
    receiver.dataMessage = (after) => {
      const bytes = Buffer.concat(receiver._fragments.splice(0));
      receiver._messageLength = 0;
      this.#take(receiver._opcode === 1 ? "text" : "binary", bytes, receiver._fin);
      dataMessage.call(receiver, after);
    };
    socket.on("ping", () => void this.pings++);
    socket.on("pong", () => void this.pongs++);
    socket.on("error", () => {});
    socket.on("close", (code: number) => this.#closed(code));
  }

  get status(): "idle" | "busy" | "closed" {
    if (this.#socket.readyState !== this.#socket.OPEN) return "closed";
    return this.isBusy ? "busy" : "idle";
  }

  /** Aborted with the connection. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Messages of the peer: `text`, `binary`, in their order. */
  get heard(): Kind[] {
    return this.messages.filter(({ from }) => from === "peer").map(({ kind }) => kind);
  }

  /** A message began that nobody has asked for. */
  get hasUnread(): boolean {
    return this.#queue.length > 0;
  }

  /** Waits for the next message to begin, and throws away what is left of the one before. Undefined: closed. */
  async next(): Promise<Incoming | undefined> {
    this.#reading?.end();
    this.#flow();
    this.#reading = this.#queue.shift();
    if (this.#reading !== undefined || this.closeCode !== undefined) return this.#reading;
    const { promise, resolve } = Promise.withResolvers<Incoming | undefined>();
    this.#wanted = resolve;
    this.#reading = await promise;
    return this.#reading;
  }

  /** A message in one frame, also where none is expected. */
  send(kind: Kind, payload: Uint8Array | string): Promise<void> {
    return this.stream(kind, [Buffer.from(payload as string)], Infinity);
  }

  /** One message: a frame whenever `fragment` bytes are there, and a last one with the rest, perhaps without any. */
  async stream(
    kind: Kind,
    source: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    fragment = FRAGMENT,
  ): Promise<void> {
    const seen: WspMessage = { from: "us", kind, frames: 0, length: 0, isWhole: false, text: "" };
    this.messages.push(seen);
    let held = Buffer.alloc(0);
    for await (const chunk of source) {
      held = Buffer.concat([held, chunk]);
      for (; held.length >= fragment; held = held.subarray(fragment))
        await this.#sendFrame(seen, held.subarray(0, fragment), false);
    }
    await this.#sendFrame(seen, held, true);
  }

  ping(): void {
    this.#socket.ping();
  }

  /** Reads no more: neither messages, nor pings, nor the end. */
  freeze(): void {
    this.#isFrozen = true;
    this.#flow();
  }

  thaw(): void {
    this.#isFrozen = false;
    this.#flow();
  }

  /** Closes TCP without a close frame, as the Go programs do. */
  cut(): void {
    this.#socket.terminate();
  }

  /** Closes with a close frame. */
  close(code = 1000, reason = ""): void {
    this.#socket.close(code, reason);
  }

  async #sendFrame(seen: WspMessage, bytes: Buffer, isLast: boolean): Promise<void> {
    seen.frames++;
    seen.length += bytes.length;
    seen.isWhole = isLast;
    if (seen.kind === "text") seen.text += bytes.toString();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const done = (error?: Error | null) => (error ? reject(error) : resolve());
    this.#socket.send(bytes, { binary: seen.kind === "binary", fin: isLast }, done);
    await Promise.race([promise, this.#lost.promise]);
  }

  #take(kind: Kind, bytes: Buffer, isLast: boolean): void {
    const message = this.#incoming ?? this.#begin(kind);
    message.seen.frames++;
    message.seen.length += bytes.length;
    message.seen.isWhole = isLast;
    if (kind === "text") message.seen.text += bytes.toString();
    message.add(bytes);
    if (isLast) message.end();
    this.#incoming = isLast ? undefined : message;
    this.#flow();
  }

  #begin(kind: Kind): Incoming {
    const seen: WspMessage = { from: "peer", kind, frames: 0, length: 0, isWhole: false, text: "" };
    const message = new Incoming(seen, () => this.#flow());
    this.messages.push(seen);
    if (this.#wanted === undefined) this.#queue.push(message);
    else this.#wanted(message);
    this.#wanted = undefined;
    this.onMessage();
    return message;
  }

  #flow(): void {
    if (this.#isFrozen || this.#incoming?.isFull === true) this.#socket.pause();
    else this.#socket.resume();
  }

  #closed(code: number): void {
    const error = new Error("the websocket is closed");
    this.closeCode = code;
    this.#lost.reject(error);
    this.#abort.abort(error);
    this.#incoming?.end(error);
    this.#wanted?.(undefined);
    this.onClose();
  }
}

async function textOf(message: Incoming): Promise<string> {
  return await new Response(message.body).text();
}

const count = (connections: readonly WspConnection[], status: WspConnection["status"]) =>
  connections.filter((connection) => connection.status === status).length;

// --- the server: here people ask ---------------------------------------------

export interface WspServerOptions {
  /** What X-SECRET-KEY must say; without one it must be empty. */
  readonly secretKey?: string;
  /** How long a request waits for an idle connection. */
  readonly timeoutMs?: number;
  /** How long a connection beyond the pool's size may be idle. */
  readonly idleTimeoutMs?: number;
  readonly cleanMs?: number;
  /** To come back where one was before. */
  readonly port?: number;
}

/** A connection that was accepted. */
export class WspServed extends WspConnection {
  /** `<id>_<size>` */
  greeting = "";
  /** Of its pool; undefined until it has greeted well. */
  id: string | undefined;
}

export interface WspRegistration {
  readonly headers: IncomingMessage["headers"];
  /** The secret was right. */
  readonly isAccepted: boolean;
}

export interface WspPool {
  readonly id: string;
  /** As the latest greeting says. */
  readonly size: number;
  readonly idle: number;
  readonly busy: number;
}

export class WspServer implements AsyncDisposable {
  /** Every asking for `/register`, in its order. */
  readonly registrations: WspRegistration[] = [];
  /** All that were ever accepted, closed ones too. */
  readonly connections: WspServed[] = [];
  readonly #options: Required<WspServerOptions>;
  readonly #sizes = new Map<string, number>();
  /** Requests that wait for an idle connection. */
  readonly #waiting: ((connection: WspServed) => void)[] = [];
  readonly #sockets = new WebSocketServer({ noServer: true, ...UNLIMITED });
  readonly #http = createServer((request, response) => this.#route(request, response));
  #cleaning: ReturnType<typeof setInterval> | undefined;

  constructor(options: WspServerOptions) {
    const defaults = { secretKey: "", timeoutMs: 1000, idleTimeoutMs: 60_000, cleanMs: 5000, port: 0 };
    this.#options = { ...defaults, ...options };
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
  }

  async listen(): Promise<this> {
    await new Promise<void>((resolve) => this.#http.listen(this.#options.port, "127.0.0.1", resolve));
    this.#cleaning = setInterval(() => this.clean(), this.#options.cleanMs);
    return this;
  }

  get port(): number {
    return (this.#http.address() as AddressInfo).port;
  }

  /** For the client. */
  get url(): string {
    return `ws://127.0.0.1:${this.port}/register`;
  }

  get greetings(): string[] {
    return this.connections.map(({ greeting }) => greeting);
  }

  get pools(): WspPool[] {
    return [...this.#sizes].map(([id, size]) => {
      const members = this.#membersOf(id);
      return { id, size, idle: count(members, "idle"), busy: count(members, "busy") };
    });
  }

  get idle(): number {
    return this.pools.reduce((sum, { idle }) => sum + idle, 0);
  }

  get busy(): number {
    return this.pools.reduce((sum, { busy }) => sum + busy, 0);
  }

  get pings(): number {
    return this.connections.reduce((sum, { pings }) => sum + pings, 0);
  }

  /** Asks for `destination`, as people do at `/request`. */
  request(destination: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers as Record<string, string>);
    headers.set("X-PROXY-DESTINATION", destination);
    return fetch(`http://127.0.0.1:${this.port}/request`, { redirect: "manual", ...init, headers });
  }

  /** At least so many: a pool that was busy is larger afterwards. */
  whenIdle(wanted: number): Promise<void> {
    return until(() => this.idle >= wanted, `the wsp server has ${wanted} idle connections`);
  }

  whenBusy(wanted: number): Promise<void> {
    return until(() => this.busy >= wanted, `the wsp server has ${wanted} busy connections`);
  }

  /** So many were turned away for their secret. */
  whenRefused(wanted: number): Promise<void> {
    const refused = () => this.registrations.filter(({ isAccepted }) => !isAccepted).length;
    return until(() => refused() >= wanted, `the wsp server has refused ${wanted} connections`);
  }

  /** What comes round every `cleanMs`: closes what is idle for too long, and forgets pools without connections. */
  clean(): void {
    const before = performance.now() - this.#options.idleTimeoutMs;
    for (const [id, size] of this.#sizes) {
      const idle = this.#membersOf(id).filter(({ status }) => status === "idle");
      for (const connection of idle.slice(size)) if (connection.idleSince < before) connection.cut();
      if (this.#membersOf(id).length === 0) this.#sizes.delete(id);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#cleaning);
    for (const connection of this.connections) connection.cut();
    const closed = new Promise((resolve) => this.#http.close(resolve));
    this.#http.closeAllConnections();
    await closed;
  }

  #membersOf(id: string): WspServed[] {
    return this.connections.filter((connection) => connection.id === id && connection.status !== "closed");
  }

  #mayRegister({ headers }: IncomingMessage): boolean {
    const isAccepted = (headers["x-secret-key"] ?? "") === this.#options.secretKey;
    this.registrations.push({ headers, isAccepted });
    return isAccepted;
  }

  #route(request: IncomingMessage, response: ServerResponse): void {
    const [path] = request.url!.split("?");
    if (path === "/status") response.end("ok");
    else if (path === "/request") void this.#request(request, response);
    else if (path !== "/register") fail(response, 404, "404 page not found");
    else if (this.#mayRegister(request)) fail(response, 400, "Bad Request");
    else fail(response, 526, "Invalid X-SECRET-KEY");
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => {});
    const [path] = request.url!.split("?");
    if (path !== "/register") socket.end(errorText(404, "404 page not found"));
    else if (!this.#mayRegister(request)) socket.end(errorText(526, "Invalid X-SECRET-KEY"));
    else this.#sockets.handleUpgrade(request, socket, head, (webSocket) => void this.#register(webSocket));
  }

  async #register(socket: WebSocket): Promise<void> {
    const connection = new WspServed(socket);
    this.connections.push(connection);
    const message = await connection.next();
    if (message === undefined) return;
    connection.greeting = await textOf(message).catch(() => "");
    const [id = "", size = ""] = connection.greeting.split("_");
    if (!/^[+-]?\d+$/.test(size)) return connection.cut();
    this.#sizes.set(id, Number(size));
    connection.id = id;
    // A message that nobody asked for ends the connection.
    connection.onMessage = () => {
      if (!connection.isBusy) connection.cut();
    };
    this.#release(connection);
  }

  #release(connection: WspServed): void {
    connection.isBusy = false;
    connection.idleSince = performance.now();
    if (connection.hasUnread) connection.cut();
    if (connection.status !== "idle") return;
    const waiting = this.#waiting.shift();
    connection.isBusy = waiting !== undefined;
    waiting?.(connection);
  }

  /** Any pool with an idle connection, by chance, and the one in it that is idle for longest. */
  async #acquire(): Promise<WspServed | undefined> {
    const ready = this.pools.filter(({ idle }) => idle > 0);
    const pool = ready[Math.floor(Math.random() * ready.length)];
    if (pool === undefined) return await this.#waitForIdle();
    const idle = this.#membersOf(pool.id).filter(({ status }) => status === "idle");
    const [connection] = idle.toSorted((one, other) => one.idleSince - other.idleSince);
    connection!.isBusy = true;
    return connection;
  }

  async #waitForIdle(): Promise<WspServed | undefined> {
    const { promise, resolve } = Promise.withResolvers<WspServed | undefined>();
    this.#waiting.push(resolve);
    const timer = setTimeout(() => {
      this.#waiting.splice(this.#waiting.indexOf(resolve), 1);
      resolve(undefined);
    }, this.#options.timeoutMs);
    return await promise.finally(() => clearTimeout(timer));
  }

  async #request(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = request.headers["x-proxy-destination"]?.toString() ?? "";
    if (url === "") return fail(response, 526, "Missing X-PROXY-DESTINATION header");
    if (!URL.canParse(url)) return fail(response, 526, "Unable to parse X-PROXY-DESTINATION header");
    if (this.#sizes.size === 0) return fail(response, 526, "No proxy available");
    const connection = await this.#acquire();
    if (connection === undefined) return fail(response, 526, "Unable to get a proxy connection");
    // Go sees only with its next write that nobody is there any more.
    const leave = () => connection.cut();
    response.once("close", leave);
    try {
      await exchange(connection, requestHead(request, url), request, response);
      response.off("close", leave);
      this.#release(connection);
      response.end();
    } catch (error) {
      connection.cut();
      // Go would end a chunked body as if it were whole, with the error as its last words.
      if (response.headersSent) response.destroy();
      else fail(response, 526, (error as Error).message);
    }
  }
}

export function startWspServer(options: WspServerOptions = {}): Promise<WspServer> {
  return new WspServer(options).listen();
}

/** Text and body there, then text and body back. */
async function exchange(
  connection: WspServed,
  head: WspRequestHead,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  await connection.send("text", JSON.stringify(head));
  await connection.stream("binary", request);
  const answer = await connection.next();
  if (answer === undefined) throw new Error("Unable to get http response reader : closed");
  const { StatusCode, Header } = parse<WspResponseHead>(await textOf(answer), "Unable to unserialize http response");
  for (const [name, values] of Object.entries(Header ?? {}))
    if (name.toLowerCase() !== "transfer-encoding") response.setHeader(name, values.length === 1 ? values[0]! : values);
  response.writeHead(StatusCode);
  response.flushHeaders();
  const body = await connection.next();
  if (body === undefined) throw new Error("Unable to get http response body reader : closed");
  for await (const chunk of body.body) await written(response, chunk);
}

function written(response: ServerResponse, chunk: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    response.write(chunk, (error) => (error ? reject(error) : resolve()));
  });
}

function parse<T>(text: string, what: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw new Error(`${what} : ${(error as Error).message}`);
  }
}

/** What Go's http.Error answers. */
function fail(response: ServerResponse, status: number, text: string): void {
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  response.writeHead(status, { "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff" });
  response.end(`${text}\n`);
}

function errorText(status: number, text: string): string {
  const lines = [`HTTP/1.1 ${status} status code ${status}`, "Content-Type: text/plain; charset=utf-8"];
  return [...lines, `Content-Length: ${text.length + 1}`, "Connection: close", "", `${text}\n`].join("\r\n");
}

/** Names as Go writes them: X-Proxy-Destination. */
const goName = (name: string) => name.toLowerCase().replace(/(^|-)[a-z]/g, (first) => first.toUpperCase());

/** Go keeps these apart from the other fields. */
const APART = ["Host", "Transfer-Encoding", "Trailer"];

function requestHead({ method, rawHeaders, headers }: IncomingMessage, url: string): WspRequestHead {
  const Header: WspHeader = {};
  for (let i = 0; i < rawHeaders.length; i += 2) (Header[goName(rawHeaders[i]!)] ??= []).push(rawHeaders[i + 1]!);
  for (const name of APART) delete Header[name];
  const isChunked = headers["transfer-encoding"] !== undefined;
  return { Method: method!, URL: url, Header, ContentLength: isChunked ? -1 : Number(headers["content-length"] ?? 0) };
}

// --- the client: from here the requests are made -----------------------------

export interface WspClientOptions {
  /** `ws://HOST:PORT/register` */
  readonly url: string;
  readonly secretKey?: string;
  readonly id?: string;
  readonly poolIdleSize?: number;
  readonly poolMaxSize?: number;
  readonly pingMs?: number;
  /** How often the pool is filled. */
  readonly tickMs?: number;
  readonly behaviour?: WspBehaviour;
}

/** What the client does with the requests that come from now on. */
export interface WspBehaviour {
  /** Sends bodies in frames of so many bytes, 4096 without it; Infinity: in one. */
  fragment?: number;
  /** Hands redirects on, which the Go client follows. */
  keepsRedirects?: boolean;
  /** Holds back every answer. */
  gate?: Promise<unknown>;
  /** Cuts the connection behind so many bytes of the body. */
  dieAfter?: number;
  /** Stands in the place of every response head. */
  head?: string;
}

export interface WspRefusal {
  readonly status: number;
  readonly body: string;
}

export class WspClient implements Disposable {
  readonly id: string;
  behaviour: WspBehaviour;
  /** All that were ever open, closed ones too. */
  readonly connections: WspConnection[] = [];
  /** In the order of their arrival. */
  readonly requests: WspRequestHead[] = [];
  /** Answers other than 101. */
  readonly refusals: WspRefusal[] = [];
  /** Why else a connection did not open. */
  readonly failures: string[] = [];
  readonly #options: Required<WspClientOptions>;
  readonly #dialling = new Set<WebSocket>();
  readonly #timers: ReturnType<typeof setInterval>[];
  #isOver = false;

  constructor(options: WspClientOptions) {
    const sizes = { poolIdleSize: 10, poolMaxSize: 100, pingMs: 30_000, tickMs: 1000 };
    this.#options = { secretKey: "", id: crypto.randomUUID(), behaviour: {}, ...sizes, ...options };
    this.id = this.#options.id;
    this.behaviour = this.#options.behaviour;
    this.#timers = [
      setInterval(() => this.refill(), this.#options.tickMs),
      setInterval(() => this.#ping(), this.#options.pingMs),
    ];
    this.refill();
  }

  get idle(): number {
    return count(this.connections, "idle");
  }

  get busy(): number {
    return count(this.connections, "busy");
  }

  get pongs(): number {
    return this.connections.reduce((sum, { pongs }) => sum + pongs, 0);
  }

  /** At least so many: a pool that was busy is larger afterwards. */
  whenIdle(wanted: number): Promise<void> {
    return until(() => this.idle >= wanted, `the wsp client has ${wanted} idle connections`);
  }

  whenBusy(wanted: number): Promise<void> {
    return until(() => this.busy >= wanted, `the wsp client has ${wanted} busy connections`);
  }

  /** So many handshakes were answered with something else than 101. */
  whenRefused(wanted: number): Promise<void> {
    return until(() => this.refusals.length >= wanted, `the wsp client was refused ${wanted} times`);
  }

  /** One connection into an empty pool, else as many as are missing. Go leaves out those that are not open yet. */
  refill(): void {
    const [idle, busy] = [this.idle + this.#dialling.size, this.busy];
    const { poolIdleSize, poolMaxSize } = this.#options;
    const missing = idle + busy === 0 ? 1 : poolIdleSize - idle;
    const allowed = this.#isOver ? 0 : Math.min(missing, poolMaxSize - idle - busy);
    for (let i = 0; i < allowed; i++) this.#dial();
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    for (const timer of this.#timers) clearInterval(timer);
    for (const socket of this.#dialling) socket.terminate();
    for (const connection of this.connections) connection.cut();
  }

  #ping(): void {
    for (const connection of this.connections) if (connection.status !== "closed") connection.ping();
  }

  #dial(): void {
    const headers = { "X-SECRET-KEY": this.#options.secretKey };
    const socket = new WebSocket(this.#options.url, { headers, ...UNLIMITED });
    this.#dialling.add(socket);
    socket.on("error", (error: Error) => {
      if (this.#dialling.delete(socket)) this.failures.push(error.message);
    });
    socket.on("unexpected-response", (_, response) => void this.#refused(socket, response));
    socket.on("open", () => {
      this.#dialling.delete(socket);
      const connection = new WspConnection(socket);
      this.connections.push(connection);
      void this.#serve(connection);
    });
  }

  async #refused(socket: WebSocket, response: IncomingMessage): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk as Buffer);
    this.refusals.push({ status: response.statusCode!, body: Buffer.concat(chunks).toString() });
    this.#dialling.delete(socket);
    socket.terminate();
  }

  async #serve(connection: WspConnection): Promise<void> {
    try {
      await connection.send("text", `${this.id}_${this.#options.poolIdleSize}`);
      for (let head = await connection.next(); head !== undefined; head = await connection.next()) {
        const text = await textOf(head);
        connection.isBusy = true;
        this.refill();
        await this.#answer(connection, text);
        connection.isBusy = false;
      }
    } catch {
      connection.cut();
    }
  }

  async #answer(connection: WspConnection, text: string): Promise<void> {
    const request = await this.#understood(connection, text);
    this.requests.push(request);
    const { behaviour } = this;
    const body = await connection.next();
    if (body === undefined) return;
    let response: Response;
    try {
      response = await perform(request, body, behaviour, connection.signal);
    } catch (error) {
      await behaviour.gate;
      return await reject(connection, `Unable to execute request : ${(error as Error).message}\n`);
    }
    await behaviour.gate;
    await connection.send("text", behaviour.head ?? JSON.stringify(responseHead(response)));
    const { dieAfter, fragment } = behaviour;
    const chunks = response.body ?? [];
    if (dieAfter === undefined) await connection.stream("binary", chunks, fragment);
    else await connection.stream("binary", untilDeath(chunks, dieAfter), dieAfter === 0 ? Infinity : dieAfter);
  }

  async #understood(connection: WspConnection, text: string): Promise<WspRequestHead> {
    try {
      return parse<WspRequestHead>(text, "Unable to deserialize json http request");
    } catch (error) {
      await reject(connection, `${(error as Error).message}\n`);
      throw error;
    }
  }
}

export function startWspClient(options: WspClientOptions): WspClient {
  return new WspClient(options);
}

/** What the client says for itself. */
async function reject(connection: WspConnection, text: string): Promise<void> {
  const head: WspResponseHead = { StatusCode: 527, Header: {}, ContentLength: Buffer.byteLength(text) };
  await connection.send("text", JSON.stringify(head));
  await connection.send("binary", text);
}

/** The request itself. `fetch` has no body for GET and HEAD; Go would send it. */
function perform(
  { Method, URL: url, Header, ContentLength }: WspRequestHead,
  body: Incoming,
  behaviour: WspBehaviour,
  signal: AbortSignal,
): Promise<Response> {
  const headers = new Headers();
  for (const [name, values] of Object.entries(Header ?? {}))
    if (!APART.includes(goName(name))) for (const value of values) headers.append(name, value);
  // Go asks for gzip by itself when nobody else said what to accept, and then unpacks it.
  const decompress = !headers.has("Accept-Encoding");
  if (decompress) headers.set("Accept-Encoding", "gzip");
  const hasBody = ContentLength !== 0 && Method !== "GET" && Method !== "HEAD";
  const options = { decompress, ...(hasBody ? { body: body.body } : {}) };
  const redirect = behaviour.keepsRedirects === true ? "manual" : "follow";
  return fetch(url, { method: Method, headers, redirect, signal, ...options }).then((response) => {
    if (!decompress || response.headers.get("Content-Encoding") !== "gzip") return response;
    for (const name of ["Content-Encoding", "Content-Length"]) response.headers.delete(name);
    return response;
  });
}

function responseHead({ status, headers, body }: Response): WspResponseHead {
  const Header: WspHeader = {};
  for (const [name, value] of headers) (Header[goName(name)] ??= []).push(value);
  for (const name of APART) if (name !== "Host") delete Header[name];
  const length = headers.get("Content-Length") ?? (body === null ? 0 : -1);
  return { StatusCode: status, Header, ContentLength: Number(length) };
}

/** So many bytes, and then an error that cuts the connection. */
async function* untilDeath(
  source: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  length: number,
): AsyncGenerator<Uint8Array> {
  let left = length;
  for await (const chunk of source) {
    if (left > 0) yield chunk.subarray(0, left);
    left -= chunk.length;
    if (left <= 0) break;
  }
  throw new Error("the wsp client dies as it was told");
}
