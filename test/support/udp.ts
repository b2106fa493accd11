import type { udp } from "bun";
import { RawServer, type RawSocket } from "./raw.ts";
import { until } from "./wait.ts";

export interface Datagram {
  readonly payload: Buffer;
  readonly address: string;
  readonly port: number;
}

/** A UDP socket on a port of its own: what comes is kept, what is sent is sent. */
export class UdpPeer implements Disposable {
  readonly received: Datagram[] = [];
  readonly #socket: udp.Socket<"buffer">;
  #taken = 0;

  private constructor(socket: udp.Socket<"buffer">) {
    this.#socket = socket;
  }

  static async open(
    onDatagram: (datagram: Datagram, peer: UdpPeer) => void = () => {},
    hostname = "127.0.0.1",
  ): Promise<UdpPeer> {
    let peer: UdpPeer | undefined;
    const socket = await Bun.udpSocket({
      hostname,
      port: 0,
      socket: {
        data(_, payload, port, address) {
          const datagram = { payload: Buffer.from(payload), address, port };
          peer!.received.push(datagram);
          onDatagram(datagram, peer!);
        },
        error() {},
      },
    });
    peer = new UdpPeer(socket);
    return peer;
  }

  get port(): number {
    return this.#socket.port;
  }

  send(payload: Uint8Array | string, port: number, address = "127.0.0.1"): void {
    this.#socket.send(payload, port, address);
  }

  /** The next datagram, in the order they came. */
  async next(ms?: number): Promise<Datagram> {
    const index = this.#taken++;
    await until(() => this.received.length > index, `datagram number ${index + 1} comes`, ms);
    return this.received[index]!;
  }

  [Symbol.dispose](): void {
    if (!this.#socket.closed) this.#socket.close();
  }
}

/** Sends each datagram back to where it came from. */
export function udpEcho(hostname?: string): Promise<UdpPeer> {
  return UdpPeer.open(({ payload, port, address }, peer) => peer.send(payload, port, address), hostname);
}

/** Answers every question for an A record with this address; anything else with no answer. */
export function dnsResponder(address: string): Promise<UdpPeer> {
  return UdpPeer.open(({ payload, port, address: from }, peer) => {
    // The question ends behind its name, type and class.
    let end = 12;
    while (payload[end]! > 0) end += payload[end]! + 1;
    end += 5;
    const isA = payload.readUInt16BE(end - 4) === 1;
    const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address.split(".").map(Number)]);
    const header = Buffer.from(payload.subarray(0, 12));
    header.writeUInt16BE(0x8580, 2);
    // One question, perhaps one answer, nothing more.
    for (const [index, count] of [1, isA ? 1 : 0, 0, 0].entries()) header.writeUInt16BE(count, 4 + 2 * index);
    peer.send(Buffer.concat([header, payload.subarray(12, end), isA ? answer : Buffer.alloc(0)]), port, from);
  });
}

// --- capsules, by the letter of RFC 9297, sharing nothing with src/wire/capsule.ts ---------

/** A variable-length integer (RFC 9000 section 16), in as many bytes as told. */
export function varint(value: number, bytes?: 1 | 2 | 4 | 8): Buffer {
  const size = bytes ?? (value < 64 ? 1 : value < 16384 ? 2 : value < 2 ** 30 ? 4 : 8);
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64BE(BigInt(value));
  const shown = buffer.subarray(8 - size);
  shown[0] = shown[0]! + 64 * Math.log2(size);
  return Buffer.from(shown);
}

export function capsule(type: number, content: Uint8Array | string): Buffer {
  const bytes = Buffer.from(content as string);
  return Buffer.concat([varint(type), varint(bytes.length), bytes]);
}

/** A DATAGRAM capsule with a UDP payload. */
export function udpCapsule(payload: Uint8Array | string): Buffer {
  return capsule(0, Buffer.concat([Buffer.of(0), Buffer.from(payload as string)]));
}

function readVarint(bytes: Buffer, at: number): { value: number; end: number } | undefined {
  const size = at < bytes.length ? 2 ** Math.floor(bytes[at]! / 64) : Number.POSITIVE_INFINITY;
  if (at + size > bytes.length) return undefined;
  let value = bytes[at]! % 64;
  for (let index = 1; index < size; index++) value = value * 256 + bytes[at + index]!;
  return { value, end: at + size };
}

/** The whole capsules at the start of these bytes. */
export function capsulesIn(bytes: Buffer): { type: number; content: Buffer }[] {
  const capsules: { type: number; content: Buffer }[] = [];
  for (let at = 0; ;) {
    const type = readVarint(bytes, at);
    const length = type === undefined ? undefined : readVarint(bytes, type.end);
    if (type === undefined || length === undefined || bytes.length < length.end + length.value) return capsules;
    at = length.end + length.value;
    capsules.push({ type: type.value, content: bytes.subarray(length.end, at) });
  }
}

/** The UDP payloads in a connection's bytes behind its head. */
export function payloadsIn(bytes: Buffer): Buffer[] {
  const start = bytes.indexOf("\r\n\r\n") + 4;
  return capsulesIn(bytes.subarray(start)).map(({ type, content }) => {
    if (type !== 0 || content[0] !== 0) throw new Error(`capsule ${type} with ${content.toString("hex")}`);
    return content.subarray(1);
  });
}

/** Waits until so many UDP payloads came behind the head. */
export async function payloads(socket: RawSocket, count: number): Promise<Buffer[]> {
  return socket.until(() => {
    const found = payloadsIn(socket.bytes);
    return found.length >= count ? found : undefined;
  }, `${count} datagrams`);
}

/** A proxy for RFC 9298 that says to every request what the test says, and then echoes capsules. */
export function scriptedUdpProxy(answer: (head: string) => string): RawServer {
  return new RawServer((socket) => {
    const run = async () => {
      const head = await socket.sees("\r\n\r\n");
      const start = head.indexOf("\r\n\r\n") + 4;
      const reply = answer(head.slice(0, start));
      socket.send(reply);
      let echoed = start;
      await socket.until(
        () => {
          if (reply.includes(" 101 ") && socket.length > echoed) socket.send(socket.bytes.subarray(echoed));
          echoed = Math.max(echoed, socket.length);
          return socket.ended || undefined;
        },
        "the client's end",
        60_000,
      );
      socket.end();
    };
    void run().catch(() => {});
  });
}
