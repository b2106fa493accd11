import type { SocketHandler } from "bun";
import { parseIp } from "../core/address.ts";
import { bridge } from "../core/bridge.ts";
import { before, type Deadline } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import { createStream, Stream, type ByteStream, type StreamFeed } from "../core/stream.ts";
import { socketPair } from "./socket-pair.ts";
import type { TlsFacts, Trace } from "./transport.ts";
import { RETIRED, SocketDriver, STREAM_HANDLERS, type StreamSocket } from "./socket.ts";

/**
 * TLS over any stream, as client and as server.
 *
 * Bun speaks TLS natively on a plain socket only. Any other stream (TLS in TLS
 * in CONNECT, a stream that bytes were put back to) is bridged to one end of a
 * socket pair whose other end speaks TLS. On a leg whose peer leaves out
 * close_notify a cut looks like an end: Bun does not tell them apart.
 */

export interface TlsClientOptions {
  /** Checked against the certificate and, unless it is an address, sent as SNI. */
  readonly serverName: string;
  readonly alpn?: readonly string[] | undefined;
  /** PEM, besides the system's roots. */
  readonly ca?: string | undefined;
  /** PEM, for servers that ask for a client certificate. */
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /** Any certificate is good. Pins are still checked. */
  readonly insecure?: boolean | undefined;
  /** Base64 SHA-256 of acceptable public keys (SPKI, as curl and RFC 7469 pin). */
  readonly pins?: readonly string[] | undefined;
  /** Who this is, for errors: `proxy.corp:3128`. */
  readonly peer: string;
  /** The option that adds authorities for this peer, for errors. */
  readonly trustOption?: "--cacert" | "--proxy-cacert";
}

export interface TlsServerOptions {
  readonly cert: string;
  readonly key: string;
  /** PEM; then every client must show a certificate of this authority. */
  readonly clientCa?: string | undefined;
}

/** What a finished handshake must be checked with. */
export interface HandshakeResult {
  readonly ok: boolean;
  readonly error: (Error & { code?: string }) | null | undefined;
  readonly rawCertificate: () => Uint8Array | undefined;
  readonly version: string | undefined;
  readonly alpn: string | undefined;
}

/** Speaks TLS as client. Owns `stream`: it is aborted when the handshake fails. */
export async function tlsClient(
  stream: ByteStream,
  options: TlsClientOptions,
  deadline: Deadline,
  trace?: Trace,
): Promise<ByteStream> {
  return handshake(stream, clientSettings(options), deadline, options.peer, (result) => {
    // Without a certificate nothing was agreed on.
    if (result.rawCertificate() !== undefined)
      trace?.({ kind: "tls", peer: options.peer, session: factsOf(result, isTrusted(result, options)) });
    checkServer(result, options);
  });
}

/** Speaks TLS as server. Owns `stream`: it is aborted when the handshake fails. */
export async function tlsServer(
  stream: ByteStream,
  options: TlsServerOptions,
  deadline: Deadline,
): Promise<ByteStream> {
  const mutual =
    options.clientCa === undefined ? {} : { ca: options.clientCa, requestCert: true, rejectUnauthorized: true };
  const settings = { isServer: true, tls: { cert: options.cert, key: options.key, ...mutual } };
  return handshake(stream, settings, deadline, stream.label, (result) => {
    if (options.clientCa !== undefined && !isAuthorized(result)) {
      throw new SeikanError("tls-certificate", `${stream.label} showed no valid client certificate`);
    }
  });
}

export interface TlsSettings {
  readonly isServer: boolean;
  readonly tls: Bun.TLSOptions;
}

async function handshake(
  stream: ByteStream,
  settings: TlsSettings,
  deadline: Deadline,
  peer: string,
  check: (result: HandshakeResult) => void,
): Promise<ByteStream> {
  const { secured, result } = upgradeable(stream)
    ? upgradeSocket(stream, settings, stream.label.replace(/^tcp/, "tls"))
    : await upgradeBridged(stream, settings);
  try {
    const outcome = await before(
      deadline,
      result,
      "connect-timeout",
      `TLS with ${peer} does not finish within the connect timeout`,
    );
    check(outcome);
    return secured;
  } catch (thrown) {
    const error = thrown instanceof SeikanError ? thrown : tlsError(thrown as Error, peer);
    secured.abort(error);
    throw error;
  }
}

/** Native TLS needs the bare socket, with no byte of the handshake read yet. */
function upgradeable(stream: ByteStream): stream is Stream {
  return (
    stream instanceof Stream && stream.driver instanceof SocketDriver && stream.driver.isPlain && !stream.holdsBytes
  );
}

/** TLS on one end of a socket pair whose other end is bridged to `stream`. */
async function upgradeBridged(stream: ByteStream, settings: TlsSettings): Promise<Upgrade> {
  const pair = await socketPair();
  // Bun takes the side of TLS from how the socket came to be.
  const [near, far] = settings.isServer ? (pair.toReversed() as typeof pair) : pair;
  const bridged = bridge(far, stream, { lingerMs: 0, idleMs: 0 });
  const upgrade = upgradeSocket(near as Stream, settings, `tls over ${stream.label}`);
  // Unix sockets have no RST: a reset on either side is told to the other one here.
  void bridged.then(({ error }) => error && upgrade.secured.abort(error));
  void upgrade.secured.closed.then(({ error }) => error && stream.abort(error));
  return upgrade;
}

interface Upgrade {
  readonly secured: Stream;
  /** Resolves with the handshake's outcome; rejects when the connection ends first. */
  readonly result: Promise<HandshakeResult>;
}

function upgradeSocket(stream: Stream, settings: TlsSettings, label: string): Upgrade {
  const raw = (stream.driver as SocketDriver).socket;
  const pending = new PendingHandshake();
  const [, socket] = raw.upgradeTLS<StreamFeed>({ data: pending, tls: settings.tls, socket: TLS_HANDLERS });
  // The raw socket goes on reporting ciphertext.
  raw.data = RETIRED;
  const secured = createStream(new SocketDriver(socket as StreamSocket, false), label);
  pending.stream = secured;
  raw.resume();
  return { secured, result: pending.result.promise };
}

/** A TLS socket's feed until the handshake is done; what comes early is passed on. */
class PendingHandshake implements StreamFeed {
  readonly result = Promise.withResolvers<HandshakeResult>();
  stream: Stream | undefined;

  receive(chunk: Uint8Array): void {
    this.stream?.receive(chunk);
  }

  receiveEnd(): void {
    this.stream?.receiveEnd();
  }

  drained(): void {
    this.stream?.drained();
  }

  lost(error?: SeikanError): void {
    this.result.reject(error ?? new SeikanError("tls-failed", "the connection ended during the TLS handshake"));
    this.stream?.lost(error);
  }

  done(socket: StreamSocket, result: HandshakeResult): void {
    if (this.stream !== undefined) socket.data = this.stream;
    this.result.resolve(result);
  }
}

const TLS_HANDLERS: SocketHandler<StreamFeed> = {
  ...STREAM_HANDLERS,
  handshake(socket, ok, error) {
    const pending = socket.data;
    if (!(pending instanceof PendingHandshake)) return;
    // Read now: after a refusal the socket is closed before anybody asks.
    const certificate = (socket.getPeerCertificate?.() as { raw?: Uint8Array } | undefined)?.raw;
    const { alpnProtocol } = socket as { alpnProtocol?: string | false | null };
    pending.done(socket, {
      ...{ ok, error, rawCertificate: () => certificate },
      version: socket.getTLSVersion?.(),
      alpn: alpnProtocol || undefined,
    });
  },
};

function clientSettings(options: TlsClientOptions): TlsSettings {
  const { alpn, ca, cert, key } = options;
  return {
    isServer: false,
    tls: {
      // An address is no server name (RFC 6066 section 3).
      serverName: parseIp(options.serverName) === undefined ? options.serverName : "",
      // The verdict comes with the handshake; pins and insecure need it to go on.
      rejectUnauthorized: false,
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(alpn === undefined ? {} : { ALPNProtocols: alpnWire(alpn) }),
    },
  };
}

/** ALPN as on the wire, each name behind its length: Bun ignores a plain string. */
function alpnWire(names: readonly string[]): Buffer {
  return Buffer.concat(names.map((name) => Buffer.from([name.length, ...Buffer.from(name)])));
}

function isAuthorized(result: HandshakeResult): boolean {
  return result.ok && (result.error === null || result.error === undefined);
}

function isTrusted(result: HandshakeResult, options: TlsClientOptions): boolean {
  return isAuthorized(result) && isForAddress(result, options.serverName);
}

function checkServer(result: HandshakeResult, options: TlsClientOptions): void {
  // Any certificate is good, none is not: then nobody speaks TLS there.
  if (options.insecure && result.rawCertificate() === undefined) throw certificateError(result, result.error, options);
  if (!options.insecure && !isAuthorized(result)) throw certificateError(result, result.error, options);
  if (!options.insecure && !isForAddress(result, options.serverName))
    throw certificateError(result, WRONG_NAME, options);
  if (options.pins === undefined || options.pins.length === 0) return;
  const pin = publicKeyPin(result.rawCertificate());
  if (pin === undefined || !options.pins.includes(pin)) {
    throw new SeikanError(
      "tls-certificate",
      `the public key of ${options.peer} is none of the pinned ones (it is ${pin ?? "unknown"})`,
    );
  }
}

const WRONG_NAME = Object.assign(new Error("wrong address"), { code: "ERR_TLS_CERT_ALTNAME_INVALID" });

/** Names are checked by the handshake; an address, which is not sent, is checked here. */
function isForAddress(result: HandshakeResult, serverName: string): boolean {
  const address = parseIp(serverName);
  if (address === undefined) return true;
  const raw = result.rawCertificate();
  return raw !== undefined && certificateOf(raw).checkIP(address.toString()) !== undefined;
}

function certificateOf(raw: Uint8Array) {
  const { X509Certificate } = require("node:crypto") as typeof import("node:crypto");
  return new X509Certificate(raw);
}

function factsOf(result: HandshakeResult, trusted = false): TlsFacts {
  const raw = result.rawCertificate();
  const certificate = raw === undefined ? undefined : certificateOf(raw);
  return {
    trusted,
    version: result.version,
    alpn: result.alpn,
    subject: oneLine(certificate?.subject),
    issuer: oneLine(certificate?.issuer),
    expires: certificate === undefined ? undefined : new Date(certificate.validTo),
  };
}

/** `CN=a, O=b` instead of a line each. */
function oneLine(name: string | undefined): string | undefined {
  return name?.split("\n").toReversed().join(", ");
}

function publicKeyPin(raw: Uint8Array | undefined): string | undefined {
  if (raw === undefined) return undefined;
  const key = certificateOf(raw).publicKey.export({ type: "spki", format: "der" });
  return new Bun.CryptoHasher("sha256").update(key).digest("base64");
}

const CERTIFICATE_SENTENCES: Readonly<Record<string, string>> = {
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "its issuer is not trusted here",
  UNABLE_TO_GET_ISSUER_CERT: "its issuer is not trusted here",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "its issuer is not trusted here",
  SELF_SIGNED_CERT_IN_CHAIN: "an authority in its chain is not trusted here",
  DEPTH_ZERO_SELF_SIGNED_CERT: "it is self-signed",
  CERT_HAS_EXPIRED: "it has expired",
  CERT_NOT_YET_VALID: "it is not valid yet",
  ERR_TLS_CERT_ALTNAME_INVALID: "it is for another name",
};

function certificateError(
  result: HandshakeResult,
  cause: HandshakeResult["error"],
  options: TlsClientOptions,
): SeikanError {
  const code = cause?.code ?? "";
  const why = CERTIFICATE_SENTENCES[code] ?? cause?.message ?? "the handshake failed";
  const details = code === "" ? "" : ` (${code})`;
  const isCertificate = code in CERTIFICATE_SENTENCES || code.includes("CERT");
  if (!isCertificate)
    return new SeikanError("tls-failed", `TLS with ${options.peer} failed: ${why}${details}`, {
      cause,
      hints: ["does that port speak TLS?"],
    });
  const { issuer } = factsOf(result);
  const by = issuer === undefined ? "" : `, issued by ${issuer},`;
  const message = `the certificate of ${options.peer}${by} cannot be trusted: ${why}${details}`;
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    const hints = [`it was checked for ${options.serverName}; --sni names another one`];
    return new SeikanError("tls-certificate", message, { cause, hints });
  }
  const hints = [
    `add its authority with ${options.trustOption ?? "--cacert"} FILE, or to SSL_CERT_FILE`,
    ...(/ISSUER|SELF_SIGNED|LEAF/.test(code)
      ? ["if that issuer is your company's, something on the way intercepts TLS"]
      : []),
  ];
  return new SeikanError("tls-certificate", message, { cause, hints });
}

function tlsError(cause: Error, peer: string): SeikanError {
  const code = (cause as { code?: string }).code;
  return new SeikanError("tls-failed", `TLS with ${peer} failed: ${code ?? cause.message}`, {
    cause,
    hints: ["does that port speak TLS?"],
  });
}
