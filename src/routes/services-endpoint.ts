import { SeikanError } from "../core/errors.ts";
import type { LiveSet } from "../core/scope.ts";
import type { ByteStream, Sink } from "../core/stream.ts";
import type { Service } from "../services/service.ts";
import { closeGently } from "../transports/gentle-close.ts";
import { fieldValue, formatHead } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { JSON_TYPE } from "../wire/registration.ts";
import { authorizeAdmin, type AdminAccess } from "./admin.ts";
import { closeWith, textAnswer } from "./answers.ts";
import type { Endpoint, UpgradeRequest } from "./context.ts";
import { CONTENT_TYPES } from "./error-page.ts";
import html from "./services-page.html" with { type: "text" };

export const SERVICES_PATH = "/-/services";
/** Embedded in the executable. Bun's types know such imports as something else. */
const page = html as unknown as string;

/** A service for people and programs. */
export interface ServiceReport {
  readonly name: string;
  /** A service's own states; `external`: somebody else started it; `up` and `down` where seikan starts nothing. */
  readonly state: Service["state"] | "external" | "up" | "down";
  readonly url: string | undefined;
  /** seikan starts and stops it. */
  readonly managed: boolean;
  readonly command: string | undefined;
  readonly folder: string;
  readonly target: string | undefined;
  readonly pid: number | undefined;
  readonly port: number | undefined;
  readonly upMs: number | undefined;
  readonly open: number;
  readonly waiting: number;
  readonly starts: number;
  readonly error: string | undefined;
}

/** What the endpoint shows and does. */
export interface ServiceDesk {
  report(): Promise<readonly ServiceReport[]>;
  find(name: string): Service | undefined;
}

/** Lines kept for a client that is slow for a moment. */
const PENDING = 5000;
/** Lines that a log begins with. */
const TAIL = 200;

/**
 * The services of a server, as a page and as JSON. `access` undefined: whoever
 * gets here may do everything (the control socket). The page itself says
 * nothing; what it asks for wants the token of this run.
 */
export class ServicesEndpoint implements Endpoint {
  readonly #desk: ServiceDesk;
  readonly #access: AdminAccess | undefined;

  constructor(desk: ServiceDesk, access: AdminAccess | undefined) {
    this.#desk = desk;
    this.#access = access;
  }

  matches(path: string): boolean {
    return path === SERVICES_PATH || path.startsWith(`${SERVICES_PATH}/`);
  }

  async serve(request: UpgradeRequest): Promise<void> {
    const { head, path, exposed } = request;
    const [name, verb, ...more] = partsOf(path);
    if (name === undefined) return showPage(request, exposed);
    checkPage(head);
    if (this.#access !== undefined) await authorizeAdmin(request, this.#access);
    if (head.method !== "POST") throw new SeikanError("method-refused", "services are asked with POST");
    if (name === "status" && verb === undefined) return answerJson(request, { services: await this.#desk.report() });
    const service = this.#desk.find(name);
    if (service === undefined) throw new SeikanError("no-such-site", `there is no service ${name}`);
    if (more.length > 0) throw new SeikanError("no-such-site", `there is no path ${path}`);
    if (verb === "follow") return follow(request, service);
    if (verb === "logs") return answerJson(request, { lines: service.output.tail(TAIL) });
    if (verb === "start") await service.start();
    else if (verb === "stop") await service.stop();
    else if (verb === "restart") await service.restart();
    else throw new SeikanError("no-such-site", `a service can be started, stopped, restarted and followed`);
    answerJson(request, (await this.#desk.report()).find((one) => one.name === name) ?? {});
  }
}

/** `/-/services/NAME/VERB` */
function partsOf(path: string): (string | undefined)[] {
  const parts = path.slice(SERVICES_PATH.length + 1).split("/");
  try {
    return parts.map((part) => (part === "" ? undefined : decodeURIComponent(part)));
  } catch {
    throw new SeikanError("bad-request", "the path is badly encoded");
  }
}

/** Only a page of this very server may ask, and programs, which have no origin. */
function checkPage({ fields }: RequestHead): void {
  const origin = fieldValue(fields, "origin");
  const site = fieldValue(fields, "sec-fetch-site");
  const isOwn = origin === undefined || origin.replace(/^https?:\/\//, "") === fieldValue(fields, "host");
  if (isOwn && (site === undefined || site === "same-origin" || site === "none")) return;
  throw new SeikanError("origin-denied", "a page of another site may not ask for this");
}

function showPage(request: UpgradeRequest, exposed: boolean): void {
  const { head } = request;
  if (exposed) throw new SeikanError("no-such-site", "this page is for the machine itself");
  if (head.method !== "GET" && head.method !== "HEAD") throw new SeikanError("method-refused", "this is a page");
  const headOnly = head.method === "HEAD";
  const stream = request.leave();
  if (stream === undefined) return;
  closeWith(stream, textAnswer({ status: 200, text: page, contentType: CONTENT_TYPES.html, fields: FIELDS, headOnly }));
}

/** The script that is part of the page, and nothing else. */
const FIELDS: readonly string[] = [
  "Content-Security-Policy",
  `default-src 'none'; script-src 'sha256-${scriptDigest()}'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
  ...["X-Content-Type-Options", "nosniff", "X-Frame-Options", "DENY", "Referrer-Policy", "no-referrer"],
  ...["Cross-Origin-Opener-Policy", "same-origin", "Cache-Control", "no-store"],
];

function scriptDigest(): string {
  const script = /<script>([\s\S]*?)<\/script>/.exec(page)![1]!;
  return new Bun.CryptoHasher("sha256").update(script).digest("base64");
}

function answerJson(request: UpgradeRequest, value: unknown): void {
  const stream = request.leave();
  if (stream === undefined) return;
  const fields = ["Cache-Control", "no-store"];
  closeWith(stream, textAnswer({ status: 200, text: JSON.stringify(value), contentType: JSON_TYPE, fields }));
}

/** The last lines, then each further one as it comes, until the client goes. */
function follow(request: UpgradeRequest, service: Service): void {
  const stream = request.leave();
  if (stream === undefined) return;
  const fields = ["Content-Type", CONTENT_TYPES.text, "Cache-Control", "no-store", "Connection", "close"];
  stream.write(formatHead("HTTP/1.1 200 OK", [...fields, "X-Content-Type-Options", "nosniff"]));
  stream.write(text([`# ${service.settings.name}`, ...service.output.tail(TAIL)]));
  stream.attach(new Follower(request.context.live, stream, service));
  stream.resume();
}

function text(lines: readonly string[]): Buffer {
  return Buffer.from(lines.map((line) => `${line}\n`).join(""), "utf8");
}

/** Writes lines to a client as fast as that takes them; what it does not take is left out, and that is said. */
class Follower implements Sink {
  readonly #live: LiveSet;
  readonly #stream: ByteStream;
  readonly #forget: () => void;
  #isFull = false;
  readonly #pending: string[] = [];
  #missed = 0;

  constructor(live: LiveSet, stream: ByteStream, service: Service) {
    this.#live = live;
    this.#stream = stream;
    live.add(this);
    this.#forget = service.output.follow(
      (line) => this.#line(line),
      () => this.drain(),
    );
  }

  #line(line: string): void {
    if (!this.#isFull) this.#isFull = !this.#stream.write(text([line]));
    else if (this.#pending.length < PENDING) this.#pending.push(line);
    else this.#missed++;
  }

  onDrain(): void {
    const lines = this.#pending.splice(0);
    if (this.#missed > 0) lines.push(`# ${this.#missed} lines are missing here`);
    this.#missed = 0;
    this.#isFull = lines.length > 0 && !this.#stream.write(text(lines));
  }

  onData(): void {}

  onEnd(): void {
    this.#stream.end();
  }

  onClose(): void {
    this.#live.delete(this);
    this.#forget();
  }

  /** The server is about to stop. */
  drain(): void {
    this.#live.delete(this);
    this.#forget();
    closeGently(this.#stream);
  }

  abort(reason: SeikanError): void {
    this.#stream.abort(reason);
  }
}
