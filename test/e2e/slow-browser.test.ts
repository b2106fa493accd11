import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { certificateFor } from "../support/certificates.ts";
import { Chromium } from "../support/chromium.ts";
import { program } from "../support/programs.ts";
import { startSeikan, type Running } from "../support/seikan.ts";
import { until } from "../support/wait.ts";

setDefaultTimeout(90_000);

const IMAGES = 12;
/** Loads pictures and data, then says something over a WebSocket and reports what the page shows of it. */
const PAGE = `<!doctype html><title>page</title><p id="echo">nothing yet</p>
<script>
  const images = Array.from({ length: ${IMAGES} }, (_, index) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = resolve;
    image.onerror = () => reject(new Error("image " + index));
    image.src = "/image" + index + ".svg";
  }));
  const posted = fetch("/post", { method: "POST", body: "x".repeat(300000) }).then((answer) => answer.text());
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
  socket.onopen = () => socket.send("hello " + "y".repeat(100000));
  const echoed = new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => resolve(data);
    socket.onerror = () => reject(new Error("the WebSocket failed"));
  });
  Promise.all([echoed, posted, ...images]).then(([echo, post]) => {
    document.getElementById("echo").textContent = echo.slice(0, 14) + " " + echo.length + " posted " + post;
    report(document.getElementById("echo").textContent);
  }).catch((error) => report("failed: " + error.message));
</script>`;
const SHOWN = "hello yyyyyyyy 100006 posted 300000";

function pageServer(tls?: { cert: string; key: string }) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    ...(tls === undefined ? {} : { tls }),
    async fetch(request, server) {
      const { pathname } = new URL(request.url);
      if (pathname === "/socket") return server.upgrade(request) ? undefined : new Response("no", { status: 400 });
      if (pathname === "/post") return new Response(String((await request.text()).length));
      if (pathname.startsWith("/image")) {
        const picture = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>';
        return new Response(picture, { headers: { "Content-Type": "image/svg+xml" } });
      }
      if (pathname === "/") return new Response(PAGE, { headers: { "Content-Type": "text/html" } });
      return new Response("no", { status: 404 });
    },
    websocket: {
      message(socket, message) {
        socket.send(message);
      },
    },
  });
}

describe.skipIf(program("chromium") === undefined)("Chromium through serve", () => {
  const certificate = certificateFor("localhost", "127.0.0.1");
  let plain: ReturnType<typeof pageServer>;
  let secure: ReturnType<typeof pageServer>;
  let proxy: Running;
  beforeAll(async () => {
    plain = pageServer();
    secure = pageServer({ cert: certificate.cert, key: certificate.key });
    const tls = ["--tls-cert", certificate.certFile, "--tls-key", certificate.keyFile];
    proxy = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "-l", "https://127.0.0.1:0", ...tls, "--access-log", "json"],
    ]);
  });
  afterAll(async () => {
    await Promise.all([plain.stop(true), secure.stop(true), proxy[Symbol.asyncDispose]()]);
  });

  const entries = (event: string, target: string) =>
    proxy.events().filter((entry) => entry.event === event && String(entry.target).includes(target)).length;

  const servers: [string, () => string][] = [
    ["http", () => `http://127.0.0.1:${proxy.port}`],
    ["https", () => `https://localhost:${proxy.listeners[1]!.split(":").at(-1)}`],
    ["socks5", () => `socks5://127.0.0.1:${proxy.port}`],
  ];
  for (const [scheme, server] of servers) {
    test(`as ${scheme}:// proxy: a page with pictures, a POST and a WebSocket, over http and https`, async () => {
      await using browser = await Chromium.start(`--proxy-server=${server()}`, "--proxy-bypass-list=<-loopback>");
      const httpHost = `localhost:${plain.port}`;
      const [requests, tunnels] = [entries("request", httpHost), entries("tunnel", httpHost)];
      expect(await browser.visit(`http://${httpHost}/`)).toBe(SHOWN);
      expect(await browser.visit(`https://localhost:${secure.port}/`)).toBe(SHOWN);
      await browser[Symbol.asyncDispose]();
      if (scheme === "socks5") {
        await until(() => entries("tunnel", httpHost) > tunnels, "its tunnels are logged");
        expect(entries("request", httpHost)).toBe(requests);
      } else {
        // The page and its pictures as requests, the WebSocket through CONNECT.
        await until(() => entries("request", httpHost) >= requests + IMAGES + 2, "its requests are logged");
        await until(() => entries("tunnel", httpHost) > tunnels, "its WebSocket is logged");
      }
      await until(() => entries("tunnel", `localhost:${secure.port}`) > 0, "the https page is logged");
    });
  }
});
