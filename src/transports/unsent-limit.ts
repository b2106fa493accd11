import { ptr } from "bun:ffi";
import { Stream, type ByteStream } from "../core/stream.ts";
import { libcFunction } from "./libc.ts";
import { SocketDriver } from "./socket.ts";

const IPPROTO_TCP = 6;
const TCP_NOTSENT_LOWAT = process.platform === "darwin" ? 0x201 : 25;
/** Enough to keep a fast line busy from one turn of the event loop to the next. */
const UNSENT_BYTES = 128 * 1024;

type Setsockopt = (fd: number, level: number, name: number, value: ReturnType<typeof ptr>, length: number) => number;

let opened: { setsockopt: Setsockopt | undefined } | undefined;

/**
 * Keeps the kernel from queueing megabytes in front of a slow line: what is
 * not sent yet waits in this process, where the streams of a tunnel take
 * turns (docs/decisions/0013). Does nothing where the stream is no socket, or
 * the system has no such option.
 */
export function limitUnsent(stream: ByteStream): void {
  if (!(stream instanceof Stream) || !(stream.driver instanceof SocketDriver)) return;
  const { fd } = stream.driver.socket as unknown as { fd?: number };
  if (fd === undefined || fd < 0) return;
  opened ??= {
    setsockopt: libcFunction("setsockopt", { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" }),
  };
  const option = Int32Array.of(UNSENT_BYTES);
  opened.setsockopt?.(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, ptr(option), option.byteLength);
}
