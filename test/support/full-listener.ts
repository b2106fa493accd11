import { dlopen, ptr } from "bun:ffi";
import { dialRaw, type RawAddress, type RawSocket } from "./raw.ts";

/** Listeners that never accept exist by way of the C library only. */
export const CAN_LISTEN_RAW = process.platform === "linux";

const AF = { unix: 1, inet: 2, inet6: 10 } as const;

function openLibrary() {
  return dlopen("libc.so.6", {
    socket: { args: ["i32", "i32", "i32"], returns: "i32" },
    bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
    listen: { args: ["i32", "i32"], returns: "i32" },
    getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
  }).symbols;
}

/** A listening descriptor of this process that nobody accepts from. */
export class DeafListener implements Disposable {
  readonly fd: number;
  readonly port: number;
  readonly #library = openLibrary();

  constructor(address: string, backlog: number) {
    const name = socketAddress(address);
    const { socket, bind, listen, getsockname } = this.#library;
    this.fd = socket(name[0]!, 1, 0);
    if (bind(this.fd, ptr(name), name.length) !== 0 || listen(this.fd, backlog) !== 0)
      throw new Error(`cannot listen on ${address}`);
    const found = Buffer.alloc(128);
    const length = Buffer.from(Uint32Array.of(found.length).buffer);
    getsockname(this.fd, ptr(found), ptr(length));
    this.port = found.readUInt16BE(2);
  }

  [Symbol.dispose](): void {
    this.#library.close(this.fd);
  }
}

/** `127.0.0.1`, `::1` or a path, as the kernel wants it; any port. */
function socketAddress(address: string): Buffer {
  const name = Buffer.alloc(address.startsWith("/") ? 110 : address.includes(":") ? 28 : 16);
  if (address.startsWith("/")) {
    name.writeUInt16LE(AF.unix);
    name.write(address, 2);
  } else if (address.includes(":")) {
    name.writeUInt16LE(AF.inet6);
    name[23] = 1;
  } else {
    name.writeUInt16LE(AF.inet);
    Buffer.from(address.split(".").map(Number)).copy(name, 4);
  }
  return name;
}

/** A listener whose queue is full: who connects now gets no answer. */
export class FullListener implements AsyncDisposable {
  readonly port: number;
  readonly #listener: DeafListener;
  readonly #waiting: RawSocket;

  private constructor(listener: DeafListener, waiting: RawSocket) {
    this.port = listener.port;
    this.#listener = listener;
    this.#waiting = waiting;
  }

  /** `127.0.0.1`, `::1` or a path. */
  static async on(address: string): Promise<FullListener> {
    const listener = new DeafListener(address, 0);
    const place: RawAddress = address.startsWith("/") ? { unix: address } : { port: listener.port, hostname: address };
    return new FullListener(listener, await dialRaw(place));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#waiting.reset();
    this.#listener[Symbol.dispose]();
  }
}
