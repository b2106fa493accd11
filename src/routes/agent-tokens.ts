import { timingSafeEqual } from "node:crypto";
import { parse, TomlError } from "smol-toml";
import * as v from "valibot";
import { SeikanError, usageError } from "../core/errors.ts";
import { suggest } from "../core/suggest.ts";

/** What an agent may register. */
export interface AgentRights {
  /** The token's name, for logs. */
  readonly token: string;
  /** Of the token, to find it again; undefined where none was asked for. */
  readonly digest?: Uint8Array;
  agent(name: string): boolean;
  /** A label below the server's domain, or a whole host. */
  host(name: string): boolean;
  port(port: number): boolean;
  /** May dial for `Seikan-Agent` and `agent:` routes. */
  readonly isExit: boolean;
  /** May join others on one name. */
  readonly mayShare: boolean;
}

/** Where nobody asks for tokens, and for `--agent-token`. */
export function fullRights(token: string, digest?: Uint8Array): AgentRights {
  const all = () => true;
  return { token, agent: all, host: all, port: all, isExit: true, mayShare: false, ...(digest && { digest }) };
}

/** What `[token.NAME]` holds. */
export const TokenEntry = v.strictObject({
  hash: v.pipe(v.string(), v.regex(/^sha256:[0-9a-f]{64}$/, "expected sha256: and 64 hex digits")),
  agents: v.optional(v.array(v.string()), ["*"]),
  hosts: v.optional(v.array(v.string()), []),
  ports: v.optional(v.array(v.union([v.string(), v.pipe(v.number(), v.integer())])), []),
  exit: v.optional(v.boolean(), false),
  share: v.optional(v.boolean(), false),
});
const TokenFile = v.strictObject({ token: v.optional(v.record(v.string(), TokenEntry), {}) });

/** A token and what it permits. */
export interface KnownToken {
  readonly digest: Uint8Array;
  readonly rights: AgentRights;
}

/** Where tokens are written. */
export interface TokenSources {
  /** Tokens that may everything. */
  readonly plain: readonly string[];
  /** Of the configuration file. */
  readonly listed: readonly KnownToken[];
  /** TOML, one `[token.NAME]` each. */
  readonly file: string;
}

/** The tokens agents register with. Only their digests are kept, compared in constant time. */
export class AgentTokens {
  #known: readonly KnownToken[] = [];

  constructor(sources: TokenSources) {
    this.replace(sources);
  }

  /** Takes them anew; on an error the old ones stay. */
  replace({ plain, listed, file }: TokenSources): void {
    const fromFile = file === "" ? [] : readTokenFile(file);
    const given = plain.map(digestOf).map((digest) => ({ digest, rights: fullRights("--agent-token", digest) }));
    this.#known = [...fromFile, ...listed, ...given];
  }

  /** What this token permits; undefined: it is none. */
  identify(token: string): AgentRights | undefined {
    return this.current(digestOf(token));
  }

  /** What the token of this digest permits by now; undefined: it was taken back. */
  current(shown: Uint8Array): AgentRights | undefined {
    let found: AgentRights | undefined;
    // All are compared: how long it takes says nothing.
    for (const { digest, rights } of this.#known) if (timingSafeEqual(digest, shown)) found ??= rights;
    return found;
  }
}

export function digestOf(token: string): Uint8Array {
  return new Bun.CryptoHasher("sha256").update(token).digest();
}

/** As it is written into a token file. */
export function hashOf(token: string): string {
  return `sha256:${Buffer.from(digestOf(token)).toString("hex")}`;
}

function readTokenFile(text: string): KnownToken[] {
  const result = v.safeParse(TokenFile, parseToml(text));
  if (!result.success) {
    throw mistakeIn(result.issues[0]);
  }
  return Object.entries(result.output.token).map(([name, entry]) => knownToken(name, entry));
}

function mistakeIn(issue: v.BaseIssue<unknown>): SeikanError {
  const path = issue.path?.map(({ key }) => String(key)) ?? [];
  const key = path.at(-1) ?? "";
  if (issue.type !== "strict_object" || issue.expected !== "never")
    return usageError(`the token file: ${path.join(".")}: ${issue.message}`);
  const table = path.slice(0, -1).join(".");
  const close = suggest(key, table === "" ? ["token"] : Object.keys(TokenEntry.entries));
  const where = table === "" ? "" : ` in [${table}]`;
  return usageError(
    `the token file: unknown key ${JSON.stringify(key)}${where}`,
    close === undefined ? `known are ${Object.keys(TokenEntry.entries).join(", ")}` : `did you mean ${close}?`,
  );
}

/** Throws a usage error where its ports are none. */
export function knownToken(name: string, entry: v.InferOutput<typeof TokenEntry>): KnownToken {
  const digest = Buffer.from(entry.hash.slice("sha256:".length), "hex");
  return {
    digest,
    rights: {
      ...{ token: name, digest },
      agent: (asked) => entry.agents.some((pattern) => fits(pattern, asked)),
      host: (asked) => entry.hosts.some((pattern) => fitsHost(pattern, asked)),
      port: inRanges(entry.ports.map(String)),
      isExit: entry.exit,
      mayShare: entry.share,
    },
  };
}

function parseToml(text: string): unknown {
  try {
    return parse(text);
  } catch (cause) {
    if (cause instanceof TomlError) throw usageError(`the token file, line ${cause.line}: ${firstLine(cause.message)}`);
    throw cause;
  }
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0]!;
}

/** `*` stands for any text without a dot: `ci-*`, `*.preview.example.org`; alone for anything. */
function fits(pattern: string, name: string): boolean {
  if (pattern === "*") return true;
  const parts = pattern
    .toLowerCase()
    .split("*")
    .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join("[^.]*")}$`).test(name);
}

/** `*.example.org` is every name below it, as everywhere; the site of that very name included. */
function fitsHost(pattern: string, host: string): boolean {
  const isBelow = pattern.startsWith("*.") && !pattern.includes("*", 1);
  return isBelow ? host.endsWith(pattern.slice(1).toLowerCase()) : fits(pattern, host);
}

/** A range of ports, both ends included. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** `5432` or `20000-20100`. */
export function parsePortRange(text: string): PortRange {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text.trim());
  const first = Number(match?.[1]);
  const last = match?.[2] === undefined ? first : Number(match[2]);
  if (match === null || first < 1 || last > 65535 || last < first)
    throw usageError(`expected a port or a range such as 20000-20100, got "${text}"`);
  return { first, last };
}

function inRanges(texts: readonly string[]): (port: number) => boolean {
  const ranges = texts.map(parsePortRange);
  return (port) => ranges.some(({ first, last }) => port >= first && port <= last);
}

/** What an agent is told that asks for more than its token permits. */
export function notGranted(rights: AgentRights, what: string): SeikanError {
  return new SeikanError("not-granted", `the token ${rights.token} does not permit ${what}`);
}
