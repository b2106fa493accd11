import { canonicalHost, parseIp, tcpTarget, type TcpTarget } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";

/**
 * SOCKS 4, 4a and 5 messages (RFC 1928, RFC 1929, openssh.com/txt/socks4.protocol).
 *
 * Each decoder gets what has arrived and answers undefined while that is too
 * little. Only a malformed message throws.
 */

export interface Decoded<T> {
  readonly value: T;
  /** How many bytes the message took. */
  readonly length: number;
}

export type Decode<T> = (bytes: Uint8Array) => Decoded<T> | undefined;

export const NO_AUTH = 0x00;
export const USER_PASSWORD = 0x02;
export const NO_ACCEPTABLE_METHOD = 0xff;

export type SocksCommand = "connect" | "bind" | "udp-associate";

export interface SocksRequest {
  readonly version: 4 | 5;
  readonly command: SocksCommand;
  readonly target: TcpTarget;
  /** SOCKS 4 has a user id instead of authentication. */
  readonly userId: string;
}

/** RFC 1928 section 6. */
export const SOCKS5_REPLY = {
  succeeded: 0,
  failure: 1,
  denied: 2,
  "network-unreachable": 3,
  "host-unreachable": 4,
  refused: 5,
  "ttl-expired": 6,
  "command-unsupported": 7,
  "address-unsupported": 8,
} as const;

export type Socks5Reply = keyof typeof SOCKS5_REPLY;

const REPLY_SENTENCES: readonly string[] = [
  "succeeded",
  "general failure",
  "connection not allowed by its rules",
  "network unreachable",
  "host unreachable",
  "connection refused",
  "TTL expired",
  "command not supported",
  "address type not supported",
];

export function socks5Sentence(code: number): string {
  return REPLY_SENTENCES[code] ?? `code ${code}`;
}

function malformed(what: string): SeikanError {
  return new SeikanError("hop-protocol", `malformed SOCKS message: ${what}`);
}

const decoder = new TextDecoder();
const encoder = new TextEncoder();

// --- SOCKS 5, both sides ---------------------------------------------------

/** The methods a client offers. */
export const decodeGreeting: Decode<Uint8Array> = (bytes) => {
  if (bytes.length < 2) return undefined;
  const length = 2 + bytes[1]!;
  return bytes.length < length ? undefined : { value: bytes.subarray(2, length), length };
};

export function encodeGreeting(methods: readonly number[]): Uint8Array {
  return Uint8Array.of(5, methods.length, ...methods);
}

export const decodeMethodChoice: Decode<number> = (bytes) => {
  if (bytes.length >= 1 && bytes[0] !== 5) throw malformed(`the proxy answers with version ${bytes[0]}`);
  return bytes.length < 2 ? undefined : { value: bytes[1]!, length: 2 };
};

export interface SocksCredentials {
  readonly user: string;
  readonly password: string;
}

/** RFC 1929 section 2. */
export const decodeCredentials: Decode<SocksCredentials> = (bytes) => {
  if (bytes.length >= 1 && bytes[0] !== 1) throw malformed(`credentials version ${bytes[0]}`);
  if (bytes.length < 2) return undefined;
  const userEnd = 2 + bytes[1]!;
  if (bytes.length < userEnd + 1) return undefined;
  const length = userEnd + 1 + bytes[userEnd]!;
  if (bytes.length < length) return undefined;
  const user = decoder.decode(bytes.subarray(2, userEnd));
  return { value: { user, password: decoder.decode(bytes.subarray(userEnd + 1, length)) }, length };
};

export function encodeCredentials(credentials: SocksCredentials): Uint8Array {
  const user = encoder.encode(credentials.user);
  const password = encoder.encode(credentials.password);
  if (user.length > 255 || password.length > 255)
    throw new SeikanError("usage", "SOCKS user and password have at most 255 bytes");
  return Uint8Array.of(1, user.length, ...user, password.length, ...password);
}

export const decodeCredentialsReply: Decode<boolean> = (bytes) =>
  bytes.length < 2 ? undefined : { value: bytes[1] === 0, length: 2 };

const COMMANDS: Readonly<Record<number, SocksCommand>> = { 1: "connect", 2: "bind", 3: "udp-associate" };

export const decodeRequest: Decode<SocksRequest> = (bytes) => {
  if (bytes.length >= 1 && bytes[0] !== 5) throw malformed(`request version ${bytes[0]}`);
  const address = decodeAddress(bytes, 3);
  if (address === undefined) return undefined;
  const command = COMMANDS[bytes[1]!];
  if (command === undefined) throw malformed(`command ${bytes[1]}`);
  const host = canonicalHost(address.value.host);
  if (host === undefined) throw malformed("the host is no host");
  if (command === "connect" && address.value.port === 0) throw malformed("port 0");
  return {
    value: { version: 5, command, target: tcpTarget(host, address.value.port), userId: "" },
    length: address.length,
  };
};

export function encodeRequest(target: TcpTarget): Uint8Array {
  return Uint8Array.of(5, 1, 0, ...encodeAddress(target.host, target.port));
}

const UNBOUND = { host: "0.0.0.0", port: 0 };

export function encodeReply(reply: Socks5Reply, bound: { host: string; port: number } = UNBOUND): Uint8Array {
  return Uint8Array.of(5, SOCKS5_REPLY[reply], 0, ...encodeAddress(bound.host, bound.port));
}

/** One datagram of a client: where to, and what. Fragments and malformed ones are undefined: they are dropped (RFC 1928 section 7). */
export function decodeUdpRequest(bytes: Uint8Array): { target: TcpTarget; payload: Uint8Array } | undefined {
  if (bytes.length < 4 || bytes[2] !== 0 || ![1, 3, 4].includes(bytes[3]!)) return undefined;
  const address = decodeAddress(bytes, 3);
  const host = address === undefined ? undefined : canonicalHost(address.value.host);
  if (address === undefined || host === undefined || address.value.port === 0) return undefined;
  return { target: tcpTarget(host, address.value.port), payload: bytes.subarray(address.length) };
}

/** A datagram for the client: from where, and what. */
export function encodeUdpReply(source: TcpTarget, payload: Uint8Array): Uint8Array {
  const header = [0, 0, 0, ...encodeAddress(source.host, source.port)];
  const bytes = new Uint8Array(header.length + payload.length);
  bytes.set(header);
  bytes.set(payload, header.length);
  return bytes;
}

/** The reply's code; its bound address is skipped. */
export const decodeReply: Decode<number> = (bytes) => {
  if (bytes.length >= 1 && bytes[0] !== 5) throw malformed(`the proxy answers with version ${bytes[0]}`);
  // Some servers close right behind a refusal and leave the address out.
  if (bytes.length >= 2 && bytes[1] !== 0) return { value: bytes[1]!, length: bytes.length };
  const address = decodeAddress(bytes, 3);
  return address === undefined ? undefined : { value: 0, length: address.length };
};

function decodeAddress(bytes: Uint8Array, at: number): Decoded<{ host: string; port: number }> | undefined {
  if (bytes.length < at + 2) return undefined;
  const type = bytes[at]!;
  const start = type === 3 ? at + 2 : at + 1;
  const size = type === 1 ? 4 : type === 4 ? 16 : type === 3 ? bytes[at + 1]! : -1;
  if (size < 0) throw malformed(`address type ${type}`);
  const length = start + size + 2;
  if (bytes.length < length) return undefined;
  const raw = bytes.subarray(start, start + size);
  const host = type === 3 ? bareOrBracketed(decoder.decode(raw)) : formatIp(raw);
  return { value: { host, port: (bytes[length - 2]! << 8) | bytes[length - 1]! }, length };
}

/** Clients send IPv6 addresses as names, too. */
function bareOrBracketed(name: string): string {
  return name.includes(":") && !name.startsWith("[") ? `[${name}]` : name;
}

function formatIp(raw: Uint8Array): string {
  if (raw.length === 4) return raw.join(".");
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) groups.push(((raw[i]! << 8) | raw[i + 1]!).toString(16));
  return `[${groups.join(":")}]`;
}

function encodeAddress(host: string, port: number): number[] {
  const ip = parseIp(host);
  const name = ip === undefined ? encoder.encode(host) : undefined;
  if (name !== undefined && name.length > 255) throw new SeikanError("usage", `host name too long for SOCKS: ${host}`);
  const address = ip !== undefined ? [ip.kind() === "ipv4" ? 1 : 4, ...ip.toByteArray()] : [3, name!.length, ...name!];
  return [...address, port >> 8, port & 255];
}

// --- SOCKS 4 and 4a --------------------------------------------------------

const SOCKS4_FIELD = 512;

export const decodeRequest4: Decode<SocksRequest> = (bytes) => {
  if (bytes.length < 9) return undefined;
  const userEnd = bytes.indexOf(0, 8);
  if (userEnd < 0) return tooLong(bytes.length - 8);
  const command = COMMANDS[bytes[1]!];
  if (command === undefined || command === "udp-associate") throw malformed(`command ${bytes[1]}`);
  const port = (bytes[2]! << 8) | bytes[3]!;
  const userId = decoder.decode(bytes.subarray(8, userEnd));
  // 4a: an address 0.0.0.x says that a name follows.
  const named = bytes[4] === 0 && bytes[5] === 0 && bytes[6] === 0 && bytes[7] !== 0;
  const hostEnd = named ? bytes.indexOf(0, userEnd + 1) : userEnd;
  if (hostEnd < 0) return tooLong(bytes.length - userEnd);
  const text = named
    ? bareOrBracketed(decoder.decode(bytes.subarray(userEnd + 1, hostEnd)))
    : bytes.subarray(4, 8).join(".");
  const host = canonicalHost(text);
  if (host === undefined) throw malformed("the host is no host");
  if (port === 0) throw malformed("port 0");
  return { value: { version: 4, command, target: tcpTarget(host, port), userId }, length: hostEnd + 1 };
};

function tooLong(length: number): undefined {
  if (length > SOCKS4_FIELD) throw malformed(`a field longer than ${SOCKS4_FIELD} bytes`);
  return undefined;
}

export function encodeRequest4(target: TcpTarget, userId: string): Uint8Array {
  if (userId.includes("\0")) throw new SeikanError("usage", "a SOCKS 4 user id holds no NUL");
  const ip = parseIp(target.host);
  const v4 = ip?.kind() === "ipv4" ? ip.toByteArray() : undefined;
  const name = v4 === undefined ? [...encoder.encode(target.host), 0] : [];
  const address = v4 ?? [0, 0, 0, 1];
  return Uint8Array.of(4, 1, target.port >> 8, target.port & 255, ...address, ...encoder.encode(userId), 0, ...name);
}

export function encodeReply4(granted: boolean): Uint8Array {
  return Uint8Array.of(0, granted ? 90 : 91, 0, 0, 0, 0, 0, 0);
}

/** 90 is granted; 91 to 93 are refusals. */
export const decodeReply4: Decode<number> = (bytes) => {
  if (bytes.length >= 1 && bytes[0] !== 0) throw malformed(`the proxy answers with version ${bytes[0]}`);
  return bytes.length < 8 ? undefined : { value: bytes[1]!, length: 8 };
};
