import { canonicalHost, inNetwork, parseIp, type Network } from "../core/address.ts";
import { deadlineIn } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { fieldValue, fieldValues, withoutFields } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import type { ErrorStyle } from "./answers.ts";
import type { Client, RouteContext } from "./context.ts";
import { forwardedFields, parseForwardTarget } from "./forward-request.ts";
import type { Destination, Outgoing } from "./forward.ts";
import type { Way } from "./route-table.ts";
import type { FieldEdit, Site, Visit, Visitor } from "./sites.ts";
import { parseBasic, type Users } from "./users.ts";

/**
 * The reverse proxy: requests that visitors make to a host of ours go on to
 * whoever serves it (RFC 9110 section 3.7, gateway).
 */

/** Under every site: an agent asks here for itself, to know that visitors would reach it. */
const PROBE_PATH = "/.well-known/seikan-probe/";
const STICKY_COOKIE = "seikan-member";

/** What it asks of that host. */
export function pathOf({ target }: RequestHead): string {
  const path = target.startsWith("/") ? target : target.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i, "");
  return path.startsWith("/") ? path : `/${path}`;
}

/** The host a request is for, in canonical form; undefined where it names none. */
export function hostOf(head: RequestHead): string | undefined {
  const authority = absoluteAuthority(head) ?? fieldValue(head.fields, "host") ?? "";
  return canonicalHost(authority.replace(/:\d*$/, ""));
}

function absoluteAuthority({ target }: RequestHead): string | undefined {
  return target.startsWith("/") ? undefined : /^[a-z][a-z0-9+.-]*:\/\/([^/?#@]*)/i.exec(target)?.[1];
}

/** The nonce of a probe; undefined for any other request. */
export function probeNonce(head: RequestHead): string | undefined {
  if (head.method !== "GET" || !head.target.includes(PROBE_PATH)) return undefined;
  const path = head.target.replace(/^[a-z]+:\/\/[^/]*/i, "");
  if (!path.startsWith(PROBE_PATH)) return undefined;
  return /^[a-z0-9]{16,64}$/.exec(path.slice(PROBE_PATH.length))?.[0];
}

export function probePath(nonce: string): string {
  return PROBE_PATH + nonce;
}

/** Who makes this request: the peer, or whom a proxy that is trusted speaks for. */
export function visitorOf(head: RequestHead, client: Client, trusted: readonly Network[]): Visitor {
  // In absolute-form the target counts, and Host means nothing (RFC 9112 section 3.2.2).
  const host = absoluteAuthority(head) ?? fieldValue(head.fields, "host") ?? "";
  const member = cookie(head, STICKY_COOKIE);
  const { address, port, isSecure } = client;
  if (!isTrusted(address, trusted)) return { address, port, isSecure, host, member };
  const proto = fieldValue(head.fields, "x-forwarded-proto")?.split(",", 1)[0]!.trim().toLowerCase();
  const hops = fieldValues(head.fields, "x-forwarded-for")
    .flatMap((line) => line.split(","))
    .map((hop) => hop.trim())
    .filter((hop) => hop !== "")
    .map(hopAddress);
  // The last one that no trusted proxy stands for; everything before it is hearsay.
  const real = hops.findLast((hop) => hop === "" || !isTrusted(hop, trusted)) ?? hops[0];
  return {
    address: real ?? address,
    port: real === undefined ? port : 0,
    isSecure: proto === undefined ? isSecure : proto === "https",
    ...{ host, member },
  };
}

/** Some proxies add the port; what is no address is nobody we know. */
function hopAddress(hop: string): string {
  const bare = /^\[([^\]]+)\](?::\d+)?$/.exec(hop)?.[1] ?? /^(\d+\.\d+\.\d+\.\d+):\d+$/.exec(hop)?.[1] ?? hop;
  return parseIp(bare)?.toString() ?? "";
}

export function isTrusted(address: string, trusted: readonly Network[]): boolean {
  if (trusted.length === 0) return false;
  const ip = parseIp(address);
  return ip !== undefined && trusted.some((network) => inNetwork(ip, network));
}

/** Throws unless this visitor may see the site; undefined where nothing has to be waited for. */
export function admit({ policy }: Site, head: RequestHead, visitor: Visitor): Promise<void> | undefined {
  const { clients, users } = policy;
  if (clients.length > 0 && !isTrusted(visitor.address, clients))
    throw new SeikanError("visitor-denied", "this site is not for visitors from your address");
  return users === undefined ? undefined : checkPassword(users, head, visitor);
}

async function checkPassword(users: Users, head: RequestHead, visitor: Visitor): Promise<void> {
  const shown = parseBasic(fieldValue(head.fields, "authorization"));
  if (shown !== undefined && (await users.verify(shown, visitor.address))) return;
  throw new SeikanError("auth-required", shown === undefined ? "this site wants a password" : "wrong user or password");
}

/** One request to a site. */
export class SiteVisit implements Destination {
  way: Way | undefined;
  origin = "";
  readonly credentials = undefined;
  readonly proxyName = "";
  readonly style: ErrorStyle;
  readonly #context: RouteContext;
  readonly #head: RequestHead;
  readonly #site: Site;
  readonly #visitor: Visitor;
  readonly #peer: Client;
  #member: string | undefined;
  #visit: Visit | undefined;
  #isSettled = false;
  /** Tells whoever opens a connection for it that nobody waits any more. */
  #leave: (() => void) | undefined;

  constructor(context: RouteContext, head: RequestHead, site: Site, visitor: Visitor, peer: Client) {
    this.#context = context;
    this.#head = head;
    this.#site = site;
    this.#visitor = visitor;
    this.#peer = peer;
    this.style = siteErrorStyle(head);
  }

  prepare(): Outgoing {
    const head = this.#head;
    const { policy } = this.#site;
    const isOrigin = head.target.startsWith("/") || head.target === "*";
    const asked = isOrigin ? undefined : parseForwardTarget(head, true);
    const host = policy.hostHeader ?? asked?.host ?? fieldValue(head.fields, "host") ?? "";
    const takesPassword = policy.users !== undefined;
    const isOurs = (name: string) => isForwardedField(name) || (takesPassword && name === "authorization");
    const kept = forwardedFields(head, host, this.#context.via, isOurs);
    const fields = policy.sticky === "cookie" ? withoutCookie(kept, STICKY_COOKIE) : kept;
    this.#addForwarded(fields);
    return { target: asked?.path ?? head.target, fields: edited(fields, policy.requestFields) };
  }

  /** Who asks, over whatever the visitor says about that (RFC 7239 section 8.1). */
  #addForwarded(fields: string[]): void {
    const { address, isSecure, host } = this.#visitor;
    const peer = this.#peer.address;
    const proto = isSecure ? "https" : "http";
    let element = `for=${node(peer)};host=${quotedHost(host)};proto=${proto}`;
    let chain = peer;
    if (isTrusted(peer, this.#context.trustedProxies)) {
      const { fields: received } = this.#head;
      element = [...fieldValues(received, "forwarded"), element].join(", ");
      chain = [...fieldValues(received, "x-forwarded-for"), ...(peer === "" ? [] : [peer])].join(", ");
    }
    fields.push("Forwarded", element, "X-Forwarded-Proto", proto);
    if (chain !== "") fields.push("X-Forwarded-For", chain);
    if (address !== "") fields.push("X-Real-IP", address);
    if (host !== "") fields.push("X-Forwarded-Host", host);
  }

  accepts(origin: string): boolean {
    if (!this.#site.accepts(origin, this.#visitor)) return false;
    this.#begin(origin);
    return true;
  }

  async reach(): Promise<ByteStream> {
    const deadline = deadlineIn(this.#context.limits.connectMs);
    const tries = (way: Way) => (this.way = way);
    const onGone = (leave: () => void) => (this.#leave = leave);
    const reached = await this.#site.reach(this.#visitor, deadline, tries, this.#head, onGone);
    this.#member = reached.member;
    this.#begin(reached.origin);
    return reached.stream;
  }

  #begin(origin: string): void {
    this.origin = origin;
    this.#visit = this.#site.begin(origin);
    this.way = this.#visit.way ?? this.way;
    // The visitor left meanwhile.
    if (this.#isSettled) this.#visit.end();
  }

  get answerMs(): number {
    return this.#context.limits.answerMs;
  }

  answerFields(fields: string[]): string[] {
    const { policy } = this.#site;
    const answered = edited(fields, policy.responseFields);
    if (this.#needsFlush(fields)) answered.push("X-Accel-Buffering", "no");
    const isNew = policy.sticky === "cookie" && this.#member !== undefined && this.#member !== this.#visitor.member;
    if (isNew) answered.push("Set-Cookie", `${STICKY_COOKIE}=${this.#member}; Path=/; HttpOnly; SameSite=Lax`);
    return answered;
  }

  get idle(): Visit["idle"] {
    return this.#visit?.idle;
  }

  /** A proxy in front that gathers answers (nginx) shall not gather those that come bit by bit. */
  #needsFlush(fields: string[]): boolean {
    if (fieldValue(fields, "x-accel-buffering") !== undefined) return false;
    if (fieldValue(fields, "content-type")?.startsWith("text/event-stream")) return true;
    const isUnframed = fieldValue(fields, "content-length") === undefined;
    return isUnframed && isTrusted(this.#peer.address, this.#context.trustedProxies);
  }

  mayKeep(): boolean {
    return this.#site.accepts(this.origin, this.#visitor);
  }

  upgraded(): void {
    this.#visit?.upgraded?.();
  }

  settled(): void {
    this.#isSettled = true;
    this.#leave?.();
    this.#visit?.end();
  }
}

/** How a visitor is told of errors: as a site does, in a form it asked for. */
export function siteErrorStyle(head: RequestHead | undefined): ErrorStyle {
  return { asOrigin: true, accept: fieldValue(head?.fields ?? [], "accept") ?? "" };
}

function isForwardedField(name: string): boolean {
  return name === "forwarded" || name === "x-real-ip" || name.startsWith("x-forwarded-");
}

function edited(fields: string[], edits: readonly FieldEdit[]): string[] {
  if (edits.length === 0) return fields;
  const names = new Set(edits.map(({ name }) => name.toLowerCase()));
  const kept = withoutFields(fields, (name) => names.has(name));
  for (const { name, value } of edits) if (value !== undefined) kept.push(name, value);
  return kept;
}

function cookie(head: RequestHead, name: string): string | undefined {
  const lines = fieldValues(head.fields, "cookie");
  if (lines.length === 0) return undefined;
  const pairs = lines.flatMap((line) => line.split(";"));
  return pairs
    .map((pair) => pair.trim())
    .find((pair) => pair.startsWith(`${name}=`))
    ?.slice(name.length + 1);
}

/** Our own cookie is nobody else's business. */
function withoutCookie(fields: string[], name: string): string[] {
  if (!fields.some((value) => value.includes(`${name}=`))) return fields;
  return fields.flatMap((value, index) => {
    if (index % 2 === 0) return [];
    const field = fields[index - 1]!;
    if (field.toLowerCase() !== "cookie") return [field, value];
    const others = value.split(";").filter((pair) => !pair.trim().startsWith(`${name}=`));
    return others.length === 0 ? [] : [field, others.join(";").trim()];
  });
}

/** RFC 7239 section 6: IPv6 in brackets and quotes. */
function node(address: string): string {
  if (address === "") return "unknown";
  return address.includes(":") ? `"[${address}]"` : address;
}

function quotedHost(host: string): string {
  return /^[A-Za-z0-9.-]+$/.test(host) ? host : `"${host.replace(/["\\]/g, "")}"`;
}
