import type { Duplex } from "node:stream";
import { yamux } from "@chainsafe/libp2p-yamux";
import { Client, Server, type Stream as JsStream } from "yamux-js";
import type { ByteStream } from "../../src/core/stream.ts";
import { until } from "./wait.ts";
import { ACK, DATA, PINGING, SYN, WINDOW, YamuxPeer, yamuxFrame } from "./yamux-peer.ts";

/** A stream of another implementation, as far as all of them can do it. */
export interface ForeignStream {
  onData: (bytes: Uint8Array) => void;
  /** What came before somebody listened is among it. */
  readonly received: number;
  readonly isEnded: boolean;
  /** Reset, or over. */
  readonly isClosed: boolean;
  /** Takes all of it, and sends as windows allow. */
  send(bytes: Uint8Array): void;
  /** FIN. */
  finish(): void;
  reset(): void;
}

/** A session of another implementation. */
export interface Foreign {
  readonly accepted: ForeignStream[];
  onAccept: (stream: ForeignStream) => void;
  open(): Promise<ForeignStream>;
  /** Resolves when it is answered. */
  ping(): Promise<void>;
  goAway(): void;
  /** The go-away of the other side arrived. */
  readonly heardGoAway: boolean;
  readonly complaints: string[];
  close(): void;
}

type Connect = (carrier: ByteStream, role: "client" | "server") => Foreign;

// --- @chainsafe/libp2p-yamux -------------------------------------------------

type Libp2pMuxer = ReturnType<ReturnType<ReturnType<typeof yamux>>["createStreamMuxer"]>;
type Libp2pStream = Awaited<ReturnType<Libp2pMuxer["createStream"]>>;

/** The part of libp2p's connections that its muxer uses, on a stream of ours. */
class Libp2pConnection extends EventTarget {
  readonly direction: "outbound" | "inbound";
  readonly log: unknown;
  readonly #carrier: ByteStream;

  constructor(carrier: ByteStream, role: "client" | "server", complaints: string[]) {
    super();
    this.direction = role === "client" ? "outbound" : "inbound";
    this.#carrier = carrier;
    const logger = (): unknown =>
      Object.assign(() => {}, {
        enabled: false,
        trace() {},
        error: (...what: unknown[]) => void complaints.push(what.map(String).join(" ")),
        newScope: logger,
      });
    this.log = logger();
    carrier.attach({
      onData: (data) => void this.dispatchEvent(new MessageEvent("message", { data })),
      onEnd: () => carrier.end(),
      onDrain: () => void this.dispatchEvent(new Event("drain")),
      onClose: () => void this.dispatchEvent(new Event("close")),
    });
  }

  send(data: Uint8Array | { subarray(): Uint8Array }): boolean {
    return this.#carrier.write(Uint8Array.from(data.subarray()));
  }

  abort(): void {
    this.#carrier.end();
  }
}

class Libp2pEnd implements ForeignStream {
  onData: (bytes: Uint8Array) => void = () => {};
  received = 0;
  isEnded = false;
  isClosed = false;
  readonly #stream: Libp2pStream;

  constructor(stream: Libp2pStream) {
    this.#stream = stream;
    stream.addEventListener("message", (event) => {
      const bytes = event.data.subarray();
      this.received += bytes.length;
      this.onData(bytes);
    });
    stream.addEventListener("remoteCloseWrite", () => void (this.isEnded = true));
    stream.addEventListener("close", () => void (this.isClosed = true));
  }

  send(bytes: Uint8Array): void {
    this.#stream.send(bytes);
  }

  finish(): void {
    void this.#stream.close();
  }

  reset(): void {
    this.#stream.abort(new Error("the test resets"));
  }
}

export const libp2p: Connect = (carrier, role) => {
  const complaints: string[] = [];
  const connection = new Libp2pConnection(carrier, role, complaints);
  const accepted: ForeignStream[] = [];
  const muxer = yamux({ enableKeepAlive: false })().createStreamMuxer(
    connection as unknown as Parameters<ReturnType<ReturnType<typeof yamux>>["createStreamMuxer"]>[0],
  );
  muxer.addEventListener("stream", (event) => {
    const end = new Libp2pEnd(event.detail as Libp2pStream);
    accepted.push(end);
    foreign.onAccept(end);
  });
  const foreign: Foreign = {
    accepted,
    onAccept: () => {},
    complaints,
    open: async () => new Libp2pEnd(await muxer.createStream()),
    ping: async () => void (await muxer.ping()),
    goAway: () => void muxer.close(),
    get heardGoAway() {
      return (muxer as unknown as { remoteGoAway?: number }).remoteGoAway === 0;
    },
    close: () => void muxer.close(),
  };
  return foreign;
};

// --- yamux-js ------------------------------------------------------------------

class JsEnd implements ForeignStream {
  onData: (bytes: Uint8Array) => void = () => {};
  received = 0;
  isEnded = false;
  isClosed = false;
  readonly #stream: JsStream;
  #unsent = 0;
  #finishes = false;

  constructor(stream: JsStream) {
    this.#stream = stream;
    stream.on("data", (bytes: Buffer) => {
      this.received += bytes.length;
      this.onData(Uint8Array.from(bytes));
    });
    stream.on("end", () => void (this.isEnded = true));
    stream.on("error", () => void (this.isClosed = true));
    stream.on("close", () => void (this.isClosed = true));
  }

  send(bytes: Uint8Array): void {
    this.#unsent++;
    this.#stream.write(Uint8Array.from(bytes), () => {
      if (--this.#unsent === 0 && this.#finishes) this.#stream.close();
    });
  }

  /** Its FIN would overtake what waits for a window. */
  finish(): void {
    this.#finishes = true;
    if (this.#unsent === 0) this.#stream.close();
  }

  reset(): void {
    throw new Error("yamux-js sends no resets");
  }
}

/** What it keeps private. */
interface JsInside {
  onStream: (stream: Duplex) => void;
  readonly remoteGoAway: boolean;
  ping(): void;
  goAway(code: number): void;
}

/**
 * yamux-js 0.2.0 loses what is left of a chunk that ends within a frame, and
 * the data of a frame that has SYN. So it gets whole frames, and SYN in one of
 * its own.
 */
export const yamuxJs: Connect = (carrier, role) => {
  const complaints: string[] = [];
  const accepted: ForeignStream[] = [];
  const config = {
    enableKeepAlive: false,
    logger: (...what: unknown[]) => void complaints.push(what.map(String).join(" ")),
  };
  const accept = (stream: Duplex) => {
    const end = new JsEnd(stream as JsStream);
    accepted.push(end);
    foreign.onAccept(end);
  };
  const session = role === "client" ? new Client(config) : new Server(accept, config);
  const inside = session as unknown as JsInside;
  // Its clients take streams, too; only their constructor does not know.
  inside.onStream = accept;
  session.on("data", (bytes: Buffer) => void carrier.write(Uint8Array.from(bytes)));
  session.on("end", () => carrier.end());
  session.on("error", (error: Error) => void complaints.push(error.message));
  const reframed = new YamuxPeer(carrier);
  let pongs = 0;
  reframed.onFrame = ({ type, flags, stream, length, payload }) => {
    reframed.frames.length = 0;
    if (type === PINGING && flags === ACK) pongs++;
    if (type === DATA && (flags & SYN) !== 0) {
      session.write(yamuxFrame(WINDOW, SYN, stream, 0));
      session.write(yamuxFrame(DATA, flags & ~SYN, stream, payload));
    } else session.write(yamuxFrame(type, flags, stream, type === DATA ? payload : length));
  };
  const foreign: Foreign = {
    accepted,
    onAccept: () => {},
    complaints,
    open: async () => new JsEnd(session.open()),
    ping: () => {
      const before = pongs;
      inside.ping();
      return until(() => pongs > before, "yamux-js has its answer");
    },
    goAway: () => inside.goAway(0),
    get heardGoAway() {
      return inside.remoteGoAway;
    },
    close: () => session.close(),
  };
  return foreign;
};
