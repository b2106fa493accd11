import type { udp } from "bun";
import { formatHostPort, formatTarget, tcpTarget, type ListenAddress, type UdpTarget } from "../core/address.ts";
import { after } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import {
  createStream,
  type ByteStream,
  type CloseReason,
  type Driver,
  type Sink,
  type Stream,
} from "../core/stream.ts";
import { DatagramReader, encodeDatagram } from "../wire/capsule.ts";
import { resolveTarget, type TcpOptions } from "./tcp.ts";
import type { Accept, DialOptions, Listener } from "./transport.ts";

/**
 * UDP flows as byte streams: each datagram is a capsule (RFC 9297), in both
 * directions. So bridges, tunnels and proxies carry UDP as they carry
 * everything else. What cannot be sent or taken at once is lost, as UDP is.
 */

/** Datagrams kept while the other side is not there yet, or slow. */
const BACKLOG = 64;
/** Peers of one listener at once. */
const MAX_FLOWS = 4096;
/** A flow without a datagram for this long is over (RFC 4787 section 4.3). */
export const UDP_IDLE_MS = 120_000;

/** One side of a flow: capsules in, capsules out. */
class FlowDriver implements Driver {
  stream!: Stream;
  readonly #send: (payload: Uint8Array) => void;
  readonly #release: () => void;
  readonly #reader: DatagramReader;
  readonly #backlog: Uint8Array[] = [];
  #reading = true;

  constructor(send: (payload: Uint8Array) => void, release: () => void) {
    this.#send = send;
    this.#release = release;
    this.#reader = new DatagramReader((payload) => this.#send(payload));
  }

  write(bytes: Uint8Array): number {
    try {
      this.#reader.feed(bytes);
    } catch (thrown) {
      this.#release();
      this.stream.lost(toSeikanError(thrown));
    }
    return bytes.length;
  }

  /** A datagram arrived. */
  received(payload: Uint8Array): void {
    if (this.#reading) this.stream.receive(encodeDatagram(payload));
    else if (this.#backlog.length < BACKLOG) this.#backlog.push(encodeDatagram(payload));
  }

  setReading(on: boolean): void {
    this.#reading = on;
    while (this.#reading && this.#backlog.length > 0) this.stream.receive(this.#backlog.shift()!);
  }

  /** UDP has no end: the flow is over when one side says so. */
  shutdown(): void {
    this.#release();
    this.stream.lost();
  }

  destroy(): void {
    this.#release();
  }
}

/** A flow that is fed by `received` and sends through `send`; `release` is called once it is over. */
export interface Flow {
  readonly stream: ByteStream;
  received(payload: Uint8Array): void;
}

export function createFlow(label: string, send: (payload: Uint8Array) => void, release: () => void): Flow {
  const driver = new FlowDriver(send, release);
  driver.stream = createStream(driver, label);
  return { stream: driver.stream, received: (payload) => driver.received(payload) };
}

/** A socket of our own for one target, connected to its first permitted address. */
export async function dialUdp(target: UdpTarget, settings: TcpOptions, options: DialOptions): Promise<ByteStream> {
  const address = await resolveTarget(tcpTarget(target.host, target.port), settings, options);
  let flow: Flow | undefined;
  try {
    const socket = await Bun.udpSocket({
      hostname: address.includes(":") ? "::" : "0.0.0.0",
      connect: { hostname: address, port: target.port },
      socket: {
        data: (_, payload) => flow?.received(payload),
        // A port that nobody listens on says so by ICMP; somebody may listen the next time.
        error() {},
      },
    });
    const label = `udp ${formatHostPort(address, target.port)}`;
    flow = createFlow(
      label,
      (payload) => attempt(() => socket.send(payload)),
      () => socket.close(),
    );
    options.trace?.({ kind: "udp", address: formatHostPort(address, target.port) });
    return flow.stream;
  } catch (cause) {
    throw new SeikanError("connect-failed", `cannot send to ${formatTarget(target)}: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** Sends, or loses the datagram: it may be too long for the system, or the one before met a closed port (ICMP). */
function attempt(send: () => unknown): void {
  try {
    send();
  } catch {
    // Datagrams get lost.
  }
}

/** A bound socket and where it is. */
export interface UdpSocket {
  readonly address: string;
  readonly port: number;
  /** Silently fails, as UDP does, when the system takes no more. */
  send(payload: Uint8Array, address: string, port: number): void;
  close(): void;
}

export async function bindUdp(
  host: string,
  port: number,
  onDatagram: (payload: Uint8Array, address: string, port: number) => void,
): Promise<UdpSocket> {
  try {
    const socket: udp.Socket<"buffer"> = await Bun.udpSocket({
      hostname: host,
      port,
      socket: {
        data: (_, payload, fromPort, fromAddress) => onDatagram(payload, plainAddress(fromAddress), fromPort),
        error() {},
      },
    });
    return {
      address: host,
      port: socket.port,
      send(payload, to, toPort) {
        if (!socket.closed) attempt(() => socket.send(payload, toPort, to));
      },
      close() {
        if (!socket.closed) socket.close();
      },
    };
  } catch (cause) {
    const code = (cause as { code?: string }).code ?? (cause as Error).message;
    throw new SeikanError("listen-failed", `cannot listen on udp:${formatHostPort(host, port)}: ${code}`, { cause });
  }
}

function plainAddress(address: string): string {
  return address.startsWith("::ffff:") ? address.slice(7) : address;
}

/** Listens for datagrams; each peer that sends one is accepted as a flow. */
export async function listenUdp(address: ListenAddress, accept: Accept): Promise<Listener> {
  if (address.kind !== "tcp") throw new SeikanError("usage", "UDP listens on ADDR:PORT");
  const hosts = address.host === "localhost" ? ["127.0.0.1", "::1"] : [address.host];
  const first = await FlowListener.bind(hosts[0]!, address.port, accept);
  const second =
    hosts[1] === undefined ? undefined : await FlowListener.bind(hosts[1], first.port, accept).catch(() => undefined);
  const listeners = second === undefined ? [first] : [first, second];
  return {
    addresses: listeners.map(({ address: host, port }) => formatHostPort(host, port)),
    port: first.port,
    close() {
      for (const listener of listeners) listener.close();
    },
  };
}

/** One bound socket, and the flows of the peers that send to it. */
class FlowListener {
  readonly #accept: Accept;
  readonly #flows = new Map<string, Flow>();
  #socket!: UdpSocket;
  #isClosing = false;

  static async bind(host: string, port: number, accept: Accept): Promise<FlowListener> {
    const listener = new FlowListener(accept);
    const received = listener.#received.bind(listener);
    listener.#socket = await bindUdp(host, port, received);
    return listener;
  }

  private constructor(accept: Accept) {
    this.#accept = accept;
  }

  get address(): string {
    return this.#socket.address;
  }

  get port(): number {
    return this.#socket.port;
  }

  #received(payload: Uint8Array, address: string, port: number): void {
    const name = formatHostPort(address, port);
    const flow = this.#flows.get(name) ?? this.#open(name, address, port);
    flow?.received(payload);
  }

  #open(name: string, address: string, port: number): Flow | undefined {
    if (this.#isClosing || this.#flows.size >= MAX_FLOWS) return undefined;
    const send = (answer: Uint8Array) => this.#socket.send(answer, address, port);
    const flow = createFlow(`udp ${name}`, send, () => this.#over(name));
    this.#flows.set(name, flow);
    this.#accept(flow.stream, { address, port });
    return flow;
  }

  #over(name: string): void {
    this.#flows.delete(name);
    if (this.#isClosing && this.#flows.size === 0) this.#socket.close();
  }

  /** No new flows; those that are open go on. */
  close(): void {
    this.#isClosing = true;
    if (this.#flows.size === 0) this.#socket.close();
  }
}

/** After our side said its last word, answers may still come. */
const LAST_ANSWER_MS = 2000;

/**
 * A flow for people and pipes: each write is one datagram, each chunk that
 * arrives is one. Owns `flow`. Its end waits until no answer came for a while.
 */
export function plainDatagrams(flow: ByteStream): ByteStream {
  const driver = new PlainDriver(flow);
  driver.stream = createStream(driver, flow.label);
  flow.attach(driver);
  return driver.stream;
}

class PlainDriver implements Driver, Sink {
  stream!: Stream;
  readonly #flow: ByteStream;
  readonly #reader = new DatagramReader((payload) => this.stream.receive(new Uint8Array(payload)));
  #cancel: () => void = () => {};
  #isEnding = false;

  constructor(flow: ByteStream) {
    this.#flow = flow;
  }

  write(bytes: Uint8Array): number {
    this.#flow.write(encodeDatagram(bytes));
    return bytes.length;
  }

  shutdown(): void {
    this.#isEnding = true;
    this.#waitOn();
  }

  #waitOn(): void {
    this.#cancel();
    this.#cancel = after(LAST_ANSWER_MS, () => {
      this.#flow.end();
      this.stream.lost();
    });
  }

  destroy(): void {
    this.#cancel();
    this.#flow.abort(new SeikanError("cancelled", "the flow was aborted"));
  }

  setReading(on: boolean): void {
    if (on) this.#flow.resume();
    else this.#flow.pause();
  }

  onData(chunk: Uint8Array): void {
    if (this.#isEnding) this.#waitOn();
    try {
      this.#reader.feed(chunk);
    } catch (thrown) {
      this.#flow.abort(toSeikanError(thrown));
    }
  }

  onEnd(): void {
    this.#flow.end();
  }

  onDrain(): void {}

  onClose(reason: CloseReason): void {
    this.#cancel();
    this.stream.lost(reason.error);
  }
}
