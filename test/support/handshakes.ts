import { tcpTarget, type TcpTarget } from "../../src/core/address.ts";
import type { ByteStream, Sink } from "../../src/core/stream.ts";
import { httpConnectDialer } from "../../src/transports/http-connect.ts";
import { ProxyCredentials } from "../../src/transports/proxy-credentials.ts";
import { acceptSocks, answerSocks, socksDialer } from "../../src/transports/socks.ts";
import { listen, tcpDialer } from "../../src/transports/tcp.ts";
import type { Dialer } from "../../src/transports/transport.ts";
import type { StreamPair } from "../contract/stream.ts";
import { pairOf, soon } from "./pairs.ts";

const TARGET = tcpTarget("target.test", 7);

/** Dials through a proxy that is its own target: the near end is the dialled stream, the far end the proxy's. */
async function throughProxy(
  dialerTo: (proxy: TcpTarget) => Dialer,
  answer: (stream: ByteStream) => Promise<void>,
): Promise<StreamPair> {
  const accepted = Promise.withResolvers<ByteStream>();
  const address = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
  const listener = listen(address, (stream) => {
    answer(stream).then(() => accepted.resolve(stream), accepted.reject);
  });
  const near = await dialerTo(tcpTarget("127.0.0.1", listener.port!))(TARGET, { deadline: soon() });
  return pairOf(near, await accepted.promise, () => listener.close());
}

/** Both ends of a connection behind an HTTP CONNECT. */
export function httpConnectPair(): Promise<StreamPair> {
  const dialerTo = (proxy: TcpTarget) => {
    const credentials = new ProxyCredentials(undefined);
    return httpConnectDialer({
      proxy,
      name: "the proxy",
      isSecure: false,
      credentials,
      fields: [],
      reach: tcpDialer(),
    });
  };
  return throughProxy(dialerTo, async (stream) => {
    await headOf(stream);
    stream.write(Buffer.from("HTTP/1.1 200 OK\r\n\r\n"));
  });
}

/** Resolves behind the empty line of a head; what follows is put back. */
function headOf(stream: ByteStream): Promise<void> {
  let seen = "";
  return new Promise((resolve) => {
    const sink: Sink = {
      onData(chunk) {
        const before = seen.length;
        seen += Buffer.from(chunk).toString("latin1");
        const end = seen.indexOf("\r\n\r\n");
        if (end < 0) return;
        stream.detach();
        stream.unread(chunk.subarray(end + 4 - before));
        resolve();
      },
      onEnd() {},
      onDrain() {},
      onClose() {},
    };
    stream.attach(sink);
  });
}

/** Both ends of a connection behind a SOCKS handshake. */
export function socksPair(version: 4 | 5): Promise<StreamPair> {
  const dialerTo = (proxy: TcpTarget) =>
    socksDialer({ version, proxy, credentials: undefined, resolve: undefined }, tcpDialer());
  return throughProxy(dialerTo, async (stream) => {
    await acceptSocks(stream, await versionOf(stream), undefined, soon());
    answerSocks(stream, version, "succeeded");
  });
}

function versionOf(stream: ByteStream): Promise<number> {
  return new Promise((resolve) => {
    const sink: Sink = {
      onData(chunk) {
        stream.detach();
        stream.unread(chunk);
        resolve(chunk[0]!);
      },
      onEnd() {},
      onDrain() {},
      onClose() {},
    };
    stream.attach(sink);
  });
}
