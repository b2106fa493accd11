import { dialRaw, type RawResponse, type RawServer, type RawSocket } from "./raw.ts";
import { runSeikan, startSeikan, type Outcome, type Running } from "./seikan.ts";
import { until } from "./wait.ts";

const HEAD_END = "\r\n\r\n";

/** Lines of a message's head, with the empty one. */
export const lines = (...text: string[]): string => `${text.join("\r\n")}${HEAD_END}`;

export const get = (host: string, path = "/", ...fields: string[]): string =>
  lines(`GET ${path} HTTP/1.1`, `Host: ${host}`, ...fields);

/** Where agents find a server. */
export const wsUrl = ({ port }: { readonly port: number }): string => `ws://127.0.0.1:${port}`;

/** `NAME=SPEC` as options of an agent. */
export const exposing = (specs: Readonly<Record<string, string>>): string[] =>
  Object.entries(specs).flatMap(([name, spec]) => ["--expose", `${name}=${spec}`]);

/** An agent of this server, once it is ready. */
export function startAgent(server: { readonly port: number }, ...args: string[]): Promise<Running> {
  return startSeikan(["agent", wsUrl(server), ...args]);
}

/** Runs an agent to its end; one that does not come to it ends with 124. */
export const runAgent = (to: { readonly port: number } | string, ...args: string[]): Promise<Outcome> =>
  runSeikan(["agent", typeof to === "string" ? to : wsUrl(to), "--timeout", "20s", ...args]);

interface OnPort {
  readonly port?: number | undefined;
}

/** A web server that says its name, and the path it was asked for. */
export function webServer(name: string, tls?: { readonly cert: string; readonly key: string }) {
  return Bun.serve({
    ...{ port: 0, hostname: "127.0.0.1", idleTimeout: 60 },
    ...(tls === undefined ? {} : { tls }),
    fetch: (request) => new Response(`${name} ${new URL(request.url).pathname}`),
  });
}

export const place = ({ port }: OnPort): string => `127.0.0.1:${port}`;

export const urlOf = (service: OnPort): string => `http://${place(service)}`;

/** The port at the end of a URL or address. */
export const portOf = (url: string | undefined): number => Number(url?.split(":").at(-1));

/** What a visitor of a site's URL gets: status and body. */
export async function bodyAt(url: string): Promise<[number, string]> {
  const { host, pathname, port } = new URL(url);
  const { status, body } = await visit(Number(port), host, pathname);
  return [status, body];
}

/** Asks for a tunnel by CONNECT. */
export async function connectTo(to: { readonly port: number }, target: string, ...fields: string[]) {
  const client = await dialRaw(to.port);
  client.send(lines(`CONNECT ${target} HTTP/1.1`, `Host: ${target}`, ...fields));
  return { client, answer: await client.response("CONNECT") };
}

/** The status that CONNECT is answered with. */
export async function statusOf(to: { readonly port: number }, target: string, ...fields: string[]): Promise<number> {
  const { client, answer } = await connectTo(to, target, ...fields);
  client.reset();
  return answer.status;
}

/** Waits for an event that fits. */
export async function logged(
  running: Running,
  fits: (event: Record<string, unknown>) => boolean,
): Promise<Record<string, unknown>> {
  await until(() => running.events().some(fits), "such an event comes");
  return running.events().find(fits)!;
}

/** One request on a connection of its own. */
export async function visit(
  to: Parameters<typeof dialRaw>[0],
  host: string,
  path = "/",
  ...fields: string[]
): Promise<RawResponse> {
  using client = await dialRaw(to);
  client.send(get(host, path, ...fields));
  return await client.response();
}

export interface SeenHead {
  /** `GET / HTTP/1.1` */
  readonly line: string;
  readonly text: string;
  /** All values of a field; the name in lower case. */
  values(name: string): string[];
}

/** The request head on a connection whose number this is; requests without a body are in front of it. */
export async function requestHead(upstream: RawSocket, index = 0): Promise<SeenHead> {
  const text = await upstream.until(
    () => {
      const heads = upstream.text.split(HEAD_END);
      return heads.length > index + 1 ? heads[index] : undefined;
    },
    `request number ${index + 1}`,
  );
  const [line = "", ...rest] = text.split("\r\n");
  const fields = rest.map((one) => [one.slice(0, one.indexOf(":")), one.slice(one.indexOf(":") + 1).trim()] as const);
  return {
    line,
    text,
    values: (name) => fields.filter(([known]) => known.toLowerCase() === name).map(([, value]) => value),
  };
}

/** What a listener that several tests share gets from now on. */
export class Arrivals {
  readonly #server: RawServer;
  readonly #from: number;
  #taken = 0;

  constructor(server: RawServer) {
    this.#server = server;
    this.#from = server.accepted.length;
  }

  get count(): number {
    return this.#server.accepted.length - this.#from;
  }

  /** The next connection, in the order they came. */
  async next(): Promise<RawSocket> {
    const index = this.#taken++;
    await until(() => this.count > index, `connection number ${index + 1} comes`);
    return this.#server.accepted[this.#from + index]!;
  }
}

/** JSON events of this name until now. */
export const eventsOf = (running: Running, name: string): Record<string, unknown>[] =>
  running.events().filter(({ event }) => event === name);

/** Waits until so many events of this name have come; resolves to the last of them. */
export async function happens(
  running: Running,
  name: string,
  count = 1,
  ms?: number,
): Promise<Record<string, unknown>> {
  await until(() => eventsOf(running, name).length >= count, `${name} happens ${count} times`, ms);
  return eventsOf(running, name)[count - 1]!;
}

/** Asks again and again until the answer fits. */
export async function eventually(
  ask: () => Promise<RawResponse>,
  fits: (answer: RawResponse) => boolean,
  what: string,
  ms = 10_000,
): Promise<RawResponse> {
  const end = performance.now() + ms;
  for (;;) {
    const answer = await ask();
    if (fits(answer)) return answer;
    if (performance.now() > end)
      throw new Error(`waited ${ms} ms in vain until ${what}: ${answer.head}${answer.body.slice(0, 500)}`);
  }
}
