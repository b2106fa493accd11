import type { Network } from "../core/address.ts";
import type { Deadline } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import type { RequestHead } from "../wire/http1.ts";
import type { Way } from "./route-table.ts";
import type { IdleConnection } from "./upstream.ts";
import type { Users } from "./users.ts";

/** Who visits a site, as far as we believe it. */
export interface Visitor {
  /** Without port; empty for unix sockets. */
  readonly address: string;
  readonly port: number;
  readonly isSecure: boolean;
  /** Host as it was asked for, port included. */
  readonly host: string;
  /** The member of a group that answered before. */
  readonly member: string | undefined;
}

/** A field that is set (over what came), or removed. */
export interface FieldEdit {
  readonly name: string;
  readonly value: string | undefined;
}

/** What is asked of visitors, and what changes on the way. */
export interface SitePolicy {
  /** Undefined: no password is asked for. */
  readonly users: Users | undefined;
  /** Empty: everybody may. */
  readonly clients: readonly Network[];
  /** Replaces the visitor's `Host`. */
  readonly hostHeader: string | undefined;
  readonly requestFields: readonly FieldEdit[];
  readonly responseFields: readonly FieldEdit[];
  /** What keeps a visitor with the same member of a group. */
  readonly sticky: "cookie" | "address" | undefined;
}

/** Everybody may, and nothing changes. */
export const OPEN_POLICY: SitePolicy = {
  ...{ users: undefined, clients: [], hostHeader: undefined, requestFields: [], responseFields: [], sticky: undefined },
};

/** What visitors of a host reach: an exposure of an agent, a service. */
export interface Site {
  readonly policy: SitePolicy;
  /**
   * Opens a connection to whoever serves it, for this request; `tries` hears of each way that is tried.
   * `onGone` takes what is to be called when the visitor leaves meanwhile.
   */
  reach(
    visitor: Visitor,
    deadline: Deadline,
    tries: (way: Way) => void,
    head: RequestHead,
    onGone: (leave: () => void) => void,
  ): Promise<Reached>;
  /** A connection to this origin, opened before, may take one more request. */
  accepts(origin: string, visitor: Visitor): boolean;
  /** A request begins at this origin. */
  begin(origin: string): Visit;
  /** Asks whoever serves it for a sign that it can be reached. Rejects when it cannot. */
  probe(nonce: string, deadline: Deadline): Promise<void>;
}

export interface Visit {
  readonly way: Way | undefined;
  /** Where connections to the origin are listed that wait for a further request. */
  readonly idle: Set<IdleConnection> | undefined;
  /** It became a connection of its own: a WebSocket. */
  upgraded?(): void;
  /** It is over. */
  end(): void;
}

/** What is asked of a host. */
export interface Asked {
  /** Origin-form; undefined: anything there. */
  readonly path: string | undefined;
  /** The request comes from outside. */
  readonly exposed: boolean;
}

export interface Reached {
  readonly stream: ByteStream;
  /** Names whoever answers: a further request on the same connection goes there, too. */
  readonly origin: string;
  /** Names the member of the group, for a cookie. */
  readonly member: string | undefined;
}

/** The hosts of a server. */
export interface Sites {
  /** The site of a host (canonical, without port); undefined: it is none. Throws for one that is ours and not there. */
  find(host: string, asked: Asked): Site | undefined;
  /** True for names that lead to this server's own paths; `exposed`: the request comes from outside. */
  isApex(host: string, exposed: boolean): boolean;
  /** What a request is told whose host is nobody's. */
  unknown(host: string, exposed: boolean): SeikanError;
}

/** What whoever asks for a site is told that there is not. */
export function noSuchSite(host: string): SeikanError {
  return new SeikanError("no-such-site", `there is no site ${host.slice(0, 253)} here`, {
    hints: ["is its agent running, and is the name spelt right?"],
  });
}
