import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A certificate with its key, as PEM and as files. */
export interface TestCertificate {
  readonly cert: string;
  readonly key: string;
  readonly certFile: string;
  readonly keyFile: string;
  /** Base64 SHA-256 of the public key. */
  readonly pin: string;
}

const made = new Map<string, TestCertificate>();

/** A self-signed certificate for these names, made once a run by openssl. */
export function certificateFor(...names: string[]): TestCertificate {
  const id = names.join(",");
  const known = made.get(id);
  if (known !== undefined) return known;
  const folder = mkdtempSync(join(tmpdir(), "seikan-cert-"));
  const certFile = join(folder, "cert.pem");
  const keyFile = join(folder, "key.pem");
  const alternatives = names.map((name) => (/^[\d.]+$|:/.test(name) ? `IP:${name}` : `DNS:${name}`)).join(",");
  const run = Bun.spawnSync([
    ...["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
    ...["-keyout", keyFile, "-out", certFile, "-days", "30", "-subj", `/CN=${names[0]}`],
    ...["-addext", `subjectAltName=${alternatives}`],
  ]);
  if (run.exitCode !== 0) throw new Error(`openssl failed: ${run.stderr}`);
  const cert = readFileSync(certFile, "utf8");
  const spki = new X509Certificate(cert).publicKey.export({ type: "spki", format: "der" });
  const pin = new Bun.CryptoHasher("sha256").update(spki).digest("base64");
  const certificate = { cert, key: readFileSync(keyFile, "utf8"), certFile, keyFile, pin };
  made.set(id, certificate);
  return certificate;
}
