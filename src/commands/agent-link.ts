import { deadlineIn, sleep } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { probePath } from "../routes/ingress.ts";
import type { LocalExposures } from "../routes/local-exposures.ts";
import { askControl, LineReader } from "../transports/control.ts";
import { askHop } from "../transports/hop-request.ts";
import type { MuxSession } from "../transports/mux.ts";
import type { DialOptions } from "../transports/transport.ts";
import { dialSession, Tunnel, type TunnelEvent } from "../transports/tunnel.ts";
import type { WebSocketHop } from "../transports/websocket-hop.ts";
import { heartbeatEvery } from "../transports/pulse.ts";
import { formatHead } from "../wire/fields.ts";
import {
  HEALTH_PATH,
  parseEvent,
  parseRegistered,
  PROBE_PATH,
  REGISTER_PATH,
  type ExposedAt,
  type ExposureSpec,
  type Registered,
  type Registration,
  type RequestEvent,
} from "../wire/registration.ts";
import type { AgentValues } from "./agent-options.ts";

/** What all links of an agent share. */
export interface LinkSettings {
  readonly values: AgentValues;
  /** Random, of this process. */
  readonly key: string;
  readonly local: LocalExposures;
  /** Serves the streams that the server opens, and owns them. */
  readonly serve: (stream: ByteStream) => void;
  readonly events: LinkEvents;
  /** Another name for an exposure whose name is taken; undefined where somebody chose it. */
  readonly rename: (name: string) => ExposureSpec | undefined;
}

export interface LinkEvents {
  up(link: AgentLink, ms: number): void;
  lost(link: AgentLink, error: SeikanError | undefined): void;
  failed(link: AgentLink, error: SeikanError, againMs: number): void;
  request(event: RequestEvent): void;
}

const PROBE_FIRST_MS = 200;
const PROBE_LONGEST_MS = 5000;
/** A name that somebody else has: as many others are tried. */
const NAME_TRIES = 8;

/** An agent's connections to one server, and what it registered there. */
export class AgentLink {
  readonly name: string;
  #hop: WebSocketHop;
  readonly #settings: LinkSettings;
  readonly #tunnel: Tunnel;
  readonly #sessions = new Set<MuxSession>();
  readonly #eventStreams = new Set<ByteStream>();
  readonly #registered = Promise.withResolvers<Registered>();
  readonly #failed = Promise.withResolvers<SeikanError>();
  /** As the next connection registers them: ports and names that we got stay ours. */
  #specs: readonly ExposureSpec[];
  #agent: string;
  readonly #isAgentNamed: boolean;
  #wasRegistered = false;
  #upLines = 0;
  #turn: Promise<void> = Promise.resolve();
  places: readonly ExposedAt[] = [];

  constructor(
    hop: WebSocketHop,
    specs: readonly ExposureSpec[],
    agent: { readonly name: string; readonly isChosen: boolean },
    settings: LinkSettings,
  ) {
    this.name = hop.name;
    this.#hop = hop;
    this.#specs = specs;
    this.#agent = agent.name;
    this.#isAgentNamed = agent.isChosen;
    this.#settings = settings;
    const { values } = settings;
    this.#tunnel = new Tunnel({
      name: hop.name,
      connections: values.tunnels,
      connectMs: values["connect-timeout"],
      retries: values["fail-fast"] ? 0 : values["max-retries"],
      connect: (key, onGoAway, options) => this.#connect(key, onGoAway, options),
      report: (event) => this.#report(event),
    });
  }

  /** From the next connection on the server is reached this way: with another token. */
  useHop(hop: WebSocketHop): void {
    this.#hop = hop;
  }

  /** Connects, now and again whenever it is lost. */
  keep(): void {
    this.#tunnel.keep();
  }

  /** Resolves to what the server gave us, once it did. */
  get registered(): Promise<Registered> {
    return this.#registered.promise;
  }

  /** Resolves when it is given up. */
  get failed(): Promise<SeikanError> {
    return this.#failed.promise;
  }

  get agentName(): string {
    return this.#agent;
  }

  get isUp(): boolean {
    return this.#sessions.size > 0;
  }

  /** The server shall open no more streams; those that are open go on. */
  goAway(): void {
    this.#tunnel.retire();
    // A session ends with its last stream.
    for (const stream of this.#eventStreams) stream.abort(new SeikanError("shutdown", "this agent is about to end"));
  }

  /** Resolves when every connection is over: everything that was sent has left. */
  async ended(): Promise<void> {
    await Promise.all([...this.#sessions].map(({ closed }) => closed));
  }

  close(): void {
    this.#tunnel.close();
  }

  // --- connecting ---------------------------------------------------------------

  async #connect(connection: string, onGoAway: () => void, options: DialOptions): Promise<MuxSession> {
    const { values, serve } = this.#settings;
    const heartbeat = heartbeatEvery(values["ping-interval"]);
    const terms = { key: connection, onGoAway, heartbeat, accept: serve };
    const session = await dialSession(this.#hop, terms, options).catch((thrown: unknown) => {
      throw withTokenHint(toSeikanError(thrown));
    });
    try {
      await this.#register(session, connection, options);
    } catch (thrown) {
      session.abort(new SeikanError("cancelled", "the registration failed"));
      throw thrown;
    }
    // What was found out while it registered.
    for (const { name, healthy } of this.#specs) if (healthy !== undefined) void this.setHealth(name, healthy);
    return session;
  }

  /** One after the other: what the first one was told the next ones say, too. */
  #register(session: MuxSession, connection: string, options: DialOptions): Promise<void> {
    const turn = this.#turn.then(() => this.#registerNow(session, connection, options));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #registerNow(session: MuxSession, connection: string, { deadline }: DialOptions): Promise<void> {
    for (let tries = 1; ; tries++) {
      const stream = session.open();
      try {
        const text = JSON.stringify(this.#registration(connection));
        const answer = await askControl(stream, { path: REGISTER_PATH, text }, deadline, this.name);
        const registered = parseRegistered(answer);
        // Before anybody hears of it: a probe follows at once.
        this.#sessions.add(session);
        void session.closed.then(() => this.#sessions.delete(session));
        this.#adopt(registered);
        this.#eventStreams.add(stream);
        stream.attach(new LineReader(this.#takeEvent, () => this.#eventStreams.delete(stream)));
        return stream.end();
      } catch (thrown) {
        const error = toSeikanError(thrown);
        stream.abort(error);
        if (tries === NAME_TRIES || !this.#takeOtherNames(error)) throw error;
      }
    }
  }

  #registration(connection: string): Registration {
    const { key, values } = this.#settings;
    const exposures = [...this.#specs];
    return { agent: this.#agent, key, connection, server: this.name, exposures, events: !values["no-request-log"] };
  }

  readonly #takeEvent = (line: string): void => {
    try {
      this.#settings.events.request(parseEvent(line));
    } catch {
      // Of a later version: not for us.
    }
  };

  /** What the server gave us we ask for again, so that it stays ours. */
  #adopt(registered: Registered): void {
    const places = new Map(registered.exposures.map((place) => [place.name, place]));
    this.#specs = this.#specs.map((spec) => {
      if (spec.kind !== "tcp" && spec.kind !== "udp") return spec;
      const port = Number(/:(\d+)$/.exec(places.get(spec.name)?.address ?? "")?.[1] ?? spec.port);
      return { ...spec, port };
    });
    this.places = registered.exposures;
    this.#wasRegistered = true;
    this.#registered.resolve(registered);
  }

  /** Names that nobody chose make way for those of others; true when there is something else to try. */
  #takeOtherNames(error: SeikanError): boolean {
    if (error.hopStatus !== 409 || this.#wasRegistered) return false;
    if (/an agent named /.test(error.message)) {
      if (this.#isAgentNamed) return false;
      this.#agent = nextName(this.#agent);
      return true;
    }
    const renamed = this.#specs.map((spec) =>
      error.message.includes(spec.name) ? this.#settings.rename(spec.name) : spec,
    );
    if (renamed.includes(undefined)) return false;
    this.#specs = renamed as ExposureSpec[];
    return true;
  }

  #report(event: TunnelEvent): void {
    const { events } = this.#settings;
    switch (event.kind) {
      case "up":
        if (++this.#upLines === 1) events.up(this, event.ms);
        return;
      case "lost":
        if (--this.#upLines === 0) events.lost(this, event.error);
        return;
      case "away":
        if (--this.#upLines === 0) events.lost(this, new SeikanError("shutdown", "the server is about to stop"));
        return;
      case "failed":
        // The other connections carry on.
        if (this.#upLines === 0) events.failed(this, event.error, event.againMs);
        return;
      case "refused":
        if (this.#upLines === 0) this.#failed.resolve(event.error);
    }
  }

  // --- probes and health ------------------------------------------------------------

  /**
   * Resolves once a probe of each exposure came back: over the public entry
   * for sites, over the server's own way for the rest.
   */
  async probe(failing: (place: ExposedAt, error: SeikanError) => void): Promise<void> {
    for (const place of this.places) {
      for (let pause = PROBE_FIRST_MS; ; pause = Math.min(pause * 2, PROBE_LONGEST_MS)) {
        const error = await this.#probeOnce(place);
        if (error === undefined) break;
        failing(place, error);
        await sleep(pause);
      }
    }
  }

  async #probeOnce(place: ExposedAt): Promise<SeikanError | undefined> {
    const nonce = Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("hex");
    const forget = this.#settings.local.expect(nonce);
    const deadline = deadlineIn(this.#settings.values["connect-timeout"]);
    try {
      const isSite = this.#specs.some(({ kind, name }) => kind === "http" && name === place.name);
      if (isSite) await this.#probeSite(place, nonce, deadline);
      else await this.#ask(PROBE_PATH, { name: place.name, nonce }, deadline);
      return undefined;
    } catch (thrown) {
      return toSeikanError(thrown);
    } finally {
      forget();
    }
  }

  /** As a visitor comes: on a connection of its own, by Host. */
  async #probeSite({ url, name }: ExposedAt, nonce: string, deadline: number): Promise<void> {
    const path = probePath(nonce);
    // Any name below a wildcard will do.
    const host = new URL(url!).host.replace(/^\*/, "seikan-probe");
    const stream = await askHop(
      { ...this.#hop, name: `${this.name} (as a visitor of ${name})` },
      {
        what: `a probe of ${host}`,
        method: "GET",
        uri: path,
        challenge: { status: 407, field: "proxy-authenticate" },
        head: () => formatHead(`GET ${path} HTTP/1.1`, ["Host", host, "Connection", "close"]),
        agrees: ({ status }) => status === 200,
      },
      { deadline },
    );
    stream.abort(new SeikanError("cancelled", "the probe came back"));
  }

  async #ask(path: string, body: unknown, deadline: number): Promise<void> {
    const session = [...this.#sessions].find(({ takesStreams }) => takesStreams);
    if (session === undefined) throw new SeikanError("tunnel-lost", `${this.name} is not connected`);
    const stream = session.open();
    try {
      await askControl(stream, { path, text: JSON.stringify(body) }, deadline, this.name);
    } finally {
      stream.abort(new SeikanError("cancelled", "it was answered"));
    }
  }

  /** Tells the server how an exposure is, now and at each new connection. */
  async setHealth(name: string, healthy: boolean): Promise<void> {
    this.#specs = this.#specs.map((spec) => (spec.name === name ? { ...spec, healthy } : spec));
    const deadline = deadlineIn(this.#settings.values["connect-timeout"]);
    // Not connected: the next registration says it.
    await this.#ask(HEALTH_PATH, { name, healthy }, deadline).catch(() => {});
  }
}

/** Agents have no user and password. */
function withTokenHint(error: SeikanError): SeikanError {
  if (error.hopStatus !== 401) return error;
  const said = error.hints.filter((hint) => hint.startsWith("it says: "));
  const hints = [...said, "an agent's token comes from SEIKAN_TOKEN, --token-file or --token"];
  return new SeikanError(error.code, error.message, { cause: error, hopStatus: 401, hints });
}

function nextName(name: string): string {
  const match = /^(.*)-(\d+)$/.exec(name);
  return match === null ? `${name}-2` : `${match[1]}-${Number(match[2]) + 1}`;
}

/** Resolves when `dial` works, trying again and again. */
export async function untilReachable(dial: () => Promise<ByteStream>, failing: (error: SeikanError) => void) {
  for (let pause = PROBE_FIRST_MS; ; pause = Math.min(pause * 2, 1000)) {
    try {
      (await dial()).abort(new SeikanError("cancelled", "it was only tried"));
      return;
    } catch (thrown) {
      failing(toSeikanError(thrown));
      await sleep(pause);
    }
  }
}
