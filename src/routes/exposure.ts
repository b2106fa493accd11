import {
  inNetwork,
  parseAddressRange,
  parseIp,
  privateName,
  tcpTarget,
  udpTarget,
  type Target,
} from "../core/address.ts";
import { deadlineIn, now, type Deadline } from "../core/clock.ts";
import { SeikanError, toSeikanError, type ErrorCode } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import type { DialOptions, Listener, Peer } from "../transports/transport.ts";
import type { ExposureSpec } from "../wire/registration.ts";
import type { ConnectedAgent } from "./agent.ts";
import { formatPeer, type AccessEntry } from "./context.ts";
import type { Way } from "./route-table.ts";
import type { FieldEdit, Reached, Site, SitePolicy, Visit, Visitor } from "./sites.ts";
import { Users } from "./users.ts";

/** How long a member that failed comes last. */
const DOUBT_MS = 10_000;

/** One agent's part in an exposure. */
export class Member {
  readonly agent: ConnectedAgent;
  spec: ExposureSpec;
  /** Names it in a cookie, without telling who it is. */
  readonly id: string;
  readonly way: Way;
  isHealthy: boolean;
  inFlight = 0;
  #failedAt = -Infinity;

  constructor(agent: ConnectedAgent, spec: ExposureSpec) {
    this.agent = agent;
    this.spec = spec;
    this.id = new Bun.CryptoHasher("sha256").update(`${agent.key} ${spec.name}`).digest("hex").slice(0, 16);
    this.isHealthy = spec.healthy ?? true;
    this.way = {
      hops: [{ scheme: "agent", proxy: tcpTarget(agent.name, 0), path: "", secret: undefined }],
      dial: (_, options) => this.dial(options),
      httpProxy: undefined,
      probe: () => Promise.resolve(),
      tunnels: [],
      resolvesHere: true,
      agent: agent.name,
      reason: `exposure ${spec.name}`,
      onAccess: (entry) => this.#tell(entry),
    };
  }

  /** The agent registered it anew. */
  update(spec: ExposureSpec): void {
    this.spec = spec;
    this.isHealthy = spec.healthy ?? true;
  }

  /** It could not be reached, or its service could not. */
  failed(): void {
    this.#failedAt = now();
  }

  /** Others are asked first for a while. */
  get isDoubtful(): boolean {
    return now() - this.#failedAt < DOUBT_MS;
  }

  get canServe(): boolean {
    return this.isHealthy && this.agent.takesStreams;
  }

  dial(options: DialOptions): Promise<ByteStream> {
    return this.agent.dial(this.#target(this.spec.name), options);
  }

  /** Comes back to the agent by this nonce; nothing is dialled there. */
  async probe(nonce: string, deadline: Deadline): Promise<void> {
    const stream = await this.agent.dial(tcpTarget(privateName(`${nonce}.probe`), 1), { deadline });
    stream.abort(new SeikanError("cancelled", "it was only tried"));
  }

  #target(name: string): Target {
    const { kind, port } = this.spec;
    return kind === "udp" ? udpTarget(privateName(name), port || 1) : tcpTarget(privateName(name), port || 80);
  }

  #tell(entry: AccessEntry): void {
    this.agent.tell({
      event: "request",
      exposure: this.spec.name,
      peer: formatPeer(entry.client),
      method: entry.method,
      target: entry.target.slice(0, 500),
      status: entry.status,
      up: entry.up,
      down: entry.down,
      ms: Math.round(now() - entry.startedAt),
      ...(entry.error === undefined ? {} : { why: entry.error.forLog }),
    });
  }
}

/** Something that agents offer to visitors: a host, a port, a private name. */
export class Exposure implements Site {
  /** `http:web.tunnel.example.com`, `tcp:5432`, `private:db` */
  readonly id: string;
  spec: ExposureSpec;
  policy: SitePolicy;
  readonly members: Member[] = [];
  /** Of `tcp` and `udp`. */
  listener: Listener | undefined;
  /** When its last member left, on `now()`'s clock. */
  emptySince = 0;

  constructor(id: string, spec: ExposureSpec) {
    this.id = id;
    this.spec = spec;
    this.policy = policyOf(spec);
  }

  /** What all members of a group must agree on. */
  static terms({ kind, host, port, auth, clients, hostHeader, requestFields, responseFields, sticky }: ExposureSpec) {
    const none = { host, port, auth, clients, hostHeader, requestFields, responseFields, sticky };
    return JSON.stringify([kind, none]);
  }

  /** The only agent that has it changed its terms. */
  update(spec: ExposureSpec): void {
    const isSame = Exposure.terms(spec) === Exposure.terms(this.spec);
    this.spec = spec;
    if (!isSame) this.policy = policyOf(spec);
  }

  // --- as a site --------------------------------------------------------------

  async reach(visitor: Visitor, deadline: Deadline, tries: (way: Way) => void = () => {}): Promise<Reached> {
    const { stream, member } = await this.#connect(visitor, deadline, tries);
    return { stream, origin: this.#originOf(member, visitor), member: member.id };
  }

  /** Several visitors may come over one connection of a proxy in front: each has its own connections from there on. */
  #originOf({ id }: Member, { address }: Pick<Visitor, "address">): string {
    return `${this.id} ${id} ${address}`;
  }

  accepts(origin: string, visitor: Visitor): boolean {
    const kept = this.#memberOf(origin);
    if (kept === undefined || origin !== this.#originOf(kept, visitor) || !kept.canServe) return false;
    const wants = this.policy.sticky === "cookie" ? visitor.member : undefined;
    return (
      wants === undefined || wants === kept.id || !this.members.some(({ id, canServe }) => id === wants && canServe)
    );
  }

  begin(origin: string): Visit {
    const member = this.#memberOf(origin);
    if (member === undefined) return { way: undefined, idle: undefined, end() {} };
    member.inFlight++;
    return { way: member.way, idle: member.agent.idle, end: () => void member.inFlight-- };
  }

  async probe(nonce: string, deadline: Deadline): Promise<void> {
    const tries = this.members.map((member) => member.probe(nonce, deadline));
    await Promise.any(tries).catch(() => {
      throw new SeikanError("no-such-site", "no agent here waits for that probe");
    });
  }

  #memberOf(origin: string): Member | undefined {
    return this.members.find(({ id }) => origin.startsWith(`${this.id} ${id} `));
  }

  /** How its visitors are named in the log, and to whoever serves it. */
  get target(): Target {
    const { kind, name, port } = this.spec;
    return kind === "udp" ? udpTarget(privateName(name), port ?? 0) : tcpTarget(privateName(name), port ?? 0);
  }

  welcomes(visitor: string): boolean {
    const { clients } = this.policy;
    const address = parseIp(visitor);
    return clients.length === 0 || (address !== undefined && clients.some((network) => inNetwork(address, network)));
  }

  // --- as a target --------------------------------------------------------------

  /** The way of one connection of a visitor. */
  wayFor(visitor: Peer): Way {
    const { stand, order } = this.#order({ ...visitor, member: undefined });
    const first = order[0];
    if (first === undefined) throw this.#away(stand);
    let chosen = first;
    const dial = async (_: Target, options: DialOptions) => {
      const { stream, member } = await this.#connect({ ...visitor, member: undefined }, options.deadline);
      chosen = member;
      member.inFlight++;
      void stream.closed.then(() => member.inFlight--);
      return stream;
    };
    return { ...first.way, dial, onAccess: (entry) => chosen.way.onAccess?.(entry) };
  }

  // --- members --------------------------------------------------------------------

  /** One after the other: nothing of a request was sent yet, so the next may be asked. */
  async #connect(visitor: Peer & Pick<Visitor, "member">, deadline: Deadline, tries: (way: Way) => void = () => {}) {
    const { stand, order } = this.#order(visitor);
    let failure: SeikanError | undefined;
    for (const [index, member] of order.entries()) {
      // While there is another one to ask, this one does not get all the time.
      const isLast = index === order.length - 1;
      const share = isLast ? deadline : now() + (deadline - now()) / 2;
      const until = Math.max(share, deadlineIn(member.spec.startMs ?? 0));
      tries(member.way);
      member.inFlight++;
      try {
        return { stream: await member.dial({ deadline: until, source: visitor }), member };
      } catch (thrown) {
        failure = toSeikanError(thrown);
        member.failed();
      } finally {
        member.inFlight--;
      }
    }
    throw failure === undefined ? this.#away(stand) : visitorsError(failure);
  }

  /** Whoever can serve, best first: the one it was with before, then the least busy. */
  #order({ address, member }: Pick<Visitor, "address" | "member">): { stand: "away" | "unhealthy"; order: Member[] } {
    const able = this.members.filter(({ canServe }) => canServe);
    const stand = this.members.some(({ agent }) => agent.takesStreams) ? "unhealthy" : "away";
    if (able.length < 2) return { stand, order: able };
    const { sticky } = this.policy;
    if (sticky === "address") return { stand, order: rendezvous(able, address) };
    const order = able
      .map((one) => ({ one, rank: one.inFlight + Math.random() / 2 + (one.isDoubtful ? 1e6 : 0) }))
      .sort((a, b) => a.rank - b.rank)
      .map(({ one }) => one);
    const before = sticky === "cookie" ? order.find(({ id }) => id === member) : undefined;
    return { stand, order: before === undefined ? order : [before, ...order.filter((one) => one !== before)] };
  }

  #away(stand: "away" | "unhealthy"): SeikanError {
    return stand === "away" ? away() : new SeikanError("site-away", "the service behind this site is not well");
  }
}

/** What visitors of a site are told whose agent was here a while ago. */
export function away(): SeikanError {
  return new SeikanError("site-away", "the agent that serves this site is not connected", {
    hints: ["it may be back in a moment: try again"],
  });
}

/** The same visitor gets the same member as long as that is there (rendezvous hashing). */
function rendezvous(members: readonly Member[], address: string): Member[] {
  return members
    .map((member) => ({ member, rank: Bun.hash(`${address} ${member.id}`) as bigint }))
    .sort((a, b) => (a.rank < b.rank ? -1 : 1))
    .map(({ member }) => member);
}

const REFUSALS: ReadonlyMap<string, readonly [ErrorCode, string]> = new Map([
  ["connection_refused", ["connect-refused", "the service behind this site refuses connections: is it running?"]],
  ["connection_timeout", ["connect-timeout", "the service behind this site does not answer"]],
  ["dns_error", ["name-not-found", "the service behind this site has a name that its agent cannot look up"]],
  ["tls_protocol_error", ["tls-failed", "the service behind this site does not speak TLS as its agent expects"]],
  [
    "tls_certificate_error",
    ["tls-certificate", "the service behind this site has a certificate its agent does not trust"],
  ],
]);

/** Why an agent did not reach its service, without its names and addresses; those are for the log. */
function visitorsError(error: SeikanError): SeikanError {
  const forLog = [error.message, ...error.hints].join("; ");
  const known = REFUSALS.get(error.hopError ?? "");
  if (known !== undefined) return new SeikanError(known[0], known[1], { cause: error, forLog });
  if (error.code === "connect-timeout")
    return new SeikanError(error.code, "the agent that serves this site does not answer", { cause: error, forLog });
  if (error.code === "hop-refused")
    return new SeikanError("hop-refused", "the service behind this site cannot be reached", { cause: error, forLog });
  return new SeikanError("site-away", "the agent that serves this site was lost", { cause: error, forLog });
}

function policyOf({ auth, clients, hostHeader, requestFields, responseFields, sticky }: ExposureSpec): SitePolicy {
  return {
    users: auth === undefined || auth.length === 0 ? undefined : new Users(auth),
    clients: (clients ?? []).map(parseAddressRange),
    hostHeader,
    requestFields: (requestFields ?? []).map(toEdit),
    responseFields: (responseFields ?? []).map(toEdit),
    sticky,
  };
}

function toEdit([name, value]: readonly [string, string | null]): FieldEdit {
  return { name, value: value ?? undefined };
}
