import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tcpTarget, type ListenAddress, type Target } from "../core/address.ts";
import { deadlineIn } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { listen, tcpDialer } from "./tcp.ts";

const LOCAL_CONNECT_MS = 5000;

/**
 * Two joined kernel sockets of this process, the dialling and the accepting
 * one, for what only works on a socket. Nobody else can take part: the unix socket lies in a folder of our own and
 * is gone when this resolves; on Windows the peer's port is checked.
 */
export async function socketPair(): Promise<[ByteStream, ByteStream]> {
  return process.platform === "win32" ? tcpPair() : unixPair();
}

async function unixPair(): Promise<[ByteStream, ByteStream]> {
  const folder = mkdtempSync(join(tmpdir(), "seikan-"));
  const path = join(folder, "pair");
  try {
    return await joined(
      { kind: "unix", path },
      () => ({ kind: "unix", path }),
      () => true,
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function tcpPair(): Promise<[ByteStream, ByteStream]> {
  const address = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
  return joined(
    address,
    (port) => tcpTarget("127.0.0.1", port),
    (near, far) => near.localPort === far,
  );
}

async function joined(
  address: ListenAddress,
  targetOf: (port: number) => Target,
  isOurs: (near: { localPort?: number }, farPort: number) => boolean,
): Promise<[ByteStream, ByteStream]> {
  const accepted: { stream: ByteStream; port: number }[] = [];
  const listener = listen(address, (stream, peer) => accepted.push({ stream, port: peer.port }));
  try {
    const near = await tcpDialer()(targetOf(listener.port ?? 0), { deadline: deadlineIn(LOCAL_CONNECT_MS) });
    while (accepted.length === 0) await new Promise(setImmediate);
    const socket = (near as unknown as { driver: { socket: { localPort?: number } } }).driver.socket;
    const far = accepted.find((candidate) => isOurs(socket, candidate.port));
    if (far !== undefined) return [near, far.stream];
    throw new SeikanError("internal", "a stranger connected to our own socket");
  } finally {
    listener.close();
  }
}
