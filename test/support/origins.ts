import type { TestCertificate } from "./certificates.ts";

/** A git server over HTTP: `git http-backend` as CGI on the repositories in `root`. */
export function gitServer(root: string, tls?: TestCertificate) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 60,
    ...(tls === undefined ? {} : { tls: { cert: tls.cert, key: tls.key } }),
    async fetch(request) {
      const url = new URL(request.url);
      const header = (name: string) => request.headers.get(name) ?? "";
      const backend = Bun.spawn(["git", "http-backend"], {
        stdin: new Blob([await request.arrayBuffer()]),
        stdout: "pipe",
        stderr: "inherit",
        env: {
          PATH: process.env.PATH ?? "",
          GIT_PROJECT_ROOT: root,
          GIT_HTTP_EXPORT_ALL: "1",
          REMOTE_USER: "tester",
          REQUEST_METHOD: request.method,
          PATH_INFO: url.pathname,
          QUERY_STRING: url.search.slice(1),
          CONTENT_TYPE: header("content-type"),
          HTTP_CONTENT_ENCODING: header("content-encoding"),
          GIT_PROTOCOL: header("git-protocol"),
        },
      });
      const output = Buffer.from(await new Response(backend.stdout).arrayBuffer());
      const split = output.indexOf("\r\n\r\n");
      const headers = new Headers();
      let status = 200;
      for (const line of output.subarray(0, split).toString().split("\r\n")) {
        const colon = line.indexOf(":");
        const [name, value] = [line.slice(0, colon), line.slice(colon + 1).trim()];
        if (name.toLowerCase() === "status") status = Number.parseInt(value, 10);
        else headers.append(name, value);
      }
      return new Response(output.subarray(split + 4), { status, headers });
    },
  });
}

/** A package registry with one package, `tiny`, whose tarball is given. */
export function npmRegistry(tarball: Uint8Array, tls?: TestCertificate) {
  const integrity = `sha512-${new Bun.CryptoHasher("sha512").update(tarball).digest("base64")}`;
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 60,
    ...(tls === undefined ? {} : { tls: { cert: tls.cert, key: tls.key } }),
    fetch(request) {
      const url = new URL(request.url);
      if (url.pathname === "/tiny/-/tiny-1.0.0.tgz") return new Response(tarball);
      if (url.pathname !== "/tiny") return new Response("{}", { status: 404 });
      const dist = { tarball: `${url.origin}/tiny/-/tiny-1.0.0.tgz`, integrity };
      const version = { name: "tiny", version: "1.0.0", dist };
      return Response.json({ name: "tiny", "dist-tags": { latest: "1.0.0" }, versions: { "1.0.0": version } });
    },
  });
}
