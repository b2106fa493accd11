import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "bun";
import { until, within } from "./wait.ts";

/** How often slow writers and slow readers of bodies move on. */
const TICK_MS = 100;
const READ_MS = 250;
/** Whoever was turned away asks again behind this. */
const AGAIN_MS = 50;
const QUICK_MS = 200;

/** What visitors ask for. All but the first three take longer than any test, unless they are released. */
export type Kind = "get" | "kept" | "post" | "trickle-down" | "bulk-down" | "trickle-up" | "bulk-up" | "events";
const isHeld = (kind: Kind) => kind !== "get" && kind !== "kept" && kind !== "post";

/** How many visitors ask for what, all at once. */
export type Mix = Readonly<Partial<Record<Kind, number>>>;

export const HUNDRED = {
  ...{ get: 40, kept: 20, post: 10 },
  ...{ "trickle-down": 11, "bulk-down": 3, "trickle-up": 11, "bulk-up": 3, events: 2 },
} satisfies Mix;
export const TWENTY = {
  ...{ get: 8, kept: 4, post: 2 },
  ...{ "trickle-down": 1, "bulk-down": 1, "trickle-up": 1, "bulk-up": 1, events: 2 },
} satisfies Mix;

/** A body: pieces that differ from each other and from those of any other request. Large ones fit into no buffer on the way. */
const PIECES = { trickle: { count: 600, bytes: 1024 }, bulk: { count: 512, bytes: 64 * 1024 } };

function shapeOf(kind: Kind) {
  return kind.startsWith("bulk") ? PIECES.bulk : PIECES.trickle;
}

function pieceOf(kind: Kind, id: string, index: number): Buffer {
  const { bytes } = shapeOf(kind);
  return kind === "events" ? Buffer.from(`data: ${id} ${index}\n\n`) : Buffer.alloc(bytes, `${id} ${index} `);
}

function digestOf(kind: Kind, id: string): string {
  const hasher = new Bun.CryptoHasher("sha1");
  for (let index = 0; index < shapeOf(kind).count; index++) hasher.update(pieceOf(kind, id, index));
  return hasher.digest("hex");
}

/** Calls back until it is told that there is no more to do. */
function every(ms: number, work: () => boolean): void {
  const timer = setInterval(() => {
    if (!work()) clearInterval(timer);
  }, ms);
}

// --- the service -----------------------------------------------------------------------

/** A local service that counts what it is asked: each request has an id of its own. */
export class CountingService implements Disposable {
  readonly #seen = new Map<string, number>();
  /** When bytes of a body came last, by id. */
  readonly #signs = new Map<string, number>();
  #released = new Set<string>();
  readonly #open = new Set<string>();
  #isReleased = false;
  #server: Server | undefined;
  #port = 0;

  static async start(): Promise<CountingService> {
    const service = new CountingService();
    await service.listen();
    return service;
  }

  get port(): number {
    return this.#port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** On the port it had before. */
  async listen(): Promise<void> {
    const server = createServer((request, response) => this.#serve(request, response));
    // What is slow here is slow on purpose.
    Object.assign(server, { timeout: 0, requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 60_000 });
    const listening = Promise.withResolvers<void>();
    server.on("error", listening.reject);
    server.listen(this.#port, "127.0.0.1", listening.resolve);
    await within(listening.promise, "the service listens");
    this.#port = (server.address() as { port: number }).port;
    this.#server = server;
  }

  /** As if its process ended: every connection is cut. */
  stop(): void {
    this.#server?.close();
    this.#server?.closeAllConnections();
    this.#server = undefined;
  }

  /** Slow bodies that are under way come to their end. */
  release(): void {
    this.#released = new Set([...this.#released, ...this.#open]);
  }

  /** From now on nothing is slow. */
  releaseAll(): void {
    this.#isReleased = true;
  }

  seen(id: string): number {
    return this.#seen.get(id) ?? 0;
  }

  /** Ids that came more than once. */
  get duplicates(): string[] {
    return [...this.#seen].filter(([, count]) => count > 1).map(([id]) => id);
  }

  signOf(id: string): number {
    return this.#signs.get(id) ?? 0;
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #isFree(id: string): boolean {
    return this.#isReleased || this.#released.has(id);
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const [, kind, id] = request.url!.split("/") as [string, Kind, string];
    this.#seen.set(id, this.seen(id) + 1);
    this.#open.add(id);
    response.on("close", () => this.#open.delete(id));
    request.on("error", () => {});
    response.on("error", () => {});
    if (kind.endsWith("-up")) return this.#takeBody(kind, id, request, response);
    request.resume();
    if (isHeld(kind)) return this.#sendBody(kind, id, response);
    // Spread over some time, so that many are under way at any moment.
    setTimeout(() => response.end(id), Bun.hash.crc32(id) % QUICK_MS);
  }

  #sendBody(kind: Kind, id: string, response: ServerResponse): void {
    const { count, bytes } = shapeOf(kind);
    const isBulk = kind === "bulk-down";
    response.writeHead(200, {
      "Content-Type": kind === "events" ? "text/event-stream" : "text/plain",
      ...(isBulk ? { "Content-Length": count * bytes } : {}),
    });
    let index = 0;
    const send = (): boolean => {
      if (response.destroyed || response.writableEnded) return false;
      do {
        if (isBulk && response.writableLength > 2 * bytes) return true;
        response.write(pieceOf(kind, id, index++));
      } while (index < count && (isBulk || this.#isFree(id)));
      if (index < count) return true;
      response.end();
      return false;
    };
    if (isBulk) response.on("drain", send);
    if (send()) every(TICK_MS, send);
  }

  #takeBody(kind: Kind, id: string, request: IncomingMessage, response: ServerResponse): void {
    const hasher = new Bun.CryptoHasher("sha1");
    const { bytes } = shapeOf(kind);
    let taken = 0;
    request.on("data", (chunk: Buffer) => {
      hasher.update(chunk);
      this.#signs.set(id, performance.now());
      taken += chunk.length;
      if (taken < bytes || kind !== "bulk-up" || this.#isFree(id)) return;
      taken = 0;
      request.pause();
    });
    request.on("end", () => response.end(hasher.digest("hex")));
    if (kind !== "bulk-up") return;
    every(READ_MS, () => {
      if (request.destroyed || response.destroyed || response.writableEnded) return false;
      request.resume();
      return true;
    });
  }
}

// --- one request -----------------------------------------------------------------------

/** What became of a request. `ended`: a clean end where an answer, or the rest of one, was due. */
type Outcome =
  | { readonly kind: "answered"; readonly status: number; readonly isRight: boolean }
  | { readonly kind: "reset" | "ended" | "hung" };

class Visit {
  readonly kind: Kind;
  readonly id: string;
  readonly startedAt = performance.now();
  /** From then on it must be over soon. */
  dueAt = Infinity;
  /** When bytes of the answer came last. */
  signAt = 0;
  isReleased = false;
  outcome: Outcome | undefined;
  readonly #settled = Promise.withResolvers<Outcome>();

  constructor(kind: Kind, id: string) {
    this.kind = kind;
    this.id = id;
    if (!isHeld(kind)) this.dueAt = this.startedAt;
  }

  get settled(): Promise<Outcome> {
    return this.#settled.promise;
  }

  settle(outcome: Outcome): void {
    this.outcome ??= outcome;
    this.#settled.resolve(this.outcome);
  }
}

/** An HTTP connection of a visitor; it asks for one thing at a time. */
class Connection {
  readonly #host: string;
  #socket: Socket<Connection> | undefined;
  #visit: Visit | undefined;
  #answer = new Answer();
  #asked = 0;
  #unsent: Buffer = Buffer.alloc(0);
  #index = 0;
  isOver = false;

  private constructor(host: string) {
    this.#host = host;
  }

  static async dial(port: number, host: string): Promise<Connection> {
    const connection = new Connection(host);
    type Side = Socket<Connection>;
    connection.#socket = await Bun.connect<Connection>({
      ...{ hostname: "127.0.0.1", port, allowHalfOpen: true, data: connection },
      socket: {
        data: (_: Side, chunk: Buffer) => connection.#take(chunk),
        drain: () => connection.#pump(),
        end: () => connection.#isGone("ended"),
        close: (_: Side, error?: Error | null) =>
          connection.#isGone(error === undefined || error === null ? "ended" : "reset"),
        error: () => connection.#isGone("reset"),
      },
    });
    return connection;
  }

  /** It took requests before this one. */
  get isUsed(): boolean {
    return this.#asked > 1;
  }

  ask(visit: Visit): void {
    const { kind, id } = visit;
    const { count, bytes } = shapeOf(kind);
    this.#visit = visit;
    this.#asked++;
    this.#answer = new Answer();
    this.#index = 0;
    const method = kind === "post" ? "POST" : kind.endsWith("-up") ? "PUT" : "GET";
    const framing = {
      ...{ post: [`Content-Length: ${id.length}`], "bulk-up": [`Content-Length: ${count * bytes}`] },
      "trickle-up": ["Transfer-Encoding: chunked"],
    }[kind as string];
    const lines = [`${method} /${kind}/${id} HTTP/1.1`, `Host: ${this.#host}`, ...(framing ?? []), "", ""];
    this.#unsent = Buffer.from(lines.join("\r\n") + (kind === "post" ? id : ""));
    this.#pump();
    if (kind === "trickle-up") every(TICK_MS, () => this.#trickle(visit));
    if (kind === "bulk-down") every(READ_MS, () => this.#readOn(visit));
  }

  end(): void {
    this.isOver = true;
    this.#socket?.terminate();
  }

  #pump(): void {
    const visit = this.#visit;
    while (!this.isOver && this.#socket !== undefined) {
      if (this.#unsent.length === 0 && visit?.kind === "bulk-up" && this.#index < shapeOf(visit.kind).count)
        this.#unsent = pieceOf(visit.kind, visit.id, this.#index++);
      if (this.#unsent.length === 0) return;
      const written = this.#socket.write(this.#unsent);
      if (written > 0) this.#unsent = this.#unsent.subarray(written);
      if (this.#unsent.length > 0) return;
    }
  }

  /** The next chunk of a slow upload, all of them once it is released. */
  #trickle(visit: Visit): boolean {
    const { count } = shapeOf(visit.kind);
    if (visit.outcome !== undefined) return false;
    do {
      const piece = pieceOf(visit.kind, visit.id, this.#index++);
      const chunk = [Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from("\r\n")];
      if (this.#index === count) chunk.push(Buffer.from("0\r\n\r\n"));
      this.#unsent = Buffer.concat([this.#unsent, ...chunk]);
    } while (this.#index < count && visit.isReleased);
    this.#pump();
    return this.#index < count;
  }

  /** A slow reader takes what is there, and a rest. */
  #readOn(visit: Visit): boolean {
    if (visit.outcome !== undefined || this.isOver) return false;
    this.#socket?.resume();
    return true;
  }

  #take(chunk: Buffer): void {
    const visit = this.#visit;
    // Nobody asked for that.
    if (visit === undefined) return this.end();
    visit.signAt = performance.now();
    const answer = this.#answer;
    if (!answer.feed(chunk)) {
      if (visit.kind === "bulk-down" && !visit.isReleased) this.#socket?.pause();
      return;
    }
    this.#visit = undefined;
    this.isOver = answer.closes;
    const isRight = answer.status === 200 && answer.isRightFor(visit) && !answer.hasMore;
    visit.settle({ kind: "answered", status: answer.status, isRight });
  }

  #isGone(how: "ended" | "reset"): void {
    this.isOver = true;
    this.#visit?.settle({ kind: how });
    this.#visit = undefined;
    this.#socket?.terminate();
  }
}

/** Takes an answer in, framed as its fields say. */
class Answer {
  status = 0;
  closes = false;
  readonly #hasher = new Bun.CryptoHasher("sha1");
  #rest: Buffer = Buffer.alloc(0);
  #start = "";
  #state: "head" | "body" | "size" | "trailers" = "head";
  #isChunked = false;
  /** Of the body or chunk, the line end of a chunk included. */
  #left = 0;

  /** True once it is complete. */
  feed(bytes: Buffer): boolean {
    this.#rest = this.#rest.length === 0 ? Buffer.from(bytes) : Buffer.concat([this.#rest, bytes]);
    while (true) {
      if (this.#state === "body") {
        this.#takeBody();
        if (this.#left > 0) return false;
        if (!this.#isChunked) return true;
        this.#state = "size";
      }
      const mark = this.#state === "head" ? "\r\n\r\n" : "\r\n";
      const end = this.#rest.indexOf(mark);
      if (end < 0) return false;
      const text = this.#rest.subarray(0, end).toString("latin1");
      this.#rest = this.#rest.subarray(end + mark.length);
      if (this.#state === "trailers" && text === "") return true;
      if (this.#state === "head") this.#takeHead(text);
      else if (this.#state === "size") this.#takeSize(text);
    }
  }

  /** Bytes came behind it. */
  get hasMore(): boolean {
    return this.#rest.length > 0;
  }

  isRightFor({ kind, id }: Visit): boolean {
    if (!isHeld(kind)) return this.#start === id;
    const digest = kind.endsWith("-up") ? this.#start : this.#hasher.digest("hex");
    return digest === digestOf(kind, id);
  }

  #takeHead(text: string): void {
    const field = (name: string) => new RegExp(`^${name}: *(.*)$`, "im").exec(text)?.[1]?.toLowerCase();
    this.status = Number(text.split(" ")[1]);
    if (this.status < 200) return;
    this.closes = field("connection") === "close";
    this.#isChunked = field("transfer-encoding") === "chunked";
    this.#left = Number(field("content-length") ?? 0);
    this.#state = this.#isChunked ? "size" : "body";
  }

  #takeSize(text: string): void {
    const size = Number.parseInt(text, 16);
    this.#left = size + 2;
    this.#state = size === 0 ? "trailers" : "body";
  }

  #takeBody(): void {
    const taken = this.#rest.subarray(0, this.#left);
    this.#left -= taken.length;
    this.#rest = this.#rest.subarray(taken.length);
    const lineEnd = this.#isChunked ? Math.max(0, 2 - this.#left) : 0;
    const piece = taken.subarray(0, Math.max(0, taken.length - lineEnd));
    this.#hasher.update(piece);
    if (this.#start.length < 100) this.#start += piece.toString("latin1");
  }
}

// --- many requests ------------------------------------------------------------------------

/** What became of everything that was asked for. The lists hold ids, and must be empty. */
export interface Tally {
  readonly asked: number;
  /** Complete answers from the service. */
  answered: number;
  /** Definite answers that say that it is not to be had. */
  refused: number;
  reset: number;
  /** Over without an answer, a reset or a refused connection. */
  readonly lost: string[];
  /** Not over in time. */
  readonly hung: string[];
  /** Answered with something else than what was asked for. */
  readonly wrong: string[];
  /** Came to the service more than once. */
  readonly duplicated: string[];
}

/** Nothing may take longer than that once it is due. */
const LIMIT_MS = 30_000;

/** Visitors of a service; each asks again and again, under a new id, until all of it ends. */
export class Load implements AsyncDisposable {
  readonly #name: string;
  readonly #service: CountingService;
  readonly #to: { readonly port: number; readonly host: string };
  readonly #visitors: Visitor[] = [];
  readonly #running: Promise<void>;
  readonly #watch: Timer;
  #isStopping = false;
  readonly tally = {
    ...{ asked: 0, answered: 0, refused: 0, reset: 0 },
    ...{ lost: [] as string[], hung: [] as string[], wrong: [] as string[], duplicated: [] as string[] },
  } satisfies Tally;
  /** Statuses of refusals, and how often each came. */
  readonly refusals: Record<number, number> = {};
  /** The longest that something that was due took, in milliseconds. */
  slowestMs = 0;
  /** The server itself goes: its system ends its connections for it, and not always by a reset. */
  isServerGoing = false;

  constructor(name: string, mix: Mix, service: CountingService, to: { readonly port: number; readonly host: string }) {
    this.#name = name;
    this.#service = service;
    this.#to = to;
    for (const [kind, count] of Object.entries(mix)) {
      for (let index = 0; index < count; index++) this.#visitors.push({ kind: kind as Kind, goodAt: 0 });
    }
    this.#watch = setInterval(() => this.#look(), TICK_MS);
    this.#running = Promise.all(this.#visitors.map((visitor, index) => this.#run(visitor, index))).then(() => {});
  }

  /** Requests that are under way. */
  get inFlight(): number {
    return this.#visitors.filter(({ visit }) => visit !== undefined && visit.outcome === undefined).length;
  }

  /** Waits until every visitor got what it wanted, or some of it, since this moment. */
  async works(since: number, ms = LIMIT_MS): Promise<void> {
    const waiting = () => this.#visitors.filter((visitor) => this.#goodAt(visitor) <= since);
    await until(() => waiting().length === 0, `all visitors of ${this.#name} are served`, ms).catch((error: Error) => {
      const kinds = waiting().map(({ visit }) => `${visit?.id} ${JSON.stringify(visit?.outcome)}`);
      throw new Error(`${error.message}; not served: ${kinds.join(", ")}`);
    });
  }

  /** Everything that is under way can only be cut: it is due. */
  isCut(): void {
    const now = performance.now();
    for (const { visit } of this.#visitors) if (visit !== undefined) visit.dueAt = Math.min(visit.dueAt, now);
  }

  /** What becomes of the requests that are under way now, each thing once: `200`, `502`, `reset` and so on. */
  get underWay(): Promise<{ readonly quick: string[]; readonly held: string[] }> {
    const visits = this.#visitors.flatMap(({ visit }) => (visit?.outcome === undefined ? (visit ?? []) : []));
    const outcomes = async (some: readonly Visit[]) => {
      const all = await Promise.all(some.map(({ settled }) => settled));
      return [...new Set(all.map((one) => (one.kind === "answered" ? String(one.status) : one.kind)))].toSorted();
    };
    const [held, quick] = [true, false].map((slow) => outcomes(visits.filter(({ kind }) => isHeld(kind) === slow)));
    return Promise.all([quick!, held!]).then(([one, other]) => ({ quick: one, held: other }));
  }

  /** Slow requests that are under way come to their end. */
  release(): void {
    this.#service.release();
    for (const { visit } of this.#visitors) if (visit !== undefined) visit.isReleased = true;
  }

  /** Lets everything come to its end, asks for nothing more, and counts. */
  async finish(): Promise<Tally> {
    this.#isStopping = true;
    this.#service.releaseAll();
    this.release();
    this.isCut();
    await this.#running;
    clearInterval(this.#watch);
    this.tally.duplicated.push(...this.#service.duplicates.filter((id) => id.startsWith(`${this.#name}-`)));
    return this.tally;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isStopping = true;
    clearInterval(this.#watch);
    for (const { connection, visit } of this.#visitors) {
      connection?.end();
      visit?.settle({ kind: "reset" });
    }
    await this.#running;
  }

  async #run(visitor: Visitor, index: number): Promise<void> {
    for (let turn = 1; !this.#isStopping; turn++) {
      const visit = new Visit(visitor.kind, `${this.#name}-${visitor.kind}-${index}-${turn}`);
      visitor.visit = visit;
      this.tally.asked++;
      void this.#ask(visitor, visit);
      const isGood = this.#count(visitor, visit, await visit.settled);
      if (!isGood) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      if (visitor.kind === "kept" && visitor.connection?.isOver === false) continue;
      visitor.connection?.end();
      visitor.connection = undefined;
    }
    visitor.connection?.end();
  }

  async #ask(visitor: Visitor, visit: Visit): Promise<void> {
    try {
      const connection = visitor.connection ?? (await Connection.dial(this.#to.port, this.#to.host));
      if (visit.outcome !== undefined) return connection.end();
      visitor.connection = connection;
      connection.ask(visit);
    } catch {
      // Nobody accepts connections there.
      visit.settle({ kind: "reset" });
    }
  }

  /** True for what was asked for. */
  #count(visitor: Visitor, visit: Visit, outcome: Outcome): boolean {
    const { tally } = this;
    const { id } = visit;
    if (visit.dueAt < Infinity) this.slowestMs = Math.max(this.slowestMs, performance.now() - visit.dueAt);
    switch (outcome.kind) {
      case "hung":
        tally.hung.push(id);
        return false;
      case "ended":
        if (this.isServerGoing || this.#isUnasked(visitor, visit)) tally.reset++;
        else tally.lost.push(id);
        return false;
      case "reset":
        tally.reset++;
        return false;
      case "answered":
        if (outcome.status !== 200) {
          tally.refused++;
          this.refusals[outcome.status] = (this.refusals[outcome.status] ?? 0) + 1;
          return false;
        }
        if (!outcome.isRight || this.#service.seen(id) === 0) {
          tally.wrong.push(id);
          return false;
        }
        tally.answered++;
        visitor.goodAt = visit.startedAt;
        return true;
    }
  }

  /** Whoever closes a connection that waits cannot know that a further request is on its way. */
  #isUnasked({ connection }: Visitor, { id, signAt }: Visit): boolean {
    return connection?.isUsed === true && signAt === 0 && this.#service.seen(id) === 0;
  }

  /** When something that this visitor asked for arrived, as far as that can be said. */
  #goodAt({ goodAt, visit }: Visitor): number {
    if (visit === undefined || !isHeld(visit.kind) || visit.outcome !== undefined) return goodAt;
    const sign = visit.kind.endsWith("-up") ? this.#service.signOf(visit.id) : visit.signAt;
    return Math.max(goodAt, sign);
  }

  #look(): void {
    const now = performance.now();
    for (const { visit, connection } of this.#visitors) {
      if (visit === undefined || now - visit.dueAt < LIMIT_MS) continue;
      visit.settle({ kind: "hung" });
      connection?.end();
    }
  }
}

interface Visitor {
  readonly kind: Kind;
  visit?: Visit;
  connection?: Connection | undefined;
  goodAt: number;
}
