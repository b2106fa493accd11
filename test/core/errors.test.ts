import { describe, expect, test } from "bun:test";
import { OUTCOMES, SeikanError, toSeikanError, usageError, type ErrorCode } from "../../src/core/errors.ts";

/** RFC 9209 section 2.3, and the IANA registry it made. */
const PROXY_ERROR_TYPES = new Set(
  `dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited
  destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout
  connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received
  http_request_error http_request_denied http_response_incomplete http_response_header_section_size
  http_response_header_size http_response_body_size http_response_trailer_section_size http_response_trailer_size
  http_response_transfer_coding http_response_content_coding http_response_timeout http_upgrade_failed
  http_protocol_error proxy_internal_response proxy_internal_error proxy_configuration_error proxy_loop_detected`
    .trim()
    .split(/\s+/),
);

/** What the contract lets the process exit with. */
const EXIT_CODES = new Set([0, 1, 2, 3, 4, 124, 125, 126, 127]);

describe("each error code", () => {
  for (const [code, { status, proxyError, exit }] of Object.entries(OUTCOMES)) {
    test(`${code} has an HTTP error status, a registered Proxy-Status type and an exit code`, () => {
      expect(status).toBeGreaterThanOrEqual(400);
      expect(status).toBeLessThanOrEqual(599);
      expect([...PROXY_ERROR_TYPES]).toContain(proxyError);
      expect([...EXIT_CODES]).toContain(exit);
      expect(new SeikanError(code as ErrorCode, "x").outcome).toEqual({ status, proxyError, exit });
    });
  }
});

describe("http-rules.md 2H", () => {
  const table: [code: ErrorCode, status: number, proxyError: string][] = [
    ["name-not-found", 502, "dns_error"],
    ["name-timeout", 504, "dns_timeout"],
    ["address-denied", 403, "destination_ip_prohibited"],
    ["target-denied", 403, "http_request_denied"],
    ["connect-refused", 502, "connection_refused"],
    ["peer-reset", 502, "connection_terminated"],
    ["connect-timeout", 504, "connection_timeout"],
    ["response-timeout", 504, "http_response_timeout"],
    ["limit-reached", 503, "connection_limit_reached"],
    ["tls-failed", 502, "tls_protocol_error"],
    ["tls-certificate", 502, "tls_certificate_error"],
    ["bad-request", 400, "http_request_error"],
    ["uri-too-long", 414, "http_request_error"],
    ["head-too-large", 431, "http_request_error"],
    ["bad-response", 502, "http_protocol_error"],
    ["response-incomplete", 502, "http_response_incomplete"],
    ["loop", 508, "proxy_loop_detected"],
    ["internal", 500, "proxy_internal_error"],
  ];
  for (const [code, status, proxyError] of table) {
    test(`maps ${code} to ${status} and ${proxyError}`, () => {
      expect(OUTCOMES[code]).toMatchObject({ status, proxyError });
    });
  }
});

describe("the contract's exit codes", () => {
  const table: [exit: number, codes: ErrorCode[]][] = [
    [0, ["shutdown"]],
    [1, ["peer-reset", "peer-closed", "internal"]],
    [2, ["usage", "listen-failed"]],
    [3, ["name-not-found", "connect-refused", "connect-failed", "tls-failed", "tls-certificate", "hop-refused"]],
    [4, ["hop-auth", "auth-required"]],
    [124, ["connect-timeout", "run-timeout", "name-timeout"]],
    [125, ["command-failed"]],
    [126, ["command-not-executable"]],
    [127, ["command-not-found"]],
  ];
  for (const [exit, codes] of table) {
    test(`${exit} is for ${codes.join(", ")}`, () => {
      expect(codes.map((code) => OUTCOMES[code].exit)).toEqual(codes.map(() => exit));
    });
  }
});

describe("an error", () => {
  test("keeps its code, cause, hints and the hop's status", () => {
    const cause = new Error("why");
    const error = new SeikanError("hop-refused", "no", { cause, hints: ["try"], hopStatus: 403 });
    expect(error).toMatchObject({ code: "hop-refused", message: "no", hints: ["try"], hopStatus: 403 });
    expect(error.cause).toBe(cause);
    expect(error).toBeInstanceOf(Error);
  });

  test("of usage has its hints and exit code 2", () => {
    const error = usageError("wrong", "a", "b");
    expect([error.code, error.hints, error.outcome.exit]).toEqual(["usage", ["a", "b"], 2]);
  });

  test("thrown on purpose stays itself, anything else is internal", () => {
    const own = new SeikanError("loop", "x");
    expect(toSeikanError(own)).toBe(own);
    const type = new TypeError("oops");
    expect(toSeikanError(type)).toMatchObject({ code: "internal", message: "oops", cause: type });
    expect(toSeikanError("text")).toMatchObject({ code: "internal", message: "text" });
    expect(toSeikanError(undefined).code).toBe("internal");
  });
});
