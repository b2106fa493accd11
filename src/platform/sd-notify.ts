import { dlopen, ptr } from "bun:ffi";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;

/**
 * Tells the service manager how we are (sd_notify(3)). Best effort: Bun has no
 * unix datagram sockets, so this asks libc; where there is none it does nothing.
 */
export function sdNotify(socketPath: string, state: string): void {
  if (process.platform !== "linux") return;
  const libc = openLibc();
  if (libc === undefined) return;
  const path = Buffer.from(socketPath, "utf8");
  if (path.length > 107) return;
  // A leading @ stands for the NUL of an abstract address.
  if (path[0] === 0x40) path[0] = 0;
  const address = Buffer.alloc(2 + path.length);
  address.writeUInt16LE(AF_UNIX, 0);
  path.copy(address, 2);
  const message = Buffer.from(state, "utf8");
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  if (fd < 0) return;
  libc.sendto(fd, ptr(message), message.length, 0, ptr(address), address.length);
  libc.close(fd);
}

function openLibc() {
  const musl = process.arch === "arm64" ? "libc.musl-aarch64.so.1" : "libc.musl-x86_64.so.1";
  for (const name of ["libc.so.6", musl]) {
    try {
      return dlopen(name, {
        socket: { args: ["i32", "i32", "i32"], returns: "i32" },
        sendto: { args: ["i32", "ptr", "usize", "i32", "ptr", "u32"], returns: "i64" },
        close: { args: ["i32"], returns: "i32" },
      }).symbols;
    } catch {
      continue;
    }
  }
  return undefined;
}
