import { formatHostPort, tcpTarget, type Network, type Target } from "../core/address.ts";
import { deadlineIn } from "../core/clock.ts";
import type { SeikanError } from "../core/errors.ts";
import type { Logger } from "../core/log.ts";
import type { LiveSet } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import type { Peer } from "../transports/transport.ts";
import type { HeadLimits, RequestHead } from "../wire/http1.ts";
import type { ErrorStyle } from "./answers.ts";
import type { Destination } from "./forward.ts";
import type { Permissions } from "./permissions.ts";
import type { Routes, Way } from "./route-table.ts";
import type { Sites } from "./sites.ts";
import type { TlsEntry } from "./tls-entry.ts";
import type { Users } from "./users.ts";

/** What bounds each connection. All times in milliseconds, 0 switches a time-out off. */
export interface Limits {
  readonly head: HeadLimits;
  /** From the first byte we wait for to the end of the head. */
  readonly headMs: number;
  /** A request body that makes no progress. */
  readonly bodyMs: number;
  /** From a whole request to the head of its answer, at our own sites. */
  readonly answerMs: number;
  /** From dialling to the answer of the last hop. */
  readonly connectMs: number;
  /** A half-open, silent tunnel. */
  readonly lingerMs: number;
  /** A fully open, silent tunnel. */
  readonly idleMs: number;
}

/** Everything the routes share: one per server, or per dynamic listener of `connect`. */
export interface RouteContext {
  readonly routes: Routes;
  readonly permissions: Permissions;
  /** Undefined: nobody has to authenticate, wherever a request comes from. */
  readonly users: Users | undefined;
  /** `--no-auth`: an exposed listener dials for anybody. */
  readonly openToAll: boolean;
  /** What lives at paths of ours. */
  readonly endpoints: readonly Endpoint[];
  readonly gateways: readonly Gateway[];
  /** How TLS is spoken with origins of absolute-form `https://` requests; undefined: those are refused, as proxies do. */
  readonly originTls?: { readonly insecure: boolean };
  /** What visitors reach by Host; undefined: nothing. */
  readonly sites: Sites | undefined;
  /** For clients that speak TLS on plain listeners; undefined: they are refused. */
  readonly tls: TlsEntry | undefined;
  /** Peers whose word about who asks is believed. */
  readonly trustedProxies: readonly Network[];
  readonly limits: Limits;
  /** Our pseudonym in `Via`; undefined: none is added. */
  readonly via: string | undefined;
  /** The name before `Proxy-Status` errors (RFC 9209). */
  readonly proxyName: string;
  /** Origin-form requests are told what this is and how to use it. */
  readonly greeting: string;
  readonly isDraining: () => boolean;
  readonly live: LiveSet;
  readonly log: Logger;
  readonly access: (entry: AccessEntry) => void;
}

/** Where a connection came from. */
export interface Client {
  /** Without port; empty for unix sockets. After a PROXY header the real one. */
  readonly address: string;
  readonly port: number;
  /** The listener can be reached from other machines (docs: "Who may do what"). */
  readonly exposed: boolean;
  /** It speaks TLS with us. */
  readonly isSecure: boolean;
  /** It may begin to, where others must have begun before. */
  readonly maySecure?: boolean;
  /** Settled by the tunnel that carries this connection: who it belongs to, if to anybody. */
  readonly login?: { readonly user: string | undefined };
  /** It is our own server: whom it speaks for is in `Forwarded`. */
  readonly isServer?: boolean;
}

/** A client for people and logs. */
export function formatPeer({ address, port }: { readonly address: string; readonly port: number }): string {
  return address === "" ? "unix" : formatHostPort(address, port);
}

/** Who asks for a target. */
export interface Asker {
  readonly client: Client;
  readonly exposed: boolean;
  readonly user: string | undefined;
  /** The agent that shall dial, where the request names one (`Seikan-Agent`). */
  readonly agent?: string | undefined;
}

/** An origin-form or absolute-form GET for one of our own paths, after which the connection is no HTTP any more. */
export interface UpgradeRequest {
  readonly context: RouteContext;
  readonly head: RequestHead;
  /** Without the query. */
  readonly path: string;
  readonly client: Client;
  readonly exposed: boolean;
  /** Resolves to the user; throws when there must be one. Credentials come in `Authorization` or `Proxy-Authorization`. */
  authorize(): Promise<string | undefined> | undefined;
  /** Gives the connection away; undefined when the client has gone meanwhile. */
  leave(): ByteStream | undefined;
}

/** Something that lives at a path of ours. */
export interface Endpoint {
  /** What a connection to it is upgraded to; undefined: it answers in HTTP. */
  readonly protocol?: "websocket" | "connect-udp";
  matches(path: string): boolean;
  /** It is there under every host, and sees by itself who asks: pages in browsers by their Origin. */
  readonly checksHost?: boolean;
  /** Throws to refuse: the client is told in plain HTTP. */
  serve(request: UpgradeRequest): Promise<void>;
}

/** A request at a path of ours that goes on to somewhere else. */
export interface GatewayRequest {
  readonly context: RouteContext;
  readonly head: RequestHead;
  readonly asker: Asker;
}

/** A path of ours whose requests go on. */
export interface Gateway {
  matches(path: string): boolean;
  /** Throws to refuse. Whoever asks was let in. */
  destination(request: GatewayRequest): Destination;
  /** How errors are told. */
  readonly style: ErrorStyle;
}

/** One line of the access log. */
export interface AccessEntry {
  readonly kind: "tunnel" | "request";
  readonly client: Client;
  readonly user: string | undefined;
  readonly method: string;
  readonly target: string;
  readonly way: Way | undefined;
  /** What the client was answered; 0: nothing. */
  readonly status: number;
  readonly up: number;
  readonly down: number;
  readonly startedAt: number;
  readonly error: SeikanError | undefined;
}

/** Throws unless this may be dialled for whoever asks. */
export function checkTarget(context: RouteContext, target: Target, way: Way, asker: Asker): void {
  if (target.kind === "unix" || (way.resolvesHere && way.agent === undefined)) return;
  context.permissions.checkName(tcpTarget(target.host, target.port), asker, way.agent);
}

/** Dials with every check: the names here or there, the addresses, the time. */
export function dialTarget(context: RouteContext, target: Target, way: Way, asker: Asker): Promise<ByteStream> {
  checkTarget(context, target, way, asker);
  const deadline = deadlineIn(context.limits.connectMs);
  return way.dial(target, {
    deadline,
    source: { ...peerOf(asker.client), isInside: !asker.exposed },
    permit: (address, tcp) => context.permissions.checkAddress(address, tcp, asker.exposed),
  });
}

/** Dials what the configuration itself names. */
export function dialGranted(context: RouteContext, target: Target, way: Way, source: Client): Promise<ByteStream> {
  return way.dial(target, { deadline: deadlineIn(context.limits.connectMs), source: peerOf(source) });
}

/** Where somebody is, and nothing of who that is. */
function peerOf({ address, port }: Client): Peer {
  return { address, port };
}
