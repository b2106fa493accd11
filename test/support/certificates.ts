import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
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
  openssl(
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
    ...["-keyout", keyFile, "-out", certFile, "-days", "30", "-subj", `/CN=${names[0]}`],
    ...["-addext", `subjectAltName=${alternativesOf(names)}`],
  );
  const certificate = read(certFile, keyFile);
  made.set(id, certificate);
  return certificate;
}

function alternativesOf(names: string[]): string {
  return names.map((name) => (/^[\d.]+$|:/.test(name) ? `IP:${name}` : `DNS:${name}`)).join(",");
}

function openssl(...args: string[]): void {
  const run = Bun.spawnSync(["openssl", ...args]);
  if (run.exitCode !== 0) throw new Error(`openssl failed: ${run.stderr}`);
}

function read(certFile: string, keyFile: string): TestCertificate {
  const cert = readFileSync(certFile, "utf8");
  const spki = new X509Certificate(cert).publicKey.export({ type: "spki", format: "der" });
  const pin = new Bun.CryptoHasher("sha256").update(spki).digest("base64");
  return { cert, key: readFileSync(keyFile, "utf8"), certFile, keyFile, pin };
}

/** An authority that nobody trusts, and a certificate for these names that it issued. */
export function certificateFrom(authority: string, ...names: string[]): { caFile: string } & TestCertificate {
  const ca = certificateFor(authority);
  const leaf = made.get(`${authority}:${names.join(",")}`) ?? issue(ca, authority, names);
  return { ...leaf, caFile: ca.certFile };
}

function issue(ca: TestCertificate, authority: string, names: string[]): TestCertificate {
  const folder = mkdtempSync(join(tmpdir(), "seikan-cert-"));
  const [requestFile, certFile, keyFile, extensions] = ["leaf.csr", "cert.pem", "key.pem", "extensions"].map((name) =>
    join(folder, name),
  ) as [string, string, string, string];
  writeFileSync(extensions, `subjectAltName=${alternativesOf(names)}\n`);
  openssl(
    ...["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
    ...["-keyout", keyFile, "-out", requestFile, "-subj", `/CN=${names[0]}`],
  );
  openssl(
    ...["x509", "-req", "-in", requestFile, "-CA", ca.certFile, "-CAkey", ca.keyFile, "-CAcreateserial"],
    ...["-out", certFile, "-days", "5", "-extfile", extensions],
  );
  const certificate = read(certFile, keyFile);
  made.set(`${authority}:${names.join(",")}`, certificate);
  return certificate;
}
