import { formatTarget, type Target } from "../core/address.ts";
import { encodeProxyHeader } from "../wire/proxy-protocol.ts";
import { tlsClient } from "./tls.ts";
import type { Dialer } from "./transport.ts";

/** A service that the configuration names. */
export interface ServiceSettings {
  readonly target: Target;
  readonly tls: boolean;
  /** Any certificate is good. */
  readonly insecure: boolean;
  /** It wants a PROXY header (version 2) that says whom the connection is for. */
  readonly proxyProtocol: boolean;
}

/** Dials one service, whatever target is asked for: who may ask was decided before. */
export function serviceDialer({ target, tls, insecure, proxyProtocol }: ServiceSettings, direct: Dialer): Dialer {
  return async (_, { deadline, source }) => {
    const stream = await direct(target, { deadline });
    if (proxyProtocol) stream.write(encodeProxyHeader(source));
    if (!tls) return stream;
    const serverName = target.kind === "unix" ? "localhost" : target.host;
    const peer = formatTarget(target);
    return tlsClient(stream, { serverName, insecure, peer, alpn: ["http/1.1"] }, deadline);
  };
}
