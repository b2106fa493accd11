/**
 * A development server as tests want it, a program of its own:
 * `bun dev-server.ts NAME [OPTIONS]`. What happens to it, it writes down in `$JOURNAL`.
 */
import { appendFileSync, existsSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    port: { type: "string", default: process.env.PORT ?? "0" },
    host: { type: "string", default: process.env.HOST ?? "127.0.0.1" },
    /** Listens on this socket. */
    unix: { type: "string" },
    cert: { type: "string" },
    key: { type: "string" },
    /** Lines that are printed first. */
    say: { type: "string", multiple: true, default: [] },
    /** Does nothing further before this file is there. */
    gate: { type: "string" },
    /** Ends with this code. */
    exit: { type: "string" },
    /** Ends with 1 so many milliseconds after it listened. */
    crash: { type: "string" },
    /** Never listens. */
    deaf: { type: "boolean", default: false },
    /** Ignores SIGTERM. */
    stubborn: { type: "boolean", default: false },
    /** Answers 503 for `/healthz` until this file is there. */
    health: { type: "string" },
  },
});
const name = positionals[0]!;

/** How often files are looked for. */
const LOOK_MS = 5;
/** An answer is on its way before the process ends. */
const ANSWERED_MS = 20;

function journal(what: string): void {
  if (process.env.JOURNAL !== undefined) appendFileSync(process.env.JOURNAL, `${name} ${what} ${process.pid}\n`);
}

function say(text: string): void {
  try {
    writeSync(1, `${text}\n`);
  } catch {
    // Nobody reads it any more.
  }
}

async function opened(gate: string): Promise<void> {
  while (!existsSync(gate)) await Bun.sleep(LOOK_MS);
}

async function* eventsUntil(gate: string): AsyncGenerator<string> {
  yield "data: one\n\n";
  await opened(gate);
  yield "data: two\n\n";
}

async function sumOf(body: ReadableStream<Uint8Array> | null): Promise<{ length: number; sha1: string }> {
  const hasher = new Bun.CryptoHasher("sha1");
  let length = 0;
  for await (const chunk of body ?? []) {
    hasher.update(chunk);
    length += chunk.length;
  }
  return { length, sha1: hasher.digest("hex") };
}

async function answer(request: Request): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  const parameter = (key: string) => searchParams.get(key) ?? "";
  switch (pathname) {
    case "/who":
      return new Response(`${name} ${process.pid}`);
    case "/healthz":
      return new Response("health", { status: options.health === undefined || existsSync(options.health) ? 204 : 503 });
    case "/env":
      return Response.json(process.env);
    case "/process":
      return Response.json({
        ...{ words: process.argv.slice(2), folder: process.cwd(), isTerminal: process.stdout.isTTY === true },
        columns: process.stdout.columns,
      });
    case "/request":
      return Response.json({ method: request.method, url: request.url, fields: [...request.headers] });
    case "/echo":
      return new Response(await request.arrayBuffer());
    case "/sum":
      return Response.json(await sumOf(request.body));
    case "/held":
      journal("held");
      await opened(parameter("gate"));
      return new Response(`${name} ${process.pid}`);
    case "/events":
      journal("events");
      return new Response(eventsUntil(parameter("gate")), { headers: { "Content-Type": "text/event-stream" } });
    case "/say":
      say(parameter("text"));
      return new Response("said");
    case "/exit":
      setTimeout(() => process.exit(Number(parameter("code"))), ANSWERED_MS);
      return new Response("bye", { headers: { Connection: "close" } });
    case "/close":
      setTimeout(() => void reopen(parameter("gate")), ANSWERED_MS);
      return new Response("closing", { headers: { Connection: "close" } });
    default:
      return new Response(`${name} does not know ${pathname}`, { status: 404 });
  }
}

function listen() {
  const { unix, cert, key, host, port } = options;
  const place = unix === undefined ? { hostname: host, port: Number(port), idleTimeout: 0 } : { unix };
  return Bun.serve<undefined>({
    ...place,
    ...(cert !== undefined && key !== undefined && { tls: { cert: Bun.file(cert), key: Bun.file(key) } }),
    fetch(request, serving) {
      if (request.headers.get("upgrade") === "websocket" && serving.upgrade(request)) return undefined;
      return answer(request);
    },
    websocket: { idleTimeout: 0, message: (socket, message) => void socket.send(message) },
  });
}

/** Closes the port, and lives on; once the file is there it listens again. */
async function reopen(gate: string): Promise<void> {
  await server?.stop(true);
  journal("closed");
  await opened(gate);
  server = listen();
  journal("reopened");
}

process.on("SIGTERM", () => {
  journal("term");
  if (!options.stubborn) process.exit(143);
});
journal("start");
for (const text of options.say) say(text);
let server: ReturnType<typeof listen> | undefined;
if (options.gate !== undefined) await opened(options.gate);
if (options.exit !== undefined) process.exit(Number(options.exit));
if (options.deaf) await opened("/no/such/file");
server = listen();
journal("listen");
if (options.crash !== undefined) setTimeout(() => process.exit(1), Number(options.crash));
