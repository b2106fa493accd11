import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tcpTarget, type ListenAddress, type Target } from "../../src/core/address.ts";
import { deadlineIn } from "../../src/core/clock.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { listen, tcpDialer } from "../../src/transports/tcp.ts";
import type { StreamPair } from "../contract/stream.ts";
import { reset } from "./wait.ts";

export const soon = () => deadlineIn(10_000);

export function pairOf(left: ByteStream, right: ByteStream, release: () => void = () => {}): StreamPair {
  return {
    left,
    right,
    async [Symbol.asyncDispose]() {
      left.abort(reset());
      right.abort(reset());
      release();
    },
  };
}

/** Dials an own listener: both ends of one real connection. */
export async function socketPair(address: ListenAddress, targetOf: (port: number) => Target): Promise<StreamPair> {
  const accepted = Promise.withResolvers<ByteStream>();
  const listener = listen(address, (stream) => accepted.resolve(stream));
  const left = await tcpDialer()(targetOf(listener.port ?? 0), { deadline: soon() });
  const right = await accepted.promise;
  return pairOf(left, right, () => listener.close());
}

export function tcpPair(): Promise<StreamPair> {
  return socketPair({ kind: "tcp", host: "127.0.0.1", port: 0 }, (port) => tcpTarget("127.0.0.1", port));
}

export async function unixPair(): Promise<StreamPair> {
  const folder = mkdtempSync(join(tmpdir(), "seikan-unix-"));
  const path = join(folder, "s");
  const pair = await socketPair({ kind: "unix", path }, () => ({ kind: "unix", path }));
  return pairOf(pair.left, pair.right, () => {
    void pair[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  });
}
