import { canonicalHost, formatTarget, parsePort, tcpTarget, type TcpTarget } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import { endToEnd, fieldTokens, fieldValue, nominatesFraming, withoutFields } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";

/** An absolute-form request, taken apart. */
export interface ForwardTarget {
  readonly tcp: TcpTarget;
  /** TLS is spoken with it. */
  readonly isSecure: boolean;
  /** Host as it goes to the origin: without the default port. */
  readonly host: string;
  /** Path and query byte for byte, `/` where there was none. */
  readonly path: string;
}

/** Absolute-form `http://host[:port]/path` (RFC 9112 section 3.2.2), `https://` only where that is taken; throws on anything else. */
export function parseForwardTarget(head: RequestHead, takesHttps: boolean = false): ForwardTarget {
  const match = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)([^#]*)$/i.exec(head.target);
  if (match === null) throw new SeikanError("bad-request", "the request target is no absolute http:// URL");
  const isSecure = match[1]!.toLowerCase() === "https";
  if (isSecure ? !takesHttps : match[1]!.toLowerCase() !== "http") {
    throw new SeikanError("request-unsupported", `this proxy forwards http:// only, not ${match[1]}://`, {
      hints: ["clients reach https:// through CONNECT"],
    });
  }
  const given = match[2]!;
  if (given.includes("@")) throw new SeikanError("bad-request", "a request target carries no user or password");
  const standard = isSecure ? 443 : 80;
  const parts = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(given);
  const host = parts === null ? undefined : canonicalHost(parts[1]!);
  const port = parts?.[2] === undefined || parts[2] === "" ? standard : parsePort(parts[2]);
  if (host === undefined || port === undefined)
    throw new SeikanError("bad-request", "the request target has no valid host");
  const tcp = tcpTarget(host, port);
  const rest = match[3]!;
  const path = rest === "" ? (head.method === "OPTIONS" ? "*" : "/") : rest.startsWith("?") ? `/${rest}` : rest;
  const authority = formatTarget(tcp);
  return { tcp, isSecure, host: port === standard ? authority.slice(0, authority.lastIndexOf(":")) : authority, path };
}

/**
 * The fields of a request as they go on to `host` (RFC 9110 section 7.6): end
 * to end ones first, less what `drop` names, then what this hop adds. Throws on
 * what is not forwarded.
 */
export function forwardedFields(
  head: RequestHead,
  host: string,
  via: string | undefined,
  drop?: (name: string) => boolean,
): string[] {
  const { method, fields, framing, minor } = head;
  if (nominatesFraming(fields))
    throw new SeikanError("bad-request", "Connection names a field that frames the message");
  if (method === "TRACE") throw new SeikanError("method-refused", "TRACE is not forwarded");
  checkExpect(head);
  if (via !== undefined && fieldTokens(fields, "via").some((entry) => entry.split(/\s+/)[1] === via.toLowerCase())) {
    throw new SeikanError("loop", "this request has been here before (Via)");
  }
  const dropsLength = framing === "chunked";
  const kept = endToEnd(
    fields,
    (name) => name === "host" || (name === "content-length" && dropsLength) || drop?.(name) === true,
  );
  const forwarded = ["Host", host, ...countedDown(head, kept)];
  if (via !== undefined) forwarded.push("Via", `1.${minor} ${via}`);
  if (framing === "chunked") forwarded.push("Transfer-Encoding", "chunked");
  if (fieldTokens(fields, "te").includes("trailers")) forwarded.push("TE", "trailers", "Connection", "TE");
  if (wantsWebSocket(head)) forwarded.push("Connection", "Upgrade", "Upgrade", "websocket");
  return forwarded;
}

function checkExpect({ fields, minor }: RequestHead): void {
  if (minor === 1 && fieldTokens(fields, "expect").some((token) => token !== "100-continue")) {
    throw new SeikanError("expectation-failed", "the only expectation is 100-continue");
  }
}

/** How often an OPTIONS request may still go on (RFC 9110 section 7.6.2); undefined: as often as it likes. */
export function maxForwards({ method, fields }: RequestHead): number | undefined {
  const text = method === "OPTIONS" ? fieldValue(fields, "max-forwards")?.trim() : undefined;
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

function countedDown(head: RequestHead, fields: string[]): string[] {
  const left = maxForwards(head);
  if (left === undefined) return fields;
  return [...withoutFields(fields, (name) => name === "max-forwards"), "Max-Forwards", String(left - 1)];
}

/** The only upgrade that is passed on. */
export function wantsWebSocket({ fields, minor }: RequestHead): boolean {
  const connection = fieldTokens(fields, "connection");
  return minor === 1 && connection.includes("upgrade") && fieldTokens(fields, "upgrade").includes("websocket");
}
