/**
 * The server name in a TLS ClientHello (RFC 6066 section 3): `undefined` while
 * the hello is incomplete, an empty text when it names none or is no hello.
 */
export function serverNameOf(bytes: Uint8Array): string | undefined {
  if (bytes.length < 5) return undefined;
  if (bytes[0] !== 22) return "";
  const length = 5 + word(bytes, 3);
  if (bytes.length < length) return undefined;
  if (bytes[5] !== 1) return "";
  // Record header 5, handshake header 4, version 2, random 32.
  let at = 5 + 4 + 2 + 32;
  at += 1 + (bytes[at] ?? 0);
  at += 2 + word(bytes, at);
  at += 1 + (bytes[at] ?? 0);
  const end = Math.min(length, at + 2 + word(bytes, at));
  at += 2;
  while (at + 4 <= end) {
    const size = word(bytes, at + 2);
    if (word(bytes, at) === 0)
      return new TextDecoder("latin1").decode(bytes.subarray(at + 9, at + 9 + word(bytes, at + 7)));
    at += 4 + size;
  }
  return "";
}

function word(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}
