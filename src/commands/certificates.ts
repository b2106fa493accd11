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

/** The certificates of a server's TLS listeners, chosen by name and taken anew when their files change. */
export class Certificates {
  readonly #files: readonly CertificateFiles[];
  readonly #clientCa: string | undefined;
  #loaded: readonly Loaded[];
  #stamp: string;

  /** Throws a usage error when a file cannot be read or key and certificate do not belong together. */
  constructor(files: readonly CertificateFiles[], clientCaFile: string | undefined) {
    this.#files = files;
    this.#clientCa = clientCaFile;
    this.#loaded = this.#load();
    this.#stamp = this.#stampFiles();
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

  /** Takes the files anew. On an error the old certificates stay and it is thrown. */
  reload(): void {
    this.#stamp = this.#stampFiles();
    this.#loaded = this.#load();
  }

  /** Reloads if a file changed; true when it did. */
  reloadIfChanged(): boolean {
    if (this.#stampFiles() === this.#stamp) return false;
    this.reload();
    return true;
  }

  #load(): Loaded[] {
    const clientCa = this.#clientCa === undefined ? undefined : readOptionFile(this.#clientCa, "tls-client-ca");
    return this.#files.map((files) => {
      const cert = readOptionFile(files.cert, "tls-cert");
      const key = readOptionFile(files.key, "tls-key");
      return { options: { cert, key, clientCa }, certificate: checkedPair(files, cert, key) };
    });
  }

  #stampFiles(): string {
    const paths = this.#files.flatMap(({ cert, key }) => [cert, key]).concat(this.#clientCa ?? []);
    return paths.map(stampOf).join(" ");
  }
}

/** Changes whenever the file does. */
export function stampOf(path: string): string {
  try {
    const { mtimeMs, ino, size } = statSync(path);
    return `${mtimeMs}:${ino}:${size}`;
  } catch {
    return "gone";
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
