import { frame, framesIn, type FrameShape } from "./frames.ts";
import { RawServer, type RawSocket } from "./raw.ts";
import { RawWebSocket, switchingTo } from "./websocket-client.ts";
import { until } from "./wait.ts";

// wsp connections whose messages a test writes by hand: what no program would say, and when.

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
const HEAD_END = "\r\n\r\n";
const NO_MASK = new Uint8Array(4);

export interface HandMessage {
  readonly kind: "text" | "binary";
  readonly bytes: Buffer;
  /** More than one: it was fragmented. */
  readonly frames: number;
}

type Shape = Readonly<Record<string, unknown>>;

/** One connection of a pool, behind its upgrade. */
export class HandLine implements Disposable {
  readonly socket: RawSocket;
  /** The upgrade of the other side, its request or answer. */
  readonly head: string;
  readonly #isClient: boolean;

  constructor(socket: RawSocket, head: string, isClient: boolean) {
    this.socket = socket;
    this.head = head;
    this.#isClient = isClient;
  }

  /** These frames in one piece. */
  send(...shapes: FrameShape[]): this {
    const key = this.#isClient ? Uint8Array.of(1, 2, 3, 4) : undefined;
    this.socket.send(Buffer.concat(shapes.map((shape) => frame({ key, ...shape }))));
    return this;
  }

  text(payload: string): this {
    return this.send({ opcode: TEXT, payload });
  }

  binary(payload: Uint8Array | string = ""): this {
    return this.send({ opcode: BINARY, payload });
  }

  /** One message in one frame, however large. */
  bulk(bytes: Uint8Array): this {
    this.send({ opcode: BINARY, length: BigInt(bytes.length), key: this.#isClient ? NO_MASK : undefined });
    this.socket.send(bytes);
    return this;
  }

  /** An answer, all of it in one piece. */
  answer(status: number, body: string, changes: Shape = {}): this {
    const head = { StatusCode: status, Header: {}, ContentLength: Buffer.byteLength(body), ...changes };
    return this.send({ opcode: TEXT, payload: JSON.stringify(head) }, { opcode: BINARY, payload: body });
  }

  /** A request, all of it in one piece. */
  ask(url: string, changes: Shape = {}, body = ""): this {
    const head = { Method: "GET", URL: url, Header: {}, ContentLength: Buffer.byteLength(body), ...changes };
    return this.send({ opcode: TEXT, payload: JSON.stringify(head) }, { opcode: BINARY, payload: body });
  }

  /** Whole messages of the peer until now. */
  get messages(): HandMessage[] {
    const messages: HandMessage[] = [];
    let parts: Buffer[] = [];
    let kind: HandMessage["kind"] = "binary";
    for (const { opcode, payload, fin } of this.#frames) {
      if (opcode >= CLOSE) continue;
      if (opcode !== 0) kind = opcode === TEXT ? "text" : "binary";
      parts.push(payload);
      if (!fin) continue;
      messages.push({ kind, bytes: Buffer.concat(parts), frames: parts.length });
      parts = [];
    }
    return messages;
  }

  /** Payload bytes that came, also of messages that are not whole. */
  get dataLength(): number {
    return this.#frames.reduce((sum, { opcode, payload }) => sum + (opcode < CLOSE ? payload.length : 0), 0);
  }

  get #frames() {
    return framesIn(this.socket.bytes.subarray(this.head.length));
  }

  /** Waits for so many whole messages. */
  heard(count: number): Promise<HandMessage[]> {
    const found = () => (this.messages.length >= count ? this.messages : undefined);
    return this.socket.until(found, `${count} wsp messages`);
  }

  /** Waits for the head in message number `index`. */
  async jsonOf(index: number): Promise<any> {
    return JSON.parse((await this.heard(index + 1))[index]!.bytes.toString());
  }

  /** Waits until the peer has taken everything that was sent: it answers a ping behind it. */
  async settled(): Promise<void> {
    const pongs = () => this.#frames.filter(({ opcode }) => opcode === PONG).length;
    const before = pongs();
    this.send({ opcode: PING });
    await this.socket.until(() => pongs() > before || undefined, "a pong");
  }

  /** Waits for the peer's end of it, however it comes. */
  async over(ms?: number): Promise<void> {
    await this.socket.over(ms);
  }

  get isOver(): boolean {
    return this.socket.ended || this.socket.closed;
  }

  [Symbol.dispose](): void {
    this.socket.reset();
  }
}

/** A client's connection that has greeted. */
export async function handClient(
  port: number,
  { greeting = "hand_1", secret = "" }: { greeting?: string; secret?: string } = {},
): Promise<HandLine> {
  const { socket, answer } = await RawWebSocket.open(port, "/register", { "X-SECRET-KEY": secret });
  const line = new HandLine(socket, answer.head, true);
  if (greeting !== "") line.text(greeting);
  await line.settled();
  return line;
}

/** A server whose connections the test plays by hand; it upgrades them unless it is told to wait. */
export class HandServer implements Disposable {
  isWaiting = false;
  readonly #raw = new RawServer((socket) => void this.#accept(socket));
  readonly lines: HandLine[] = [];
  #taken = 0;

  get port(): number {
    return this.#raw.port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/register`;
  }

  /** All that were accepted, upgraded or not. */
  get accepted(): readonly RawSocket[] {
    return this.#raw.accepted;
  }

  /** The next connection that has greeted. */
  async next(): Promise<HandLine> {
    const index = this.#taken++;
    await until(() => this.lines.length > index, `wsp connection number ${index + 1} comes`);
    const line = this.lines[index]!;
    await line.heard(1);
    return line;
  }

  async #accept(socket: RawSocket): Promise<void> {
    try {
      const head = await socket.sees(HEAD_END);
      if (this.isWaiting) return;
      const answer = switchingTo(head);
      socket.send(answer);
      this.lines.push(new HandLine(socket, head.slice(0, head.indexOf(HEAD_END) + HEAD_END.length), false));
    } catch {
      // It left.
    }
  }

  [Symbol.dispose](): void {
    this.#raw[Symbol.dispose]();
  }
}
