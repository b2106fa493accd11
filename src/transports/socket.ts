import type { Socket, SocketHandler } from "bun";
import { SeikanError } from "../core/errors.ts";
import { createStream, Stream, type ByteStream, type Driver, type StreamFeed } from "../core/stream.ts";

/**
 * Bun sockets as streams: TCP, unix and TLS share this driver.
 *
 * What Bun does and this file hides: `write` keeps nothing, `end` is a full
 * close that can reset unread data (so only `shutdown` is used), the FIN that
 * answers ours comes as `close` without `end`, `drain` comes unasked, and a
 * throw in a handler loses the rest of the chunk.
 */

/** TCP keepalive: the first probe after this long without a byte. */
const KEEPALIVE_DELAY_MS = 30_000;
const KEEPALIVE_GRACE_MS = 1000;

export type StreamSocket = Socket<StreamFeed>;

export class SocketDriver implements Driver {
  readonly copies = true;
  readonly socket: StreamSocket;
  /** False for a TLS socket: TLS inside it cannot be native. */
  readonly isPlain: boolean;

  constructor(socket: StreamSocket, isPlain = true) {
    this.socket = socket;
    this.isPlain = isPlain;
  }

  write(bytes: Uint8Array): number {
    return this.socket.write(bytes);
  }

  shutdown(): void {
    this.socket.shutdown();
  }

  destroy(): void {
    this.socket.terminate();
  }

  setReading(on: boolean): void {
    if (on) this.socket.resume();
    else this.socket.pause();
  }
}

/** The handlers of a socket whose `data` is its stream; one table for all of them. */
export const STREAM_HANDLERS = {
  data(socket, chunk) {
    socket.data.receive(chunk);
  },
  end(socket) {
    socket.data.receiveEnd();
  },
  drain(socket) {
    socket.data.drained();
  },
  close(socket, error) {
    socket.data.lost(error === undefined || error === null ? undefined : resetError(error));
  },
  error(socket, error) {
    // Only a bug in a sink gets here: Bun has already dropped the rest of its chunk.
    socket.data.lost(new SeikanError("internal", error.message, { cause: error }));
    socket.terminate();
  },
} as const satisfies SocketHandler<StreamFeed>;

/** Takes a socket that Bun just opened; no event may have come in between. */
export function adoptSocket(socket: StreamSocket, label: string): Stream {
  const stream = createStream(new SocketDriver(socket), label);
  socket.data = stream;
  return stream;
}

let young: StreamSocket[] = [];

/**
 * Switches keepalive on for a TCP socket that lives for a second. It takes
 * four system calls, too many for the connections that do not.
 */
export function keepAlive(socket: StreamSocket): void {
  if (young.push(socket) > 1) return;
  setTimeout(() => {
    const grown = young;
    young = [];
    for (const one of grown) if (one.readyState > 0) one.setKeepAlive(true, KEEPALIVE_DELAY_MS);
  }, KEEPALIVE_GRACE_MS).unref();
}

function resetError(cause: Error): SeikanError {
  const code = (cause as { code?: string }).code ?? cause.message;
  return new SeikanError("peer-reset", `connection lost (${code})`, { cause });
}

/** Ignores everything: for sockets that are no stream any more. */
export const RETIRED: StreamFeed = {
  receive() {},
  receiveEnd() {},
  drained() {},
  lost() {},
};

/** The address of ours that a client connected to; undefined where there is none (unix sockets, streams in streams). */
export function localAddressOf(stream: ByteStream): string | undefined {
  if (!(stream instanceof Stream) || !(stream.driver instanceof SocketDriver)) return undefined;
  const { localAddress } = stream.driver.socket as StreamSocket & { localAddress?: string };
  return localAddress === undefined || localAddress === "" ? undefined : localAddress.replace(/^::ffff:/, "");
}
