import { deadlineIn } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { decodeStep, readStep } from "../transports/handshake.ts";
import { tlsServer, type TlsServerOptions } from "../transports/tls.ts";
import { serverNameOf } from "../wire/client-hello.ts";
import type { AgentRegistry } from "./agent-registry.ts";
import { closeWith, errorAnswer } from "./answers.ts";
import { openTunnel } from "./connect.ts";
import type { Client, RouteContext } from "./context.ts";
import type { Exposure } from "./exposure.ts";

const HELLO_BYTES = 16 * 1024 + 5;

/** What becomes of a client that speaks TLS where plain bytes were read. */
export interface TlsEntry {
  readonly registry: AgentRegistry | undefined;
  /** Undefined: there are no certificates. */
  choose(serverName: string): TlsServerOptions | undefined;
}

/** Gives a TLS client to the exposure that its server name belongs to, or speaks TLS with it. Owns `stream`. */
export async function enterTls(
  context: RouteContext,
  stream: ByteStream,
  client: Client,
  serve: (stream: ByteStream, client: Client) => void,
): Promise<void> {
  const name = await readServerName(context, stream);
  const exposure = context.tls?.registry?.passthrough(name);
  if (exposure !== undefined) return visitRaw(context, exposure, stream, client, "TLS");
  const options = client.maySecure ? context.tls?.choose(name) : undefined;
  if (options === undefined) return refuse(context, stream, client);
  const secured = await tlsServer(stream, options, deadlineIn(context.limits.headMs || 30_000));
  serve(secured, { ...client, isSecure: true });
}

/** The hello stays in the stream. */
async function readServerName(context: RouteContext, stream: ByteStream): Promise<string> {
  const step = decodeStep((bytes) => {
    const name = serverNameOf(bytes);
    return name === undefined ? undefined : { value: { name, bytes }, length: bytes.length };
  }, HELLO_BYTES);
  const { name, bytes } = await readStep(stream, step, deadlineIn(context.limits.headMs || 30_000), stream.label);
  stream.unread(bytes);
  return name;
}

function refuse(context: RouteContext, stream: ByteStream, client: Client): void {
  const error = new SeikanError("bad-request", "this port speaks plain HTTP, and the client speaks TLS", {
    hints: ["use http:// for the proxy, or listen with https://ADDR:PORT"],
  });
  context.log.debug(error.message, { peer: client.address });
  closeWith(stream, errorAnswer(error, context.proxyName));
}

/** A visitor of an exposure that carries bytes as they are. Owns `stream`: nothing of it is read before the service answers. */
export function visitRaw(
  context: RouteContext,
  exposure: Exposure,
  stream: ByteStream,
  client: Client,
  method: "TCP" | "UDP" | "TLS",
): void {
  if (!exposure.welcomes(client.address)) {
    stream.abort(new SeikanError("visitor-denied", "not for visitors from this address"));
    return;
  }
  stream.pause();
  openTunnel(context, stream, {
    method,
    target: exposure.target,
    client,
    exposed: client.exposed,
    user: undefined,
    route: () => exposure.wayFor(client),
    isGranted: true,
    acceptStatus: 200,
    accept(inbound) {
      inbound.resume();
      return inbound;
    },
    refuse(inbound, error) {
      // A reset says that it did not work, where an end would say that there was nothing.
      inbound.abort(error);
      return error.outcome.status;
    },
  });
}
