import { formatTarget, parseIp, tcpTarget, type Target, type TcpTarget } from "../core/address.ts";
import type { Deadline } from "../core/clock.ts";
import { SeikanError, toSeikanError, type ErrorCode } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import * as socks from "../wire/socks.ts";
import { decodeStep, readStep } from "./handshake.ts";
import type { Dialer, DialOptions } from "./transport.ts";

export interface SocksHop {
  readonly version: 5 | 4;
  readonly proxy: TcpTarget;
  readonly credentials: socks.SocksCredentials | undefined;
  /** Turns a name into an address here (`socks5://`); undefined leaves it to the proxy (`socks5h://`, 4a). */
  readonly resolve: ((target: TcpTarget, options: DialOptions) => Promise<string>) | undefined;
}

/** A dialer that asks the SOCKS proxy, reached by `reach`, for each target. */
export function socksDialer(hop: SocksHop, reach: Dialer): Dialer {
  const peer = `SOCKS proxy ${formatTarget(hop.proxy)}`;
  return async (target, options) => {
    const wanted = await addressed(hop, tcpOnly(target), options);
    const stream = await reach(hop.proxy, { deadline: options.deadline, trace: options.trace });
    try {
      if (hop.version === 5) await ask5(stream, hop, wanted, peer, options.deadline);
      else await ask4(stream, hop, wanted, peer, options.deadline);
      const request = `CONNECT ${formatTarget(wanted)}`;
      options.trace?.({ kind: "answer", hop: peer, request, status: undefined, reason: "succeeded", agreed: true });
      return stream;
    } catch (thrown) {
      const error = named(peer, toSeikanError(thrown));
      stream.abort(error);
      throw error;
    }
  };
}

/** In a chain it must be clear who said nonsense. */
function named(peer: string, error: SeikanError): SeikanError {
  if (error.code !== "hop-protocol" || error.message.includes(peer)) return error;
  const hints = ["is this the right host and port, and the right kind of proxy?"];
  return new SeikanError(error.code, `${peer}: ${error.message}`, { cause: error, hints });
}

function tcpOnly(target: Target): TcpTarget {
  if (target.kind === "tcp") return target;
  throw new SeikanError("usage", `a SOCKS proxy cannot reach ${formatTarget(target)}`);
}

async function addressed(hop: SocksHop, target: TcpTarget, options: DialOptions): Promise<TcpTarget> {
  const wanted = hop.resolve === undefined ? target : tcpTarget(await hop.resolve(target, options), target.port);
  if (hop.version === 4 && parseIp(wanted.host)?.kind() === "ipv6") {
    throw new SeikanError("hop-refused", `SOCKS 4 cannot reach the IPv6 address ${wanted.host}`, {
      hints: ["use socks5://"],
    });
  }
  return wanted;
}

async function ask5(
  stream: ByteStream,
  hop: SocksHop,
  target: TcpTarget,
  peer: string,
  deadline: Deadline,
): Promise<void> {
  const methods = hop.credentials === undefined ? [socks.NO_AUTH] : [socks.NO_AUTH, socks.USER_PASSWORD];
  stream.write(socks.encodeGreeting(methods));
  const method = await readStep(stream, decodeStep(socks.decodeMethodChoice), deadline, peer);
  if (method === socks.USER_PASSWORD && hop.credentials !== undefined) {
    stream.write(socks.encodeCredentials(hop.credentials));
    const accepted = await readStep(stream, decodeStep(socks.decodeCredentialsReply), deadline, peer);
    if (!accepted) throw new SeikanError("hop-auth", `${peer} refused the user or password`);
  } else if (method !== socks.NO_AUTH) {
    const offer =
      hop.credentials === undefined ? "wants a user and password" : "accepts none of our authentication methods";
    throw new SeikanError("hop-auth", `${peer} ${offer}`, {
      hints: ["write them into the URL: socks5://USER:PASS@HOST:PORT"],
    });
  }
  stream.write(socks.encodeRequest(target));
  const code = await readStep(stream, decodeStep(socks.decodeReply), deadline, peer);
  if (code !== 0) throw refusal(peer, target, socks.socks5Sentence(code));
}

async function ask4(
  stream: ByteStream,
  hop: SocksHop,
  target: TcpTarget,
  peer: string,
  deadline: Deadline,
): Promise<void> {
  stream.write(socks.encodeRequest4(target, hop.credentials?.user ?? ""));
  const code = await readStep(stream, decodeStep(socks.decodeReply4), deadline, peer);
  if (code !== 90) throw refusal(peer, target, `code ${code}`);
}

function refusal(peer: string, target: TcpTarget, why: string): SeikanError {
  return new SeikanError("hop-refused", `${peer} refused ${formatTarget(target)}: ${why}`);
}

// --- the server's side -----------------------------------------------------

export interface SocksInbound {
  readonly request: socks.SocksRequest;
  /** Who authenticated; undefined when nobody had to. */
  readonly user: string | undefined;
}

/** Checks a user; resolves to false when it is none of ours. */
export type VerifyUser = (credentials: socks.SocksCredentials) => Promise<boolean>;

/**
 * Reads a SOCKS request off an accepted stream. With `verify` a client must
 * authenticate; SOCKS 4 has no way to, so it is refused then.
 */
export async function acceptSocks(
  stream: ByteStream,
  version: number,
  verify: VerifyUser | undefined,
  deadline: Deadline,
): Promise<SocksInbound> {
  if (version === 4) {
    const request = await readStep(stream, decodeStep(socks.decodeRequest4), deadline, stream.label);
    if (verify === undefined) return { request, user: undefined };
    stream.write(socks.encodeReply4(false));
    throw new SeikanError("auth-required", "SOCKS 4 cannot authenticate");
  }
  const user = await authenticate(stream, verify, deadline);
  const request = await readStep(stream, decodeStep(socks.decodeRequest), deadline, stream.label);
  return { request, user };
}

async function authenticate(
  stream: ByteStream,
  verify: VerifyUser | undefined,
  deadline: Deadline,
): Promise<string | undefined> {
  const offered = await readStep(stream, decodeStep(socks.decodeGreeting), deadline, stream.label);
  const method = verify === undefined ? socks.NO_AUTH : socks.USER_PASSWORD;
  if (!offered.includes(method)) {
    stream.write(Uint8Array.of(5, socks.NO_ACCEPTABLE_METHOD));
    throw new SeikanError("auth-required", "the SOCKS client offers no authentication we accept");
  }
  stream.write(Uint8Array.of(5, method));
  if (verify === undefined) return undefined;
  const credentials = await readStep(stream, decodeStep(socks.decodeCredentials), deadline, stream.label);
  const accepted = await verify(credentials);
  stream.write(Uint8Array.of(1, accepted ? 0 : 1));
  if (!accepted) throw new SeikanError("auth-required", `wrong user or password for ${credentials.user}`);
  return credentials.user;
}

/** `bound`: where the client shall send its datagrams. */
export function answerSocks(
  stream: ByteStream,
  version: 4 | 5,
  reply: socks.Socks5Reply,
  bound?: { readonly host: string; readonly port: number },
): void {
  stream.write(version === 5 ? socks.encodeReply(reply, bound) : socks.encodeReply4(reply === "succeeded"));
}

const REPLIES: Partial<Record<ErrorCode, socks.Socks5Reply>> = {
  "target-denied": "denied",
  "address-denied": "denied",
  "connect-refused": "refused",
  "name-not-found": "host-unreachable",
  "connect-failed": "host-unreachable",
  "connect-timeout": "ttl-expired",
  "name-timeout": "ttl-expired",
};

/** How SOCKS 5 says what went wrong. */
export function socksReplyFor(error: SeikanError): socks.Socks5Reply {
  return REPLIES[error.code] ?? "failure";
}
