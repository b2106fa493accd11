import { readFileSync, readlinkSync } from "node:fs";
import type { SocketHandler } from "bun";
import {
  formatHostPort,
  formatListen,
  formatTarget,
  isPrivateName,
  parseIp,
  type ListenAddress,
  type TcpTarget,
} from "../core/address.ts";
import { after, before, now, type Deadline } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream, Stream, StreamFeed } from "../core/stream.ts";
import { adoptSocket, keepAlive, RETIRED, STREAM_HANDLERS, type StreamSocket } from "./socket.ts";
import type { Accept, Dialer, DialOptions, Listener, Trace } from "./transport.ts";

/** RFC 8305 section 8: the next address is tried after this long without an answer. */
const ATTEMPT_DELAY_MS = 250;

export interface TcpOptions {
  /** Only this IP version is dialled. */
  readonly family?: 4 | 6;
  /** Addresses to use instead of asking the resolver, by `host:port`. */
  readonly resolve?: ReadonlyMap<string, string>;
}

/**
 * Dials a host by name or address: resolves with the system's resolver, asks
 * `permit` about each address and dials the permitted ones staggered, IPv6
 * first where the resolver says so (Happy Eyeballs, RFC 8305).
 */
export function tcpDialer(settings: TcpOptions = {}): Dialer {
  return (target, options) => {
    if (target.kind === "udp") return Promise.reject(new SeikanError("usage", `no TCP to ${formatTarget(target)}`));
    if (target.kind === "unix") return dialUnix(target.path, options);
    const literal = givenAddress(target, settings);
    if (literal !== undefined && isOther(literal, settings.family)) return Promise.reject(otherFamily(literal));
    // The common case of a proxy's client that resolved already: no turn of the event loop is lost.
    if (literal !== undefined) return dialLiteral(target, literal, options);
    return lookUp(target, settings, options).then((addresses) => connectFirst(target, addresses, options));
  };
}

function dialLiteral(target: TcpTarget, literal: string, options: DialOptions): Promise<ByteStream> {
  try {
    return connectFirst(target, permitted(target, [literal], options), options);
  } catch (refusal) {
    return Promise.reject(toSeikanError(refusal));
  }
}

// --- names -----------------------------------------------------------------

/** One address for a target, for hops that want an address instead of a name. */
export async function resolveTarget(target: TcpTarget, settings: TcpOptions, options: DialOptions): Promise<string> {
  const addresses = await lookUp(target, settings, options);
  return addresses[0]!;
}

async function lookUp(target: TcpTarget, settings: TcpOptions, options: DialOptions): Promise<string[]> {
  const given = givenAddress(target, settings);
  if (given !== undefined && isOther(given, settings.family)) throw otherFamily(given);
  if (given !== undefined) return permitted(target, [given], options);
  const addresses = await resolveName(target.host, settings.family, options.deadline);
  options.trace?.({ kind: "lookup", host: target.host, addresses });
  return permitted(target, addresses, options);
}

/** The address that a target is or was given (`--resolve`); undefined for a name. */
function givenAddress(target: TcpTarget, settings: TcpOptions): string | undefined {
  const { resolve } = settings;
  const given = resolve === undefined || resolve.size === 0 ? undefined : resolve.get(formatTarget(target));
  return given ?? (parseIp(target.host) === undefined ? undefined : target.host);
}

/** An address of the IP version that is not dialled. */
function isOther(literal: string, family: 4 | 6 | undefined): boolean {
  return family !== undefined && literal.includes(":") !== (family === 6);
}

function otherFamily(literal: string): SeikanError {
  const [is, asked] = literal.includes(":") ? ["IPv6", "IPv4"] : ["IPv4", "IPv6"];
  return new SeikanError("name-not-found", `${literal} is an ${is} address, and only ${asked} is to be dialled`, {
    hints: [asked === "IPv4" ? "leave -4 away" : "leave -6 away"],
  });
}

async function resolveName(host: string, family: 4 | 6 | undefined, deadline: Deadline): Promise<string[]> {
  if (isPrivateName(host)) {
    throw new SeikanError("name-not-found", `${host} is known to the server of its agent only`, {
      hints: ["go through that server: --via wss://SERVER"],
    });
  }
  const asked = Bun.dns.lookup(host, { backend: "system", family: family ?? 0 });
  try {
    const records = await before(deadline, asked, "name-timeout", `no answer about the name ${host}`);
    if (records.length > 0) return interleave(records.map((record) => record.address));
  } catch (cause) {
    if (cause instanceof SeikanError) throw cause;
    throw nameError(host, family, cause);
  }
  throw nameError(host, family, undefined);
}

function nameError(host: string, family: 4 | 6 | undefined, cause: unknown): SeikanError {
  const code = (cause as { code?: string } | undefined)?.code ?? "";
  if (/AGAIN|TIMEOUT/.test(code)) {
    return new SeikanError("name-not-found", `cannot look up ${host}: the name server does not answer`, { cause });
  }
  const version = family === undefined ? "" : ` with an IPv${family} address`;
  return new SeikanError("name-not-found", `no such host: ${host}${version}`, {
    cause,
    hints: ["is the name spelt right, and known to this machine's resolver?"],
  });
}

/** Alternates the IP versions, the resolver's first choice in front (RFC 8305 section 4). */
function interleave(addresses: string[]): string[] {
  const unique = [...new Set(addresses)];
  const startsWithV6 = unique[0]!.includes(":");
  const first = unique.filter((address) => address.includes(":") === startsWithV6);
  const second = unique.filter((address) => address.includes(":") !== startsWithV6);
  return first
    .flatMap((address, index) => (second[index] === undefined ? [address] : [address, second[index]]))
    .concat(second.slice(first.length));
}

/** The addresses `permit` lets pass; its refusal when it lets none pass. */
function permitted(target: TcpTarget, addresses: string[], options: DialOptions): string[] {
  const permit = options.permit;
  if (permit === undefined) return addresses;
  let refusal: unknown;
  const allowed = addresses.filter((text) => {
    const address = parseIp(text);
    if (address === undefined) return false;
    try {
      permit(address, target);
      return true;
    } catch (error) {
      refusal ??= error;
      return false;
    }
  });
  if (allowed.length === 0) throw refusal ?? new SeikanError("address-denied", `no usable address for ${target.host}`);
  return allowed;
}

// --- connections -----------------------------------------------------------

function connectFirst(target: TcpTarget, addresses: string[], options: DialOptions): Promise<ByteStream> {
  const race = new Race(target, addresses, options);
  race.next();
  return race.result.promise;
}

/** Staggered attempts of which the first to open wins; later ones are closed. */
class Race {
  readonly result = Promise.withResolvers<ByteStream>();
  readonly #target: TcpTarget;
  readonly #addresses: string[];
  readonly #trace: Trace | undefined;
  #started = 0;
  #failed = 0;
  #over = false;
  #cancelStagger: (() => void) | undefined;
  readonly #cancelDeadline: () => void;

  constructor(target: TcpTarget, addresses: string[], { deadline, trace }: DialOptions) {
    this.#target = target;
    this.#addresses = addresses;
    this.#trace = trace;
    this.#cancelDeadline = after(deadline - now(), () => {
      const where = describe(target, addresses.slice(0, this.#started));
      this.#fail(new SeikanError("connect-timeout", `no answer from ${where} within the connect timeout`));
    });
  }

  next(): void {
    this.#cancelStagger?.();
    const address = this.#addresses[this.#started++];
    if (address === undefined || this.#over) return;
    if (this.#started < this.#addresses.length) {
      this.#cancelStagger = after(ATTEMPT_DELAY_MS, () => this.next());
    }
    const label = `tcp ${formatHostPort(address, this.#target.port)}`;
    // The promise only repeats what the handlers were told.
    Bun.connect<StreamFeed>({
      hostname: address,
      port: this.#target.port,
      allowHalfOpen: true,
      socket: DIAL_HANDLERS,
      data: new Attempt(this, label) as unknown as StreamFeed,
    }).catch(ignore);
  }

  opened(socket: StreamSocket, label: string): void {
    if (this.#over) {
      socket.data = RETIRED;
      socket.terminate();
      return;
    }
    this.#finish();
    keepAlive(socket);
    this.#trace?.({ kind: "tcp", address: label.replace(/^tcp /, "") });
    this.result.resolve(adoptSocket(socket, label));
  }

  failed(error: Error): void {
    this.#failed++;
    if (this.#over) return;
    if (this.#failed === this.#addresses.length)
      this.#fail(connectError(describe(this.#target, this.#addresses), error));
    else if (this.#failed === this.#started) this.next();
  }

  #fail(error: SeikanError): void {
    this.#finish();
    this.result.reject(error);
  }

  #finish(): void {
    this.#over = true;
    this.#cancelStagger?.();
    this.#cancelDeadline();
  }
}

class Attempt {
  readonly race: Race;
  readonly label: string;

  constructor(race: Race, label: string) {
    this.race = race;
    this.label = label;
  }
}

function attemptOf(socket: StreamSocket): Attempt {
  return socket.data as unknown as Attempt;
}

const DIAL_HANDLERS: SocketHandler<StreamFeed> = {
  ...STREAM_HANDLERS,
  open(socket) {
    const attempt = attemptOf(socket);
    attempt.race.opened(socket, attempt.label);
  },
  connectError(socket, error) {
    attemptOf(socket).race.failed(error);
  },
};

function ignore(): void {}

/** `host:port`, with the addresses tried where the host is a name. */
function describe(target: TcpTarget, addresses: readonly string[]): string {
  const name = formatTarget(target);
  return addresses.length === 1 && addresses[0] === target.host ? name : `${name} (${addresses.join(", ")})`;
}

function connectError(where: string, cause: Error): SeikanError {
  const code = (cause as { code?: string }).code ?? "";
  // Bun reports an unreachable host or network as a refusal, too.
  if (code === "ECONNREFUSED") {
    return new SeikanError("connect-refused", `connection refused by ${where}`, {
      cause,
      hints: ["is something listening on that port, and is the host reachable from here?"],
    });
  }
  return new SeikanError("connect-failed", `cannot connect to ${where}: ${code || cause.message}`, { cause });
}

async function dialUnix(path: string, options: DialOptions): Promise<ByteStream> {
  const { promise, resolve, reject } = Promise.withResolvers<ByteStream>();
  const connecting = Bun.connect<StreamFeed>({
    unix: path,
    allowHalfOpen: true,
    data: RETIRED,
    socket: {
      ...STREAM_HANDLERS,
      open(socket) {
        options.trace?.({ kind: "unix", address: path });
        resolve(adoptSocket(socket, `unix ${path}`));
      },
    },
  });
  connecting.catch((cause: Error) => reject(connectError(`unix:${path}`, cause)));
  const what = `unix:${path} does not accept within the connect timeout`;
  return before(options.deadline, promise, "connect-timeout", what);
}

// --- listening -------------------------------------------------------------

/** Listens; `localhost` binds the loopback address of both IP versions on one port. */
export function listen(address: ListenAddress, accept: Accept): Listener {
  if (address.kind !== "tcp") return listenOne(address, accept);
  if (address.host !== "localhost") return listenOne(address, accept);
  const v4 = listenOne({ ...address, host: "127.0.0.1" }, accept);
  try {
    const v6 = listenOne({ kind: "tcp", host: "::1", port: v4.port! }, accept);
    const close = () => (v4.close(), v6.close());
    return { addresses: [...v4.addresses, ...v6.addresses], port: v4.port, close };
  } catch (error) {
    // A machine without IPv6 has a loopback of one version only; a taken port is an error.
    if (!/EADDRINUSE/.test(String(toSeikanError(error).message))) return v4;
    v4.close();
    if (address.port === 0) return listen(address, accept);
    throw error;
  }
}

function listenOne(address: ListenAddress, accept: Accept): Listener {
  const socket: SocketHandler<StreamFeed> = { ...STREAM_HANDLERS, open: (opened) => admit(opened, accept) };
  const common = { allowHalfOpen: true, socket, data: RETIRED };
  try {
    if (address.kind === "unix") return unixListener(address.path, common);
    if (address.kind === "fd") {
      // Bun takes an inherited descriptor though its types do not say so.
      const inherited = Bun.listen({ ...common, fd: address.fd } as never);
      const bound = inheritedAddress(address.fd);
      return { addresses: [bound ?? `fd:${address.fd}`], port: undefined, close: () => inherited.stop() };
    }
    const listener = Bun.listen<StreamFeed>({ ...common, hostname: address.host, port: address.port });
    const addresses = [formatHostPort(address.host, listener.port)];
    return { addresses, port: listener.port, close: () => listener.stop() };
  } catch (cause) {
    throw listenError(address, cause);
  }
}

/** What an inherited TCP descriptor is bound to, where the kernel tells (Linux): Bun does not. */
function inheritedAddress(fd: number): string | undefined {
  if (process.platform !== "linux") return undefined;
  try {
    const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1];
    const rows = ["tcp", "tcp6"].flatMap((table) => readFileSync(`/proc/net/${table}`, "latin1").split("\n"));
    const local = rows.map((row) => row.trim().split(/\s+/)).find((columns) => columns[9] === inode)?.[1];
    const [address, port] = local?.split(":") ?? [];
    return address === undefined ? undefined : formatHostPort(kernelAddress(address), Number.parseInt(port!, 16));
  } catch {
    return undefined;
  }
}

/** `0100007F` is 127.0.0.1: words of four bytes in the machine's order, which is little-endian wherever Bun runs. */
function kernelAddress(hex: string): string {
  const bytes = Buffer.from(hex, "hex");
  bytes.swap32();
  if (bytes.length === 4) return bytes.join(".");
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  return parseIp(groups.join(":"))!.toString();
}

function admit(socket: StreamSocket, accept: Accept): void {
  const host = plainAddress(socket.remoteAddress);
  const port = host === "" ? 0 : socket.remotePort;
  if (host !== "") keepAlive(socket);
  const stream: Stream = adoptSocket(socket, host === "" ? "unix client" : `tcp ${formatHostPort(host, port)}`);
  accept(stream, { address: host, port });
}

/** The peer's address; an IPv4 client of an IPv6 listener as IPv4. */
function plainAddress(address: string | undefined): string {
  if (address === undefined || address === "") return "";
  return address.startsWith("::ffff:") ? address.slice(7) : address;
}

type ListenCommon = { allowHalfOpen: boolean; socket: SocketHandler<StreamFeed>; data: StreamFeed };

function unixListener(path: string, common: ListenCommon): Listener {
  const listener = Bun.listen<StreamFeed>({ ...common, unix: path });
  return { addresses: [`unix:${path}`], port: undefined, close: () => listener.stop() };
}

function listenError(address: ListenAddress, cause: unknown): SeikanError {
  const code = (cause as { code?: string }).code ?? (cause instanceof Error ? cause.message : String(cause));
  const where = formatListen(address);
  const hints: Record<string, string> = {
    EADDRINUSE: "something else listens there: stop it, or choose another port (0 asks for any)",
    EACCES: "ports below 1024 need a privilege: choose a higher one or use socket activation",
    EADDRNOTAVAIL: "this machine has no such address",
  };
  const hint = hints[code];
  return new SeikanError("listen-failed", `cannot listen on ${where}: ${code}`, {
    cause,
    ...(hint === undefined ? {} : { hints: [hint] }),
  });
}
