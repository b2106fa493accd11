import { SeikanError } from "../core/errors.ts";
import { fieldValues } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { upgradeRefusal, type UpgradeRefusal } from "../wire/websocket-handshake.ts";

const REFUSALS: Readonly<Record<UpgradeRefusal, string>> = {
  "not-get": "a WebSocket begins with GET",
  "not-http11": "a WebSocket needs HTTP/1.1",
  "no-upgrade": "this is a WebSocket endpoint, and the request asks for no upgrade",
  version: "only WebSocket version 13 is spoken here",
  key: "the Sec-WebSocket-Key is not 16 bytes in base64",
};

/** Throws unless the request is a right WebSocket upgrade (RFC 6455 section 4.2.1). */
export function checkUpgrade(head: RequestHead): void {
  const refusal = upgradeRefusal(head);
  if (refusal === undefined && head.framing === 0) return;
  if (refusal === undefined) throw new SeikanError("bad-request", "an upgrade request has no body");
  const code = refusal === "version" || refusal === "no-upgrade" ? "upgrade-required" : "bad-request";
  const hints = refusal === "no-upgrade" ? ["if the client asked for one, a proxy on the way stripped it"] : [];
  throw new SeikanError(code, REFUSALS[refusal], { hints });
}

/**
 * Throws for a browser's page of another origin (RFC 6455 section 10.2): only
 * browsers send Origin, and only what is listed may come from one.
 */
export function checkOrigin(head: RequestHead, allowed: readonly string[]): void {
  const origins = fieldValues(head.fields, "origin");
  if (origins.length === 0 || (origins.length === 1 && isListed(origins[0]!, allowed))) return;
  throw new SeikanError("origin-denied", `pages of ${origins.join(", ").slice(0, 200)} may not open this WebSocket`, {
    hints: ["--ws-origin lists the origins that may"],
  });
}

function isListed(origin: string, allowed: readonly string[]): boolean {
  return allowed.some((one) => one === "*" || one.toLowerCase() === origin.toLowerCase());
}
