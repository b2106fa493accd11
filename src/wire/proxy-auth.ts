/**
 * Proxy authentication a client speaks: Basic (RFC 7617), Digest (RFC 7616)
 * and Bearer (RFC 6750), as pure functions of challenge and credentials.
 */

export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  readonly params: ReadonlyMap<string, string>;
}

/**
 * The challenges of all `Proxy-Authenticate` lines. Several may share a line,
 * and a scheme may have no parameter, or a bare token instead (RFC 9110 section 11.3).
 */
export function parseChallenges(lines: readonly string[]): Challenge[] {
  const challenges: { scheme: string; params: Map<string, string> }[] = [];
  for (const line of lines) {
    for (const part of splitList(line)) {
      const match = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s+(.*))?$/s.exec(part);
      const param = parseParam(part);
      if (param !== undefined && challenges.length > 0) {
        challenges.at(-1)!.params.set(param[0], param[1]);
      } else if (match !== null) {
        const first = match[2] === undefined ? undefined : parseParam(match[2]);
        const params = new Map(first === undefined ? [] : [first]);
        if (first === undefined && match[2] !== undefined) params.set("token", match[2]);
        challenges.push({ scheme: match[1]!.toLowerCase(), params });
      }
    }
  }
  return challenges;
}

/** Splits at commas outside quotes. */
function splitList(line: string): string[] {
  return (line.match(/(?:[^,"]|"(?:\\.|[^"\\])*"?)+/g) ?? []).map((part) => part.trim()).filter((part) => part !== "");
}

function parseParam(text: string): [string, string] | undefined {
  const match = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s"=,]+))$/s.exec(text);
  if (match === null) return undefined;
  const value = match[2] === undefined ? match[3]! : match[2].replace(/\\(.)/gs, "$1");
  return [match[1]!.toLowerCase(), value];
}

export function basic(user: string, password: string): string {
  return `Basic ${Buffer.from(`${user}:${password}`, "utf8").toString("base64")}`;
}

const DIGEST_HASHES: ReadonlyMap<string, "md5" | "sha256"> = new Map([
  ["md5", "md5"],
  ["sha-256", "sha256"],
]);

/** Hash name of a Digest challenge we can answer, or undefined. */
export function digestHash(challenge: Challenge): "md5" | "sha256" | undefined {
  const qop = challenge.params.get("qop");
  const answerable = qop === undefined || qop.split(",").some((word) => word.trim().toLowerCase() === "auth");
  if (challenge.scheme !== "digest" || !challenge.params.has("nonce") || !answerable) return undefined;
  return DIGEST_HASHES.get((challenge.params.get("algorithm") ?? "MD5").toLowerCase().replace(/-sess$/, ""));
}

export interface DigestUse {
  readonly user: string;
  readonly password: string;
  readonly method: string;
  /** For CONNECT the authority-form target. */
  readonly uri: string;
  /** How often this nonce has been used, this time included. */
  readonly count: number;
  readonly cnonce: string;
}

/** The credentials that answer a Digest challenge (RFC 7616 section 3.4). */
export function digest(challenge: Challenge, use: DigestUse): string {
  const hashName = digestHash(challenge) ?? "md5";
  const hash = (text: string) => new Bun.CryptoHasher(hashName).update(text).digest("hex");
  const param = (name: string) => challenge.params.get(name);
  const realm = param("realm") ?? "";
  const nonce = param("nonce") ?? "";
  const algorithm = param("algorithm");
  const nc = use.count.toString(16).padStart(8, "0");
  let secret = hash(`${use.user}:${realm}:${use.password}`);
  if (algorithm?.toLowerCase().endsWith("-sess")) secret = hash(`${secret}:${nonce}:${use.cnonce}`);
  const request = hash(`${use.method}:${use.uri}`);
  const withQop = param("qop") !== undefined;
  const response = withQop
    ? hash(`${secret}:${nonce}:${nc}:${use.cnonce}:auth:${request}`)
    : hash(`${secret}:${nonce}:${request}`);
  const fields = [
    `username=${quote(use.user)}`,
    `realm=${quote(realm)}`,
    `nonce=${quote(nonce)}`,
    `uri=${quote(use.uri)}`,
    `response="${response}"`,
  ];
  if (algorithm !== undefined) fields.push(`algorithm=${algorithm}`);
  if (param("opaque") !== undefined) fields.push(`opaque=${quote(param("opaque")!)}`);
  if (withQop) fields.push("qop=auth", `nc=${nc}`, `cnonce=${quote(use.cnonce)}`);
  return `Digest ${fields.join(", ")}`;
}

/** A quoted string of UTF-8 bytes, one latin1 character each, as fields are written. */
function quote(text: string): string {
  return `"${Buffer.from(text, "utf8").toString("latin1").replace(/["\\]/g, "\\$&")}"`;
}
