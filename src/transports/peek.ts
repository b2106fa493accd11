import { ptr } from "bun:ffi";
import { now, sleep, type Deadline } from "../core/clock.ts";
import { Stream, type ByteStream } from "../core/stream.ts";
import { serverNameOf } from "../wire/client-hello.ts";
import { libcFunction } from "./libc.ts";
import { SocketDriver } from "./socket.ts";

const MSG_PEEK = 2;
const HELLO_BYTES = 16 * 1024;
const LONGEST_PAUSE_MS = 20;

/**
 * The server name a TLS client asks for, without taking a byte off the socket:
 * native TLS must read the hello itself. Empty when the client names none, or
 * where the system's C library cannot be asked.
 */
export async function peekServerName(stream: ByteStream, deadline: Deadline): Promise<string> {
  const recv = openRecv();
  if (recv === undefined || !(stream instanceof Stream) || !(stream.driver instanceof SocketDriver)) return "";
  const { socket } = stream.driver;
  const buffer = Buffer.alloc(HELLO_BYTES);
  socket.pause();
  // A paused socket tells nothing, so it is asked, at growing intervals.
  for (let pause = 0; now() < deadline && !stream.isClosed; pause = Math.min(pause * 2 + 1, LONGEST_PAUSE_MS)) {
    if (pause > 0) await sleep(pause);
    const length = Number(recv((socket as unknown as { fd: number }).fd, ptr(buffer), buffer.length, MSG_PEEK));
    if (length === 0) break;
    const name = length > 0 ? serverNameOf(buffer.subarray(0, length)) : undefined;
    if (name !== undefined) return finish(socket, name);
    if (length === buffer.length) break;
  }
  return finish(socket, "");
}

function finish(socket: { resume(): void }, name: string): string {
  socket.resume();
  return name;
}

type Recv = (fd: number, buffer: ReturnType<typeof ptr>, length: number, flags: number) => bigint | number;

let opened: { recv: Recv | undefined } | undefined;

function openRecv(): Recv | undefined {
  opened ??= { recv: libcFunction<Recv>("recv", { args: ["i32", "ptr", "usize", "i32"], returns: "i64" }) };
  return opened.recv;
}
