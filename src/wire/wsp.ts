import * as v from "valibot";
import { SeikanError } from "../core/errors.ts";
import { fieldValues, isFieldName, isFieldValue, type Fields } from "./fields.ts";

/**
 * The messages of wsp, a reverse HTTP proxy over pooled WebSockets
 * (github.com/root-gg/wsp, docs/wsp.md): the heads of requests and responses
 * as JSON with Go's field names, their bodies as binary messages.
 */

/** The header that says where a request shall go. */
export const DESTINATION_FIELD = "X-PROXY-DESTINATION";
export const SECRET_FIELD = "X-SECRET-KEY";
/** The server could not do it. */
export const SERVER_ERROR = 526;
/** The client could not do it. */
export const CLIENT_ERROR = 527;
/** Longest head in a message. */
export const HEAD_BYTES = 1024 * 1024;

const Header = v.pipe(
  v.nullish(v.record(v.string(), v.nullish(v.array(v.string()), [])), {}),
  v.transform((header) => header ?? {}),
);
const RequestShape = v.object({
  /** They become a request line: nothing in them may end it. */
  Method: v.pipe(v.string(), v.regex(/^[\x21-\x7e]{1,32}$/)),
  // oxlint-disable-next-line no-control-regex
  URL: v.pipe(v.string(), v.maxLength(64 * 1024), v.regex(/^[^\x00-\x1f\x7f]*$/)),
  Header,
  ContentLength: v.optional(v.pipe(v.number(), v.integer()), 0),
});
const ResponseShape = v.object({
  StatusCode: v.pipe(v.number(), v.integer(), v.minValue(200), v.maxValue(599)),
  Header,
  ContentLength: v.optional(v.pipe(v.number(), v.integer()), -1),
});

export interface WspRequest {
  readonly method: string;
  readonly url: string;
  readonly fields: Fields;
  /** Undefined: it is not known beforehand. */
  readonly length: number | undefined;
}

export interface WspResponse {
  readonly status: number;
  readonly fields: Fields;
  readonly length: number | undefined;
}

/** The first message of a client: who it is, and how many idle connections it keeps. */
export interface Greeting {
  readonly id: string;
  readonly size: number;
}

export function formatGreeting({ id, size }: Greeting): string {
  return `${id}_${size}`;
}

/** The size is behind the last underscore, so that ids may hold some. */
export function parseGreeting(text: string): Greeting {
  const match = /^(.{1,200})_(\d{1,4})$/s.exec(text);
  if (match === null) throw malformed("greeting", "expected ID_SIZE");
  return { id: match[1]!, size: Number(match[2]) };
}

export function formatRequest({ method, url, fields, length }: WspRequest): string {
  return JSON.stringify({ Method: method, URL: url, Header: toHeader(fields), ContentLength: length ?? -1 });
}

export function parseRequest(text: string): WspRequest {
  const { Method, URL, Header: header, ContentLength } = parse(RequestShape, text, "request");
  // A fragment is nobody's but the browser's (RFC 9110 section 4.2.5).
  const url = URL.toWellFormed()
    .replace(/#.*$/s, "")
    .replace(/[^\x21-\x7e]/gu, encodeURIComponent);
  return { method: Method, url, fields: fromHeader(header), length: lengthOf(ContentLength) };
}

export function formatResponse({ status, fields, length }: WspResponse): string {
  return JSON.stringify({ StatusCode: status, Header: toHeader(fields), ContentLength: length ?? -1 });
}

export function parseResponse(text: string): WspResponse {
  const { StatusCode, Header: header, ContentLength } = parse(ResponseShape, text, "response");
  return { status: StatusCode, fields: fromHeader(header), length: lengthOf(ContentLength) };
}

function lengthOf(length: number): number | undefined {
  return length < 0 ? undefined : length;
}

function parse<S extends v.GenericSchema>(schema: S, text: string, what: string): v.InferOutput<S> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw malformed(what, "it is no JSON");
  }
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw malformed(what, `${v.getDotPath(issue) ?? ""} ${issue.message}`.trim());
}

function malformed(what: string, why: string): SeikanError {
  return new SeikanError("peer-protocol", `malformed wsp ${what}: ${why}`);
}

/** Go's canonical spelling: `Content-Type`. */
function canonicalName(name: string): string {
  return name.toLowerCase().replace(/(^|-)[a-z]/g, (start) => start.toUpperCase());
}

/** Our values are bytes, one character each; JSON has text. */
function toText(value: string): string {
  return Buffer.from(value, "latin1").toString("utf8");
}

function toBytes(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}

function toHeader(fields: Fields): Record<string, string[]> {
  const header: Record<string, string[]> = {};
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = canonicalName(fields[i]!);
    header[name] ??= fieldValues(fields, fields[i]!.toLowerCase()).map(toText);
  }
  return header;
}

function fromHeader(header: Record<string, readonly string[] | null | undefined>): string[] {
  const fields: string[] = [];
  for (const [name, values] of Object.entries(header)) {
    for (const text of values ?? []) {
      const value = toBytes(text);
      if (!isFieldName(name) || !isFieldValue(value)) throw malformed("head", `the field ${name} cannot be one`);
      fields.push(name, value);
    }
  }
  return fields;
}
