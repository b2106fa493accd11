import { bytesOf, closeBody, frame, framesIn, type FrameShape, type SeenFrame } from "./frames.ts";
import { dialRaw, type RawAddress, type RawResponse, type RawSocket } from "./raw.ts";
import { DATA, SYN, yamuxFrame } from "./yamux-peer.ts";

/** The key of RFC 6455 section 1.3, and what must answer it. */
export const SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ==";
export const SAMPLE_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

export type FieldChanges = Readonly<Record<string, string | undefined>>;

/** A right opening request, but for the changes: undefined takes a field away. */
export function upgradeRequest(path: string, changes: FieldChanges = {}, line = `GET ${path} HTTP/1.1`): string {
  const fields: Record<string, string | undefined> = {
    Host: "127.0.0.1",
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": SAMPLE_KEY,
    ...changes,
  };
  const lines = Object.entries(fields).flatMap(([name, value]) => (value === undefined ? [] : [`${name}: ${value}`]));
  return [line, ...lines, "", ""].join("\r\n");
}

/** The 101 to the request in `head`, computed by the letter of RFC 6455, but for the changes. */
export function switchingTo(head: string, changes: FieldChanges = {}): string {
  const key = /^sec-websocket-key: *(\S+)/im.exec(head)?.[1] ?? "";
  const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  const protocol = /^sec-websocket-protocol: *(\S+)/im.exec(head)?.[1];
  const fields: Record<string, string | undefined> = {
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Accept": new Bun.CryptoHasher("sha1").update(key + guid).digest("base64"),
    "Sec-WebSocket-Protocol": protocol,
    ...changes,
  };
  const lines = Object.entries(fields).flatMap(([name, value]) => (value === undefined ? [] : [`${name}: ${value}`]));
  return ["HTTP/1.1 101 Switching Protocols", ...lines, "", ""].join("\r\n");
}

export async function answerTo(to: number | RawAddress, request: string): Promise<RawResponse> {
  using socket = await dialRaw(to);
  socket.send(request);
  return await socket.response();
}

/** A WebSocket client whose frames the test writes by hand. */
export class RawWebSocket implements Disposable {
  readonly socket: RawSocket;
  readonly answer: RawResponse;
  #sent = 0;

  constructor(socket: RawSocket, answer: RawResponse) {
    this.socket = socket;
    this.answer = answer;
  }

  /** Opens one; fails on any other answer than 101. */
  static async open(to: number | RawAddress, path: string, changes: FieldChanges = {}): Promise<RawWebSocket> {
    const socket = await dialRaw(to);
    socket.send(upgradeRequest(path, changes));
    const answer = await socket.response();
    if (answer.status === 101) return new RawWebSocket(socket, answer);
    socket.reset();
    throw new Error(`${answer.statusLine}: ${answer.body}`);
  }

  /** These frames in one piece, masked unless they say otherwise. */
  send(...shapes: FrameShape[]): this {
    this.socket.send(Buffer.concat(shapes.map((shape) => frame({ key: this.#key(), ...shape }))));
    return this;
  }

  #key(): Uint8Array {
    const n = ++this.#sent;
    return Uint8Array.of(n, 2 * n, 3 * n, 77);
  }

  text(payload: string): this {
    return this.send({ opcode: 1, payload });
  }

  binary(payload: Uint8Array | string): this {
    return this.send({ opcode: 2, payload });
  }

  close(code?: number, reason = ""): this {
    return this.send({ opcode: 8, payload: code === undefined ? "" : closeBody(code, reason) });
  }

  get frames(): SeenFrame[] {
    return framesIn(this.socket.bytes.subarray(this.answer.head.length));
  }

  /** The payload of all messages until now, borders aside. */
  get data(): Buffer {
    return Buffer.concat(this.frames.filter(({ opcode }) => opcode < 3).map(({ payload }) => payload));
  }

  receives(length: number): Promise<Buffer> {
    return this.socket.until(() => (this.data.length >= length ? this.data : undefined), `${length} payload bytes`);
  }

  sees(text: string): Promise<true> {
    return this.socket.until(
      () => this.data.includes(text) || undefined,
      `${JSON.stringify(text)} in messages`,
    ) as Promise<true>;
  }

  /** The peer's close frame: its code and reason. */
  async closed(ms?: number): Promise<{ code: number; reason: string }> {
    const find = () => this.frames.find(({ opcode }) => opcode === 8);
    const { payload } = await this.socket.until(find, "a close frame", ms);
    return { code: payload.length < 2 ? 1005 : payload.readUInt16BE(0), reason: payload.subarray(2).toString() };
  }

  [Symbol.dispose](): void {
    this.socket.reset();
  }
}

export interface SeenYamux {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly length: number;
  readonly payload: Buffer;
}

/** A tunnel client whose yamux frames the test writes by hand. */
export class RawTunnel extends RawWebSocket {
  static override async open(
    to: number | RawAddress,
    path = "/-/tunnel",
    changes: FieldChanges = {},
  ): Promise<RawTunnel> {
    const protocol = { "Sec-WebSocket-Protocol": "seikan.v1" };
    const { socket, answer } = await RawWebSocket.open(to, path, { ...protocol, ...changes });
    return new RawTunnel(socket, answer);
  }

  yamux(type: number, flags: number, stream: number, content: number | Uint8Array | string = 0): this {
    return this.binary(yamuxFrame(type, flags, stream, content));
  }

  /** Opens a stream with this request as its first bytes. */
  ask(stream: number, request: string): this {
    return this.yamux(DATA, SYN, stream, bytesOf(request));
  }

  connect(stream: number, target: string): this {
    return this.ask(stream, `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`);
  }

  get yamuxFrames(): SeenYamux[] {
    const bytes = this.data;
    const frames: SeenYamux[] = [];
    for (let at = 0; at + 12 <= bytes.length;) {
      const [type, flags] = [bytes[at + 1]!, bytes.readUInt16BE(at + 2)];
      const [stream, length] = [bytes.readUInt32BE(at + 4), bytes.readUInt32BE(at + 8)];
      const end = at + 12 + (type === DATA ? length : 0);
      if (end > bytes.length) break;
      frames.push({ type, flags, stream, length, payload: Buffer.from(bytes.subarray(at + 12, end)) });
      at = end;
    }
    return frames;
  }

  /** What a stream has brought until now. */
  said(stream: number): string {
    const pieces = this.yamuxFrames.filter((one) => one.stream === stream && one.type === DATA);
    return Buffer.concat(pieces.map(({ payload }) => payload)).toString("latin1");
  }

  hears(stream: number, text: string): Promise<string> {
    const found = () => (this.said(stream).includes(text) ? this.said(stream) : undefined);
    return this.socket.until(found, `${JSON.stringify(text)} in stream ${stream}`);
  }

  /** Waits for a frame. */
  gets(what: string, is: (frame: SeenYamux) => boolean): Promise<SeenYamux> {
    return this.socket.until(() => this.yamuxFrames.find(is), what);
  }
}
