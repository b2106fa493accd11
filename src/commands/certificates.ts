import { createPrivateKey, X509Certificate } from "node:crypto";
import { statSync } from "node:fs";
import { usageError } from "../core/errors.ts";
import type { TlsServerOptions } from "../transports/tls.ts";
import { readOptionFile } from "./reach.ts";

export interface CertificateFiles {
  readonly cert: string;
  readonly key: string;
}

interface Loaded {
  readonly options: TlsServerOptions;
  readonly certificate: X509Certificate;
}

/** The certificates of a server's TLS listeners, chosen by name. */
export class Certificates {
  readonly #files: readonly CertificateFiles[];
  readonly #clientCa: string | undefined;
  readonly #loaded: readonly Loaded[];

  /** Throws a usage error when a file cannot be read or key and certificate do not belong together. */
  constructor(files: readonly CertificateFiles[], clientCaFile: string | undefined) {
    this.#files = files;
    this.#clientCa = clientCaFile;
    this.#loaded = this.#load();
  }

  get isSeveral(): boolean {
    return this.#loaded.length > 1;
  }

  /** For this server name; the first certificate where none fits. */
  choose(serverName: string): TlsServerOptions {
    const fitting =
      serverName === ""
        ? undefined
        : this.#loaded.find(({ certificate }) => certificate.checkHost(serverName) !== undefined);
    return (fitting ?? this.#loaded[0]!).options;
  }

  #load(): Loaded[] {
    const clientCa = this.#clientCa === undefined ? undefined : readOptionFile(this.#clientCa, "tls-client-ca");
    return this.#files.map((files) => {
      const cert = readOptionFile(files.cert, "tls-cert");
      const key = readOptionFile(files.key, "tls-key");
      return { options: { cert, key, clientCa }, certificate: checkedPair(files, cert, key) };
    });
  }
}

/** Changes whenever the file does; undefined: it is gone. */
function stampOf(path: string): string | undefined {
  try {
    const { mtimeMs, ino, size } = statSync(path);
    return `${mtimeMs}:${ino}:${size}`;
  } catch {
    return undefined;
  }
}

function checkedPair(files: CertificateFiles, cert: string, key: string): X509Certificate {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(cert);
  } catch {
    throw usageError(`--tls-cert: ${files.cert} holds no PEM certificate`);
  }
  try {
    if (certificate.checkPrivateKey(createPrivateKey(key))) return certificate;
  } catch {
    throw usageError(`--tls-key: ${files.key} holds no PEM key without a passphrase`);
  }
  throw usageError(`--tls-key: ${files.key} is not the key of ${files.cert}`);
}

/** What files looked like the last time. */
export class Stamps {
  #known = new Map<string, string | undefined>();
  /** At the last look. */
  #seen = new Map<string, string | undefined>();

  /** From now on these are watched, as they are. */
  watch(paths: readonly string[]): void {
    this.#known = new Map(paths.map((path) => [path, stampOf(path)]));
  }

  /**
   * Those that changed, and not since they were asked for before: they are whole by now.
   * One that is gone is being replaced, or stays as it was.
   */
  changed(): string[] {
    const before = this.#seen;
    this.#seen = new Map([...this.#known.keys()].map((path) => [path, stampOf(path)]));
    const isNew = ([path, stamp]: [string, string | undefined]) =>
      stamp !== undefined && stamp !== this.#known.get(path) && stamp === before.get(path);
    return [...this.#seen].filter(isNew).map(([path]) => path);
  }
}
