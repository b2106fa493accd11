import type { IpAddress, Target, TcpTarget } from "../core/address.ts";
import type { Deadline } from "../core/clock.ts";
import type { ByteStream } from "../core/stream.ts";

export interface DialOptions {
  /** The whole dial, every hop included, rejects with `connect-timeout` after this moment. */
  readonly deadline: Deadline;
  /**
   * Throws when this address must not be dialled. Asked for every address that
   * a name resolves to, before a packet is sent there.
   */
  readonly permit?: (address: IpAddress, target: TcpTarget) => void;
  /** Hears of each step once it is done. */
  readonly trace?: Trace | undefined;
  /** Whom this is dialled for, where a PROXY header or a log at the far end says so. */
  readonly source?: Source | undefined;
}

/** Whom something is dialled for. */
export interface Source extends Peer {
  /** It asked from this machine, and nothing stood in between; left out: that is not known. */
  readonly isInside?: boolean;
}

export type Trace = (step: TraceStep) => void;

/** What a dial learnt on its way, for whoever looks at it step by step (`--check`). */
export type TraceStep =
  | { readonly kind: "lookup"; readonly host: string; readonly addresses: readonly string[] }
  | { readonly kind: "tcp" | "udp" | "unix"; readonly address: string }
  | { readonly kind: "tls"; readonly peer: string; readonly session: TlsFacts }
  | {
      readonly kind: "answer";
      readonly hop: string;
      readonly request: string;
      /** Of HTTP; SOCKS has none. */
      readonly status: number | undefined;
      readonly reason: string;
      /** It was the answer that was wanted. */
      readonly agreed: boolean;
    }
  | { readonly kind: "session"; readonly hop: string; readonly tripMs: number };

/** What a TLS handshake showed. */
export interface TlsFacts {
  /** The certificate is good, whether or not that was asked for. */
  readonly trusted: boolean;
  /** `TLSv1.3` */
  readonly version: string | undefined;
  readonly alpn: string | undefined;
  /** Of the certificate; undefined when none was shown. */
  readonly subject: string | undefined;
  readonly issuer: string | undefined;
  readonly expires: Date | undefined;
}

/** Opens a stream to the target, or rejects with a SeikanError. The caller owns the stream. */
export type Dialer = (target: Target, options: DialOptions) => Promise<ByteStream>;

/** Something that accepts. It is listening from the moment it exists. */
export interface Listener {
  /** `127.0.0.1:8080`, `[::1]:8080`, `unix:/path`: with the real port. */
  readonly addresses: readonly string[];
  /** Undefined for unix sockets. */
  readonly port: number | undefined;
  /** Stops accepting; accepted streams live on. Repeating it does nothing. */
  close(): void;
}

/** Gets every accepted stream and owns it. Called synchronously, must not throw. */
export type Accept = (stream: ByteStream, peer: Peer) => void;

/** The other end of an accepted stream. */
export interface Peer {
  /** Address without port; empty for unix sockets. */
  readonly address: string;
  readonly port: number;
}
