import { inNetwork, isLoopbackHost, parseIp, type Network } from "../core/address.ts";
import { after, deadlineIn } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream, Sink } from "../core/stream.ts";
import { decodeStep, readStep } from "../transports/handshake.ts";
import { decodeProxyHeader } from "../wire/proxy-protocol.ts";
import type { Client, RouteContext } from "./context.ts";
import { HttpConnection } from "./http.ts";
import { serveSocks } from "./socks.ts";
import { enterTls } from "./tls-entry.ts";

/** The protocols a listener speaks; `all` tells them apart by the first byte. */
export type Protocols = "all" | "http" | "socks";

const TLS_HANDSHAKE = 0x16;

/** Serves one accepted client in whatever protocol it begins with. Owns `stream`. */
export function serveClient(context: RouteContext, stream: ByteStream, client: Client, protocols: Protocols): void {
  stream.attach(new FirstByte(context, stream, client, protocols));
}

class FirstByte implements Sink {
  readonly #context: RouteContext;
  readonly #stream: ByteStream;
  readonly #client: Client;
  readonly #protocols: Protocols;
  readonly #cancel: () => void;

  constructor(context: RouteContext, stream: ByteStream, client: Client, protocols: Protocols) {
    this.#context = context;
    this.#stream = stream;
    this.#client = client;
    this.#protocols = protocols;
    const { headMs } = context.limits;
    const give = () => stream.abort(new SeikanError("head-timeout", "the client said nothing"));
    this.#cancel = headMs > 0 ? after(headMs, give) : () => {};
    context.live.add(this);
  }

  onData(chunk: Uint8Array): void {
    this.#leave();
    const stream = this.#stream;
    const first = chunk[0]!;
    stream.unread(chunk);
    const isSocks = first === 5 || first === 4;
    if (isSocks && this.#protocols !== "http") return this.#serveSocks(first);
    if (!isSocks && this.#protocols !== "socks") return this.#serveHttp(first);
    stream.detach();
    stream.abort(new SeikanError("bad-request", `this listener does not speak that protocol (first byte ${first})`));
  }

  onEnd(): void {
    this.#leave();
    this.#stream.end();
  }

  onDrain(): void {}

  onClose(): void {
    this.#leave();
  }

  /** Nothing was asked yet, so nothing is waited for. */
  drain(): void {
    this.abort(new SeikanError("shutdown", "shutting down"));
  }

  abort(reason: SeikanError): void {
    this.#stream.abort(reason);
  }

  #leave(): void {
    this.#cancel();
    this.#context.live.delete(this);
  }

  #serveSocks(version: 4 | 5): void {
    const { live } = this.#context;
    const stream = this.#stream;
    stream.detach();
    live.add(stream);
    void serveSocks(this.#context, stream, this.#client, version).finally(() => live.delete(stream));
  }

  #serveHttp(first: number): void {
    if (first === TLS_HANDSHAKE) return this.#serveTls();
    this.#context.live.add(new HttpConnection(this.#context, this.#stream, this.#client));
  }

  #serveTls(): void {
    const context = this.#context;
    const stream = this.#stream;
    const serve = (secured: ByteStream, client: Client) => serveClient(context, secured, client, this.#protocols);
    stream.detach();
    context.live.add(stream);
    void enterTls(context, stream, this.#client, serve)
      .catch((thrown: unknown) => stream.abort(toSeikanError(thrown)))
      .finally(() => context.live.delete(stream));
  }
}

/**
 * Reads the PROXY header a load balancer puts in front. Only trusted peers may
 * send one, and they must: the client's address depends on it.
 */
export async function readProxyHeader(
  context: RouteContext,
  stream: ByteStream,
  client: Client,
  trusted: readonly Network[],
): Promise<Client> {
  try {
    const address = parseIp(client.address);
    const isTrusted =
      address === undefined || address.range() === "loopback" || trusted.some((network) => inNetwork(address, network));
    if (!isTrusted) throw new SeikanError("bad-request", `${client.address} is no --trusted-proxy`);
    const step = decodeStep(decodeProxyHeader, 16 + 65535);
    const { source } = await readStep(stream, step, deadlineIn(context.limits.headMs), stream.label);
    if (source === undefined) return client;
    return { ...client, ...source, exposed: client.exposed || !isLoopbackHost(source.address) };
  } catch (thrown) {
    const error = toSeikanError(thrown);
    context.log.debug(`PROXY header refused: ${error.message}`, { peer: client.address });
    stream.abort(error);
    throw error;
  }
}
