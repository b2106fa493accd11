import { expect } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import type { Decode, Decoded } from "../../src/wire/socks.ts";

/** Decodes the same bytes whole and as they grow byte by byte; too few must be `undefined`, bytes behind must not matter. */
export function decodeGrowing<T>(decode: Decode<T>, bytes: Uint8Array): Decoded<T> {
  const decoded = decode(bytes);
  if (decoded === undefined) throw new Error(`undecided about ${Buffer.from(bytes).toString("hex")}`);
  for (let length = 0; length < decoded.length; length++) {
    expect({ length, decoded: decode(bytes.slice(0, length)) }).toEqual({ length, decoded: undefined });
  }
  const padded = Buffer.concat([bytes.subarray(0, decoded.length), Buffer.from("behind it")]);
  expect(decode(padded)).toEqual(decoded);
  return decoded;
}

/** The code of what this throws. */
export function codeOf(work: () => unknown): string {
  try {
    return `no error but ${Bun.inspect(work())}`;
  } catch (error) {
    if (error instanceof SeikanError) return error.code;
    throw error;
  }
}
