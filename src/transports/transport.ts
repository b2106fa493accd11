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
