import { tcpDialer, type TcpOptions } from "./tcp.ts";
import type { Dialer } from "./transport.ts";

/** Dials from here, without any hop: TCP, unix sockets and UDP. */
export function directDialer(settings: TcpOptions): Dialer {
  const tcp = tcpDialer(settings);
  return async (target, options) => {
    if (target.kind !== "udp") return tcp(target, options);
    const { dialUdp } = await import("./udp.ts");
    return dialUdp(target, settings, options);
  };
}
