import { fieldTokens, fieldValue, fieldValues, type Fields } from "./fields.ts";
import type { RequestHead, ResponseHead } from "./http1.ts";

/** The opening handshake of RFC 6455 section 4, both sides, as fields. */

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** Sixteen random bytes in base64. */
export function webSocketKey(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("base64");
}

export function acceptOf(key: string): string {
  return new Bun.CryptoHasher("sha1").update(key + GUID).digest("base64");
}

/** The client's fields, besides Host and credentials. */
export function upgradeFields(key: string, protocols: readonly string[]): string[] {
  const fields = ["Connection", "Upgrade", "Upgrade", "websocket"];
  fields.push("Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", key);
  if (protocols.length > 0) fields.push("Sec-WebSocket-Protocol", protocols.join(", "));
  return fields;
}

/** True when a request asks for this upgrade: both fields, any case, anywhere in their lists. */
export function wantsUpgrade(fields: Fields, token: string): boolean {
  return fieldTokens(fields, "connection").includes("upgrade") && fieldTokens(fields, "upgrade").includes(token);
}

/** The subprotocols a client offers, in its order and case. */
export function offeredProtocols(fields: Fields): string[] {
  return fieldValues(fields, "sec-websocket-protocol")
    .flatMap((line) => line.split(","))
    .map((name) => name.trim())
    .filter((name) => name !== "");
}

export type UpgradeRefusal = "not-get" | "not-http11" | "no-upgrade" | "version" | "key";

/** What keeps a request from being a WebSocket upgrade (RFC 6455 section 4.2.1); undefined: nothing. */
export function upgradeRefusal(head: RequestHead): UpgradeRefusal | undefined {
  if (head.method !== "GET") return "not-get";
  if (head.minor !== 1) return "not-http11";
  if (!wantsUpgrade(head.fields, "websocket")) return "no-upgrade";
  const versions = fieldValues(head.fields, "sec-websocket-version");
  if (versions.length !== 1 || versions[0] !== "13") return "version";
  const keys = fieldValues(head.fields, "sec-websocket-key");
  // Sixteen bytes are 22 characters and two signs of padding.
  return keys.length === 1 && /^[A-Za-z0-9+/]{22}==$/.test(keys[0]!) ? undefined : "key";
}

/** The fields of the 101 that answers such a request. */
export function acceptFields(head: RequestHead, protocol: string | undefined): string[] {
  const fields = ["Connection", "Upgrade", "Upgrade", "websocket"];
  fields.push("Sec-WebSocket-Accept", acceptOf(fieldValue(head.fields, "sec-websocket-key")!));
  if (protocol !== undefined) fields.push("Sec-WebSocket-Protocol", protocol);
  return fields;
}

/** What is wrong with a 101 (RFC 6455 section 4.1); undefined: it is what was asked for. */
export function answerFault(head: ResponseHead, key: string, protocols: readonly string[]): string | undefined {
  const { fields } = head;
  if (!fieldTokens(fields, "upgrade").includes("websocket")) return "its 101 names no Upgrade to websocket";
  if (!fieldTokens(fields, "connection").includes("upgrade")) return "its 101 lacks Connection: Upgrade";
  const accepts = fieldValues(fields, "sec-websocket-accept");
  if (accepts.length !== 1 || accepts[0] !== acceptOf(key)) return "its Sec-WebSocket-Accept is wrong";
  if (fieldValues(fields, "sec-websocket-extensions").some((value) => value !== ""))
    return "it switches an extension on that was not asked for";
  const chosen = fieldValues(fields, "sec-websocket-protocol");
  if (chosen.length === 0) return protocols.length === 0 ? undefined : `it does not speak ${protocols.join(" or ")}`;
  return chosen.length === 1 && protocols.includes(chosen[0]!)
    ? undefined
    : `it chose the protocol ${chosen.join(", ")}, which was not offered`;
}
