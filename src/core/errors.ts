/**
 * Every way seikan can fail, in one table.
 *
 * A failure has a code (for programs), a sentence (for people), a cause and
 * hints. The code alone decides what an HTTP peer is told (status and the
 * RFC 9209 `Proxy-Status` error) and how the process exits.
 */

interface Outcome {
  /** HTTP status for a peer that asked us to do what failed. */
  readonly status: number;
  /** RFC 9209 section 2.3 error type. */
  readonly proxyError: string;
  /** Process exit code, see `seikan help exit-codes`. */
  readonly exit: number;
}

function outcome(status: number, proxyError: string, exit: number): Outcome {
  return { status, proxyError, exit };
}

export const OUTCOMES = {
  usage: outcome(500, "proxy_configuration_error", 2),
  "listen-failed": outcome(500, "proxy_configuration_error", 2),

  "name-not-found": outcome(502, "dns_error", 3),
  "name-timeout": outcome(504, "dns_timeout", 124),
  "connect-refused": outcome(502, "connection_refused", 3),
  "connect-failed": outcome(502, "destination_unavailable", 3),
  "connect-timeout": outcome(504, "connection_timeout", 124),
  "tls-failed": outcome(502, "tls_protocol_error", 3),
  "tls-certificate": outcome(502, "tls_certificate_error", 3),
  "hop-refused": outcome(502, "destination_unavailable", 3),
  "hop-auth": outcome(502, "destination_unavailable", 4),
  "hop-protocol": outcome(502, "http_protocol_error", 3),
  "hop-closed": outcome(502, "connection_terminated", 3),

  "target-denied": outcome(403, "http_request_denied", 3),
  "address-denied": outcome(403, "destination_ip_prohibited", 3),
  "auth-required": outcome(407, "http_request_denied", 4),
  "auth-throttled": outcome(429, "http_request_denied", 4),
  "bad-request": outcome(400, "http_request_error", 2),
  "request-unsupported": outcome(501, "http_request_error", 2),
  "method-refused": outcome(405, "http_request_denied", 2),
  "version-unsupported": outcome(505, "http_request_error", 2),
  "upgrade-required": outcome(426, "http_request_error", 2),
  "origin-denied": outcome(403, "http_request_denied", 4),
  "wrong-host": outcome(421, "http_request_error", 2),
  "no-such-site": outcome(404, "destination_not_found", 3),
  "site-away": outcome(503, "destination_unavailable", 3),
  "service-starting": outcome(503, "destination_unavailable", 3),
  "service-stopped": outcome(503, "destination_unavailable", 3),
  "service-failed": outcome(502, "destination_unavailable", 3),
  "service-timeout": outcome(504, "connection_timeout", 124),
  "launch-denied": outcome(403, "http_request_denied", 4),
  "visitor-denied": outcome(403, "http_request_denied", 4),
  "name-taken": outcome(409, "http_request_denied", 4),
  "not-granted": outcome(403, "http_request_denied", 4),
  "expectation-failed": outcome(417, "http_request_error", 2),
  "uri-too-long": outcome(414, "http_request_error", 2),
  "head-too-large": outcome(431, "http_request_error", 2),
  "head-timeout": outcome(408, "http_request_error", 1),
  "body-timeout": outcome(408, "http_request_error", 1),
  loop: outcome(508, "proxy_loop_detected", 3),
  "limit-reached": outcome(503, "connection_limit_reached", 1),
  "bad-response": outcome(502, "http_protocol_error", 3),
  "response-incomplete": outcome(502, "http_response_incomplete", 1),
  "response-timeout": outcome(504, "http_response_timeout", 1),

  "peer-reset": outcome(502, "connection_terminated", 1),
  "peer-closed": outcome(502, "connection_terminated", 1),
  "peer-protocol": outcome(502, "http_protocol_error", 1),
  "peer-silent": outcome(504, "connection_read_timeout", 1),
  "tunnel-lost": outcome(502, "connection_terminated", 1),
  "idle-timeout": outcome(504, "connection_read_timeout", 1),
  "half-open-timeout": outcome(504, "connection_read_timeout", 1),
  "run-timeout": outcome(504, "connection_timeout", 124),
  cancelled: outcome(503, "connection_terminated", 1),
  shutdown: outcome(503, "connection_terminated", 0),

  "command-failed": outcome(500, "proxy_internal_error", 125),
  "command-not-executable": outcome(500, "proxy_internal_error", 126),
  "command-not-found": outcome(500, "proxy_internal_error", 127),
  internal: outcome(500, "proxy_internal_error", 1),
} as const satisfies Record<string, Outcome>;

export type ErrorCode = keyof typeof OUTCOMES;

/** Something wrong at a place of a file that somebody wrote. */
export interface Mistake {
  readonly message: string;
  readonly hint: string | undefined;
  /** From 1; undefined where it has no place. */
  readonly line: number | undefined;
  readonly column: number | undefined;
  /** The line and its neighbours, marked. */
  readonly frame: readonly string[];
}

/** What a command did, and what it said last. */
export interface Evidence {
  /** `exitCode`: 1. */
  readonly facts: Readonly<Record<string, string | number>>;
  readonly output: readonly string[];
  /** Whoever looks at it shall look again after so many seconds. */
  readonly refreshSeconds?: number;
}

export interface ErrorDetails {
  readonly cause?: unknown | undefined;
  /** What to try next, one sentence each. */
  readonly hints?: readonly string[] | undefined;
  /** Status another hop answered with; it says more than our own table. */
  readonly hopStatus?: number | undefined;
  /** The RFC 9209 error type that hop named. */
  readonly hopError?: string | undefined;
  /** For our own log, where the message is for somebody who should not know as much. */
  readonly forLog?: string | undefined;
  /** All that is wrong in a file, where the message names it. */
  readonly mistakes?: readonly Mistake[] | undefined;
  /** Of a table: what is wrong there. */
  readonly key?: string | undefined;
  /** For those who may see what the machine does. */
  readonly evidence?: Evidence | undefined;
}

/** The only error seikan throws on purpose. */
export class SeikanError extends Error {
  readonly code: ErrorCode;
  readonly hints: readonly string[];
  readonly hopStatus: number | undefined;
  readonly hopError: string | undefined;
  readonly forLog: string;
  readonly mistakes: readonly Mistake[];
  readonly evidence: Evidence | undefined;
  readonly key: string | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "SeikanError";
    this.code = code;
    this.hints = details.hints ?? [];
    this.hopStatus = details.hopStatus;
    this.hopError = details.hopError;
    this.forLog = details.forLog ?? message;
    this.mistakes = details.mistakes ?? [];
    this.evidence = details.evidence;
    this.key = details.key;
  }

  get outcome(): Outcome {
    return OUTCOMES[this.code];
  }

  /** The same with one more hint, in front of the others. */
  hinted(hint: string): SeikanError {
    return new SeikanError(this.code, this.message, { ...this, cause: this.cause, hints: [hint, ...this.hints] });
  }
}

/** A usage error: exit code 2, with what to try as hints. */
export function usageError(message: string, ...hints: string[]): SeikanError {
  return new SeikanError("usage", message, { hints });
}

/** What is wrong in one line, for logs: mistakes with their lines, or what to try. */
export function mistakesIn({ mistakes, hints }: SeikanError): string | undefined {
  if (mistakes.length === 0) return hints[0];
  const told = mistakes.map(
    ({ line, message, hint }) => `line ${line}: ${message}${hint === undefined ? "" : `: ${hint}`}`,
  );
  return told.join("; ");
}

/** Anything thrown, as a SeikanError; what was not thrown on purpose is `internal`. */
export function toSeikanError(thrown: unknown): SeikanError {
  if (thrown instanceof SeikanError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return new SeikanError("internal", message, { cause: thrown });
}
