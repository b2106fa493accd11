import { tlsClient, tlsServer } from "../../src/transports/tls.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { describeStreams, type StreamPair } from "../contract/stream.ts";
import { certificateFor } from "../support/certificates.ts";
import { httpConnectPair, socksPair } from "../support/handshakes.ts";
import { pairOf, soon, tcpPair, unixPair } from "../support/pairs.ts";
import { overMux, overWebSocket } from "../support/tunnels.ts";

const certificate = certificateFor("localhost");

async function overTls(pair: StreamPair): Promise<StreamPair> {
  const client = { serverName: "localhost", ca: certificate.cert, peer: "the test server" };
  const [right, left] = await Promise.all([
    tlsServer(pair.right, certificate, soon()),
    tlsClient(pair.left, client, soon()),
  ]);
  return pairOf(left, right, () => void pair[Symbol.asyncDispose]());
}

describeStreams("memory", async () => pairOf(...memoryPair()));
describeStreams("memory with a small window", async () => pairOf(...memoryPair({ window: 1000, chunk: 7 })));
describeStreams("tcp", tcpPair);
describeStreams("unix", unixPair, { carriesReset: false });
describeStreams("tls", async () => overTls(await tcpPair()));
describeStreams("tls over memory", async () => overTls(pairOf(...memoryPair())));
describeStreams("tls in tls", async () => overTls(await overTls(await tcpPair())));
describeStreams("http-connect", httpConnectPair);
describeStreams("tls in http-connect", async () => overTls(await httpConnectPair()));
describeStreams("socks5", () => socksPair(5));
describeStreams("socks4a", () => socksPair(4));
describeStreams("websocket", async () => overWebSocket(await tcpPair()));
describeStreams("websocket over memory with a small window", async () =>
  overWebSocket(pairOf(...memoryPair({ window: 1000, chunk: 7 }))),
);
describeStreams("websocket in tls", async () => overWebSocket(await overTls(await tcpPair())));
describeStreams("mux", async () => overMux(await tcpPair()));
describeStreams("mux over websocket", async () => overMux(overWebSocket(await tcpPair())));
describeStreams("mux over websocket in http-connect", async () => overMux(overWebSocket(await httpConnectPair())));
