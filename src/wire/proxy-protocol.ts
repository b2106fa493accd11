import ipaddr from "ipaddr.js";
import { SeikanError } from "../core/errors.ts";
import { parseIp } from "../core/address.ts";
import type { Decoded } from "./socks.ts";

/** The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt). */

export interface ProxiedPeer {
  /** The real client; undefined for LOCAL and UNKNOWN: then the connection speaks for itself. */
  readonly source: { readonly address: string; readonly port: number } | undefined;
}

const SIGNATURE = Buffer.from("\r\n\r\n\0\r\nQUIT\n", "latin1");
const V1_LONGEST = 107;

function malformed(what: string): SeikanError {
  return new SeikanError("bad-request", `malformed PROXY protocol header: ${what}`);
}

/** Undefined while the header is incomplete; throws when these bytes are none. */
export function decodeProxyHeader(bytes: Uint8Array): Decoded<ProxiedPeer> | undefined {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const start = Math.min(view.length, SIGNATURE.length);
  if (view.subarray(0, start).equals(SIGNATURE.subarray(0, start))) {
    return view.length < 16 ? undefined : decodeV2(view);
  }
  const prefix = "PROXY ".slice(0, view.length);
  if (view.toString("latin1", 0, prefix.length) !== prefix) throw malformed("no signature");
  return decodeV1(view);
}

function decodeV1(view: Buffer): Decoded<ProxiedPeer> | undefined {
  const end = view.indexOf("\r\n");
  if (end < 0 || end + 2 > V1_LONGEST) {
    if (view.length >= V1_LONGEST) throw malformed("line too long");
    return undefined;
  }
  const [, family, source, , port, ownPort] = view.toString("latin1", 0, end).split(" ");
  const length = end + 2;
  if (family === "UNKNOWN") return { value: { source: undefined }, length };
  const isAddress =
    family === "TCP4"
      ? ipaddr.IPv4.isValidFourPartDecimal(source ?? "")
      : family === "TCP6" && ipaddr.IPv6.isValid(source ?? "");
  if (!isAddress || !isPort(port) || !isPort(ownPort)) throw malformed("no address");
  return { value: { source: { address: parseIp(source!)!.toString(), port: Number(port) } }, length };
}

function isPort(text: string | undefined): boolean {
  return /^\d{1,5}$/.test(text ?? "") && Number(text) <= 65535;
}

function decodeV2(view: Buffer): Decoded<ProxiedPeer> | undefined {
  const length = 16 + view.readUInt16BE(14);
  if (view[12]! >> 4 !== 2) throw malformed(`version ${view[12]! >> 4}`);
  if (view.length < length) return undefined;
  const command = view[12]! & 15;
  const family = view[13]! >> 4;
  if (command > 1) throw malformed(`command ${command}`);
  if (command === 0 || (family !== 1 && family !== 2)) return { value: { source: undefined }, length };
  const size = family === 1 ? 4 : 16;
  if (length < 16 + size * 2 + 4) throw malformed("addresses are cut");
  const raw = view.subarray(16, 16 + size);
  const address = size === 4 ? raw.join(".") : v6Text(raw);
  return { value: { source: { address, port: view.readUInt16BE(16 + size * 2) } }, length };
}

function v6Text(raw: Buffer): string {
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) groups.push(raw.readUInt16BE(i).toString(16));
  return parseIp(groups.join(":"))!.toString();
}

/** A version 2 header for a TCP connection; LOCAL where the client is unknown. */
export function encodeProxyHeader(source: { address: string; port: number } | undefined): Uint8Array {
  const ip = source === undefined ? undefined : parseIp(source.address);
  if (source === undefined || ip === undefined) return Buffer.concat([SIGNATURE, Buffer.from([0x20, 0, 0, 0])]);
  const address = Buffer.from(ip.toByteArray());
  const isV4 = address.length === 4;
  const ports = Buffer.alloc(4);
  ports.writeUInt16BE(source.port, 0);
  const body = Buffer.concat([address, Buffer.alloc(address.length), ports]);
  const head = Buffer.from([0x21, isV4 ? 0x11 : 0x21, 0, body.length]);
  return Buffer.concat([SIGNATURE, head, body]);
}
