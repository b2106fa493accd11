import type { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { closeGently } from "../transports/gentle-close.ts";
import { formatHead, type Fields } from "../wire/fields.ts";
import { CONTENT_TYPES, errorForm, errorLines, errorPage, PAGE_FIELDS, problem, type ErrorForm } from "./error-page.ts";

const REASONS: Readonly<Record<number, string>> = {
  200: "OK",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  407: "Proxy Authentication Required",
  408: "Request Timeout",
  409: "Conflict",
  414: "URI Too Long",
  417: "Expectation Failed",
  421: "Misdirected Request",
  426: "Upgrade Required",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
  505: "HTTP Version Not Supported",
  508: "Loop Detected",
};

export interface TextAnswer {
  readonly status: number;
  readonly text: string;
  /** Plain text unless said otherwise: it reflects nothing that a browser would run. */
  readonly contentType?: string;
  readonly fields?: Fields;
  /** Then the body is left out, but not its length (answers to HEAD). */
  readonly headOnly?: boolean;
  readonly keepAlive?: boolean;
}

/** A complete answer. */
export function textAnswer(answer: TextAnswer): Buffer {
  const body = Buffer.from(`${answer.text}\n`, "utf8");
  const reason = REASONS[answer.status] ?? "Error";
  const head = formatHead(`HTTP/1.1 ${answer.status} ${reason}`, [
    "Content-Type",
    answer.contentType ?? CONTENT_TYPES.text,
    "Content-Length",
    String(body.length),
    ...(answer.keepAlive === true ? [] : ["Connection", "close"]),
    ...(answer.fields ?? []),
  ]);
  return answer.headOnly === true ? head : Buffer.concat([head, body]);
}

/** How an error is told. */
export interface ErrorStyle {
  readonly headOnly?: boolean;
  /** The request was for a path of ours, not for something behind a proxy: credentials are asked for with 401. */
  readonly asOrigin?: boolean;
  /** Instead of the error's own, where another protocol has one for everything. */
  readonly status?: number;
  /** What 426 asks for. */
  readonly upgrade?: "websocket" | "connect-udp";
  /** The client's `Accept`: a page or a problem document where it asks for one. */
  readonly accept?: string;
}

/** What a client is told when its request failed here (docs: http errors). */
export function errorAnswer(error: SeikanError, proxyName: string, style: ErrorStyle = {}): Buffer {
  const { proxyError } = error.outcome;
  const status = answerStatus(error, style);
  const fields = ["Proxy-Status", `${proxyName}; error=${proxyError}; details=${quoted(error.message)}`];
  if (status === 407) fields.push("Proxy-Authenticate", CHALLENGE);
  if (status === 401) fields.push("WWW-Authenticate", CHALLENGE);
  if (status === 426) fields.push("Upgrade", style.upgrade ?? "websocket");
  if (status === 426 && style.upgrade !== "connect-udp") fields.push("Sec-WebSocket-Version", "13");
  // What was stopped by hand does not come back by itself.
  if (status === 429 || (status === 503 && error.code !== "service-stopped"))
    fields.push("Retry-After", error.code === "site-away" ? "5" : "1");
  if (status === 405) fields.push("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT");
  const headOnly = style.headOnly ?? false;
  const form = style.accept === undefined ? "text" : errorForm(style.accept);
  const contentType = CONTENT_TYPES[form];
  if (form === "html") fields.push(...PAGE_FIELDS);
  return textAnswer({ status, text: errorText(error, status, form), contentType, fields, headOnly });
}

function errorText(error: SeikanError, status: number, form: ErrorForm): string {
  const { code, message, hints, evidence } = error;
  const words = { status, reason: REASONS[status] ?? "Error", code, message, hints, evidence };
  if (form === "html") return errorPage(words);
  return form === "problem" ? problem(words) : errorLines(words);
}

const CHALLENGE = 'Basic realm="seikan", charset="UTF-8"';

export function answerStatus(error: SeikanError, { asOrigin, status: other }: ErrorStyle): number {
  const { status } = error.outcome;
  if (other !== undefined && status !== 407) return other;
  return status === 407 && asOrigin === true ? 401 : status;
}

/** A structured-field string (RFC 8941): printable ASCII, quotes escaped. */
function quoted(text: string): string {
  return `"${text
    .replace(/[^\x20-\x7e]/g, "?")
    .replace(/["\\]/g, "\\$&")
    .slice(0, 300)}"`;
}

/** Says the last word on a stream and owns it. */
export function closeWith(stream: ByteStream, lastWords: Uint8Array): void {
  stream.write(lastWords);
  closeGently(stream);
}
