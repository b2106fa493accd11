import { SeikanError } from "../core/errors.ts";

/**
 * HTTP fields as they came over the wire: name, value, name, value, … in order
 * and case. Text is latin1, one character a byte.
 */
export type Fields = readonly string[];

/** All values of a field, in order. `name` is lower case. */
export function fieldValues(fields: Fields, name: string): string[] {
  const values: string[] = [];
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const candidate = fields[i]!;
    if (candidate.length === name.length && candidate.toLowerCase() === name) values.push(fields[i + 1]!);
  }
  return values;
}

/** The first value of a field. `name` is lower case. */
export function fieldValue(fields: Fields, name: string): string | undefined {
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const candidate = fields[i]!;
    if (candidate.length === name.length && candidate.toLowerCase() === name) return fields[i + 1]!;
  }
  return undefined;
}

const NO_TOKENS: readonly string[] = [];

/** The members of a comma-separated field, lower case, over all its lines. */
export function fieldTokens(fields: Fields, name: string): readonly string[] {
  let tokens: string[] | undefined;
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const candidate = fields[i]!;
    if (candidate.length !== name.length || candidate.toLowerCase() !== name) continue;
    for (const member of fields[i + 1]!.split(",")) {
      const token = member.trim().toLowerCase();
      if (token !== "") (tokens ??= []).push(token);
    }
  }
  return tokens ?? NO_TOKENS;
}

export function withoutFields(fields: Fields, drop: (name: string) => boolean): string[] {
  const kept: string[] = [];
  for (let i = 0; i + 1 < fields.length; i += 2) {
    if (!drop(fields[i]!.toLowerCase())) kept.push(fields[i]!, fields[i + 1]!);
  }
  return kept;
}

/** RFC 9110 section 7.6.1, and what the proxy protocol itself uses (section 11.7). */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "te",
  "transfer-encoding",
  "upgrade",
  "http2-settings",
  "proxy-authorization",
  "proxy-authenticate",
  "proxy-authentication-info",
  // Ours: the agent that shall dial.
  "seikan-agent",
]);

/** Fields `Connection` may not nominate away: framing and routing depend on them. */
const NOT_NOMINABLE: ReadonlySet<string> = new Set(["host", "content-length", "transfer-encoding"]);

/** True when `Connection` asks to drop a field that the message cannot do without. */
export function nominatesFraming(fields: Fields): boolean {
  return fieldTokens(fields, "connection").some((name) => NOT_NOMINABLE.has(name));
}

/** What may go on to the next hop: no hop-by-hop field, none that `Connection` nominates, none of `more`. */
export function endToEnd(fields: Fields, more?: (name: string) => boolean): string[] {
  const nominated = fieldTokens(fields, "connection");
  return withoutFields(
    fields,
    (name) => HOP_BY_HOP.has(name) || (nominated.length > 0 && nominated.includes(name)) || more?.(name) === true,
  );
}

const NOT_IN_TRAILERS: ReadonlySet<string> = new Set([
  ...HOP_BY_HOP,
  "host",
  "content-length",
  "trailer",
  "authorization",
  "set-cookie",
  "cookie",
  "cache-control",
  "expect",
  "max-forwards",
  "content-encoding",
  "content-type",
  "content-range",
  "via",
]);

/** Trailers less everything that frames, routes or authenticates (RFC 9110 section 6.5.1). */
export function safeTrailers(trailers: Fields, head: Fields): string[] {
  const nominated = new Set(fieldTokens(head, "connection"));
  return withoutFields(trailers, (name) => NOT_IN_TRAILERS.has(name) || nominated.has(name));
}

/** A start line and fields as bytes, with the empty line. */
export function formatHead(startLine: string, fields: Fields): Buffer {
  let head = `${startLine}\r\n`;
  for (let i = 0; i + 1 < fields.length; i += 2) {
    if (!isFieldValue(fields[i + 1]!))
      throw new SeikanError("bad-request", `the field ${fields[i]} has a value that no field can have`);
    head += `${fields[i]}: ${fields[i + 1]}\r\n`;
  }
  return Buffer.from(`${head}\r\n`, "latin1");
}

/** True when text can stand in a field line without changing the message around it. */
export function isFieldValue(text: string): boolean {
  return /^[\t\x20-\x7e\x80-\xff]*$/.test(text);
}

export function isFieldName(text: string): boolean {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(text);
}
