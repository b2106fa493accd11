import { formatHostPort, tcpTarget, type Target } from "../core/address.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { descriptorsLeft } from "../platform/descriptors.ts";
import { tlsClient } from "../transports/tls.ts";
import type { Dialer, DialOptions } from "../transports/transport.ts";
import { encodeProxyHeader } from "../wire/proxy-protocol.ts";
import type { Place, ServiceSettings } from "./settings.ts";

const LOOPBACKS = ["127.0.0.1", "::1"] as const;

/** What stands between TCP and HTTP. */
export type Spoken = Pick<ServiceSettings, "tls" | "insecure" | "proxyProtocol">;

/** Where a service listens, once its port is known. Knows which loopback address answered last. */
export class ServiceAddress {
  readonly #direct: Dialer;
  readonly #targets: Target[];
  readonly #spoken: Spoken;

  /** `direct` dials without any hop. */
  constructor(place: Place, port: number | undefined, direct: Dialer, spoken: Spoken) {
    this.#direct = direct;
    this.#spoken = spoken;
    const loopback = port === undefined ? [] : LOOPBACKS.map((host) => tcpTarget(host, port));
    this.#targets = place.kind === "loopback" ? loopback : [place.target];
  }

  /** Rejects with `connect-refused` only where nobody listens. */
  async dial(options: DialOptions): Promise<ByteStream> {
    const { tls, insecure, proxyProtocol } = this.#spoken;
    const stream = await this.#connect(options);
    if (proxyProtocol) stream.write(encodeProxyHeader(options.source));
    if (!tls) return stream;
    const target = this.#targets[0]!;
    const isNamed = target.kind === "tcp" && !LOOPBACKS.some((host) => host === target.host);
    const serverName = isNamed ? target.host : "localhost";
    return tlsClient(stream, { serverName, insecure, peer: this.name, alpn: ["http/1.1"] }, options.deadline);
  }

  get name(): string {
    const target = this.#targets[0];
    if (target === undefined) return "no port yet";
    return target.kind === "unix" ? `unix:${target.path}` : formatHostPort(target.host, target.port);
  }

  async #connect(options: DialOptions): Promise<ByteStream> {
    let refusal: SeikanError | undefined;
    for (const target of [...this.#targets]) {
      try {
        const stream = await this.#direct(target, options);
        // The one that answered comes first from now on.
        if (target !== this.#targets[0])
          this.#targets.unshift(...this.#targets.splice(this.#targets.indexOf(target), 1));
        return stream;
      } catch (thrown) {
        const error = toSeikanError(thrown);
        if (!isAbsent(error) && !isNoAddress(error, this.#targets)) throw error;
        if (refusal === undefined || !isAbsent(refusal)) refusal = error;
      }
    }
    // A lack of descriptors looks the same.
    if (!descriptorsLeft()) throw new SeikanError("limit-reached", "no file descriptors are left");
    throw refusal ?? new SeikanError("connect-refused", "it has no port yet");
  }
}

/** A machine without one of the IP versions has one loopback address only. */
function isNoAddress({ cause }: SeikanError, targets: readonly Target[]): boolean {
  const { code } = (cause ?? {}) as { code?: string };
  return targets.length > 1 && ["EADDRNOTAVAIL", "EAFNOSUPPORT", "ENETUNREACH", "EHOSTUNREACH"].includes(code ?? "");
}

/** Nobody listens there: refused, or a unix socket that is not there. */
export function isAbsent(error: SeikanError): boolean {
  if (error.code === "connect-refused") return true;
  return (error.cause as { code?: string } | undefined)?.code === "ENOENT";
}
