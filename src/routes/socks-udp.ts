import { formatHostPort, udpTarget, type TcpTarget } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { localAddressOf } from "../transports/socket.ts";
import { answerSocks } from "../transports/socks.ts";
import { bindUdp, createFlow, type Flow, type UdpSocket } from "../transports/udp.ts";
import { decodeUdpRequest, encodeUdpReply } from "../wire/socks.ts";
import { openTunnel } from "./connect.ts";
import type { Client, RouteContext } from "./context.ts";

/** Targets of one association at once. */
const MAX_FLOWS = 256;

/**
 * SOCKS 5 UDP ASSOCIATE (RFC 1928 section 7): a UDP socket for one client,
 * that lives as long as its TCP connection. Each target it sends to is a flow,
 * routed, permitted and logged like any tunnel. Owns `control`.
 */
export async function associateUdp(
  context: RouteContext,
  control: ByteStream,
  client: Client,
  user: string | undefined,
): Promise<void> {
  const host = localAddressOf(control);
  if (host === undefined) throw new SeikanError("request-unsupported", "UDP needs a SOCKS client that came over TCP");
  const association = new Association(context, client, user);
  const socket = await bindUdp(host, 0, (payload, address, port) => association.received(payload, address, port));
  association.socket = socket;
  answerSocks(control, 5, "succeeded", { host, port: socket.port });
  context.live.add(control);
  const { error } = await endOf(control);
  context.live.delete(control);
  association.close(error ?? new SeikanError("cancelled", "the SOCKS client ended its association"));
}

/** The connection says nothing more; its end, or that of the client, is the end of the association. */
function endOf(control: ByteStream): Promise<{ error: SeikanError | undefined }> {
  control.attach({ onData() {}, onEnd: () => control.end(), onDrain() {}, onClose() {} });
  return control.closed;
}

class Association {
  socket!: UdpSocket;
  readonly #context: RouteContext;
  readonly #client: Client;
  readonly #user: string | undefined;
  readonly #flows = new Map<string, Flow>();
  /** Where the client sends from: known with its first datagram. */
  #clientPort: number | undefined;

  constructor(context: RouteContext, client: Client, user: string | undefined) {
    this.#context = context;
    this.#client = client;
    this.#user = user;
  }

  received(payload: Uint8Array, address: string, port: number): void {
    // Only whoever authenticated may send.
    if (address !== this.#client.address || (this.#clientPort ?? port) !== port) return;
    const request = decodeUdpRequest(payload);
    if (request === undefined) return;
    this.#clientPort = port;
    this.#flowTo(request.target)?.received(request.payload);
  }

  #flowTo(target: TcpTarget): Flow | undefined {
    const name = formatHostPort(target.host, target.port);
    const known = this.#flows.get(name);
    if (known !== undefined || this.#flows.size >= MAX_FLOWS) return known;
    const flow = createFlow(
      `SOCKS 5 datagrams to ${name}`,
      (answer) => this.socket.send(encodeUdpReply(target, answer), this.#client.address, this.#clientPort!),
      () => this.#flows.delete(name),
    );
    this.#flows.set(name, flow);
    openTunnel(this.#context, flow.stream, {
      method: "SOCKS5-UDP",
      target: udpTarget(target.host, target.port),
      client: this.#client,
      exposed: this.#client.exposed,
      user: this.#user,
      acceptStatus: 200,
      accept: (stream) => stream,
      refuse(stream, error) {
        stream.abort(error);
        return error.outcome.status;
      },
    });
    return flow;
  }

  close(reason: SeikanError): void {
    this.socket.close();
    for (const flow of this.#flows.values()) flow.stream.abort(reason);
  }
}
