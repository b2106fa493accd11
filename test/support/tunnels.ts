import type { ByteStream } from "../../src/core/stream.ts";
import { MuxSession } from "../../src/transports/mux.ts";
import { webSocketStream } from "../../src/transports/websocket.ts";
import type { StreamPair } from "../contract/stream.ts";
import { pairOf } from "./pairs.ts";

/** WebSocket on both ends of a pair, without the opening handshake. */
export function overWebSocket(pair: StreamPair): StreamPair {
  const common = { binaryOnly: true, maxFrame: 16 * 1024 * 1024 };
  const left = webSocketStream(pair.left, { ...common, role: "client", peer: "the server" });
  const right = webSocketStream(pair.right, { ...common, role: "server", peer: "the client" });
  return pairOf(left, right, () => void pair[Symbol.asyncDispose]());
}

export interface Sessions {
  readonly client: MuxSession;
  readonly server: MuxSession;
  /** Streams the server accepted and nobody has taken yet. */
  readonly accepted: ByteStream[];
}

/** A yamux session over a pair. */
export function sessionsOver(pair: StreamPair): Sessions {
  const accepted: ByteStream[] = [];
  const server = new MuxSession(pair.right, {
    role: "server",
    peer: "the client",
    accept: (stream) => void accepted.push(stream),
  });
  const client = new MuxSession(pair.left, { role: "client", peer: "the server" });
  return { client, server, accepted };
}

/** One stream of a yamux session, accepted once its first byte came. */
export async function overMux(pair: StreamPair): Promise<StreamPair> {
  const accepted = Promise.withResolvers<ByteStream>();
  new MuxSession(pair.right, { role: "server", peer: "the client", accept: accepted.resolve });
  const client = new MuxSession(pair.left, { role: "client", peer: "the server" });
  const left = client.open();
  // A stream begins with its first frame: this byte stands for the CONNECT head.
  left.write(Buffer.from("!"));
  const right = await accepted.promise;
  await firstByteOf(right);
  return pairOf(left, right, () => void pair[Symbol.asyncDispose]());
}

function firstByteOf(stream: ByteStream): Promise<void> {
  return new Promise((resolve) => {
    stream.attach({
      onData(chunk) {
        stream.detach();
        stream.unread(chunk.subarray(1));
        resolve();
      },
      onEnd() {},
      onDrain() {},
      onClose() {},
    });
  });
}
