import { formatHostPort, type TcpTarget } from "../core/address.ts";
import { deadlineIn } from "../core/clock.ts";
import { SeikanError, toSeikanError, type ErrorCode } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { fieldValue, fieldValues, type Fields } from "../wire/fields.ts";
import { ResponseReader, type MessageHandler, type ResponseHead } from "../wire/http1.ts";
import { readStep, type Step, type Taken } from "./handshake.ts";
import type { ProxyCredentials } from "./proxy-credentials.ts";
import type { Dialer, DialOptions } from "./transport.ts";

/** An HTTP server on the way: a proxy, or the far end of a tunnel. */
export interface HttpHop {
  readonly proxy: TcpTarget;
  /** Its name for people: `http://proxy:3128`. */
  readonly name: string;
  /** TLS is spoken with it, so its default port is 443. */
  readonly isSecure: boolean;
  readonly credentials: ProxyCredentials;
  /** Added to each request; a `Host` here replaces ours. */
  readonly fields: Fields;
  /** Opens a connection to the hop itself, TLS included where it speaks that. */
  readonly reach: Dialer;
}

/** A request after which the connection is a stream, not HTTP any more. */
export interface HopRequest {
  /** For people: `CONNECT a.org:443`. */
  readonly what: string;
  /** Method and target, as the credentials are computed from them. */
  readonly method: string;
  readonly uri: string;
  /** How the hop asks for credentials, if it does. */
  readonly challenge: { readonly status: 407 | 401; readonly field: "proxy-authenticate" | "www-authenticate" };
  /** The request's bytes with these credentials. */
  head(authorization: string | undefined): Uint8Array;
  /** True for the answer that makes it a stream; throws when that answer is wrong. */
  agrees(head: ResponseHead): boolean;
  /** The error for any other answer, from its code and sentence. */
  refused?(head: ResponseHead, refusal: Refusal): SeikanError;
}

export interface Refusal {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hints: readonly string[];
}

/** How much of a refusal's body is read, to be shown to people. */
const REFUSAL_BYTES = 8 * 1024;
/** And how long for: a hop that does not end its body shall not delay the error. */
const REFUSAL_MS = 2000;
const INFORMATIONAL_ANSWERS = 16;
const TRIES = 5;

/**
 * Asks a hop until it agrees, answering its challenges, on a new connection
 * where it closes the old one. Nothing of the stream is sent before it agreed
 * (RFC 9931); bytes behind its answer are the stream's first ones.
 */
export async function askHop(hop: HttpHop, request: HopRequest, options: DialOptions): Promise<ByteStream> {
  const attempt = hop.credentials.attempt(request.method, request.uri);
  let stream: ByteStream | undefined;
  let reused = false;
  for (let tries = 0; tries < TRIES; tries++) {
    stream ??= await hop.reach(hop.proxy, { deadline: options.deadline, trace: options.trace });
    try {
      const answer = await ask(stream, hop, request, attempt.value, options);
      if (answer.agreed) return stream;
      const { status, field } = request.challenge;
      if (answer.head.status !== status) throw refused(hop, request, answer);
      await attempt.challenged(fieldValues(answer.head.fields, field), hop.name, status);
      reused = answer.reusable;
      if (reused) continue;
      stream.abort(new SeikanError("hop-auth", "authenticating on a new connection"));
      stream = undefined;
    } catch (thrown) {
      const error = toSeikanError(thrown);
      stream?.abort(error);
      // It promised to keep the connection and closed it all the same.
      if (!reused || error.code !== "hop-closed") throw perhapsTls(hop, error);
      stream = undefined;
      reused = false;
    }
  }
  throw new SeikanError("hop-auth", `${hop.name} keeps asking for credentials`);
}

async function ask(
  stream: ByteStream,
  hop: HttpHop,
  request: HopRequest,
  authorization: string | undefined,
  { deadline, trace }: DialOptions,
): Promise<Answer> {
  stream.write(request.head(authorization));
  const step = new AnswerStep(hop.name, request);
  const answer = await readStep(stream, step, deadline, hop.name);
  const { status, reason } = answer.head;
  const { agreed } = answer;
  trace?.({ kind: "answer", hop: hop.name, request: request.what, status, reason, agreed });
  if (agreed || answer.complete) return answer;
  await readStep(stream, step.body(), Math.min(deadline, deadlineIn(REFUSAL_MS)), hop.name).catch(() => {});
  return step.answer!;
}

interface Answer {
  readonly head: ResponseHead;
  readonly agreed: boolean;
  readonly body: Uint8Array[];
  /** The whole answer was read. */
  complete: boolean;
  /** Another request may follow on the same connection. */
  reusable: boolean;
}

const NOTHING = new Uint8Array(0);

/** Reads the final answer to a request. Yields at its head; `body()` reads on. */
class AnswerStep implements Step<Answer>, MessageHandler<ResponseHead> {
  readonly #reader: ResponseReader;
  readonly #name: string;
  readonly #request: HopRequest;
  answer: Answer | undefined;
  #informational = 0;
  #bodyBytes = 0;

  constructor(name: string, request: HopRequest) {
    this.#name = name;
    this.#request = request;
    this.#reader = new ResponseReader(this, request.method === "CONNECT" ? "to-connect" : "normal");
  }

  take(chunk: Uint8Array): Taken<Answer> | undefined {
    const rest = this.#feed(chunk, () => this.answer !== undefined);
    return this.answer === undefined ? undefined : { value: this.answer, rest };
  }

  body(): Step<true> {
    return {
      take: (chunk) => {
        const rest = this.#feed(chunk, () => this.answer!.complete || this.#bodyBytes >= REFUSAL_BYTES);
        return this.answer!.complete || this.#bodyBytes >= REFUSAL_BYTES ? { value: true, rest } : undefined;
      },
      end: () => true,
    };
  }

  #feed(chunk: Uint8Array, done: () => boolean): Uint8Array {
    try {
      let rest = chunk;
      while (rest.length > 0 && !done()) rest = rest.subarray(this.#reader.feed(rest));
      return rest;
    } catch (cause) {
      if (cause instanceof SeikanError && cause.code !== "bad-response") throw cause;
      throw notHttp(this.#name, chunk, cause);
    }
  }

  onHead(head: ResponseHead): void {
    const agreed = this.#request.agrees(head);
    if (!agreed && head.status < 200) {
      if (head.status === 101)
        throw new SeikanError("hop-protocol", `${this.#name} answers ${this.#request.method} with 101`);
      if (++this.#informational > INFORMATIONAL_ANSWERS)
        throw new SeikanError("hop-protocol", `${this.#name} sends 1xx without end`);
      return;
    }
    this.answer = { head, agreed, body: [], complete: false, reusable: false };
    this.#reader.pause();
  }

  onBody(chunk: Uint8Array): void {
    this.#bodyBytes += chunk.length;
    this.answer?.body.push(chunk);
  }

  onComplete(): void {
    if (this.answer === undefined) return;
    this.answer.complete = true;
    this.answer.reusable = this.answer.head.keepAlive && this.answer.head.framing !== "until-close";
  }
}

/** What a person writes when the hop speaks TLS after all. */
function secureScheme(name: string): string {
  return name.startsWith("ws") ? "wss:// instead of ws://" : "https:// instead of http://";
}

/** Many TLS servers answer plain HTTP with a closed connection. */
function perhapsTls(hop: HttpHop, error: SeikanError): SeikanError {
  if (error.code !== "hop-closed" || hop.isSecure) return error;
  const hints = [...error.hints, `if that port speaks TLS, write ${secureScheme(hop.name)}`];
  return new SeikanError(error.code, error.message, { cause: error.cause, hints });
}

function notHttp(name: string, chunk: Uint8Array, cause: unknown): SeikanError {
  const isTls = chunk[0] === 0x15 || chunk[0] === 0x16;
  const hints = isTls ? [`it speaks TLS: try ${secureScheme(name)}`] : ["is this the right host and port?"];
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new SeikanError("hop-protocol", `${name} does not answer in HTTP (${reason})`, { cause, hints });
}

function refused(hop: HttpHop, request: HopRequest, answer: Answer): SeikanError {
  const { status, reason, fields } = answer.head;
  const body = firstLines(answer.body);
  const proxyStatus = fieldValue(fields, "proxy-status") ?? "";
  // Often both say the same.
  const isSaid = body.includes(/details="([^"\\]+)"/.exec(proxyStatus)?.[1] ?? "\0");
  const details = [body, isSaid ? "" : proxyStatus].filter((text) => text !== "");
  const refusal: Refusal = {
    code: status === 401 || status === 407 ? "hop-auth" : "hop-refused",
    message: `${hop.name} refused ${request.what}: ${status}${reason === "" ? "" : ` ${reason}`}`,
    hints: details.map((text) => `it says: ${text}`),
  };
  return (
    request.refused?.(answer.head, refusal) ??
    new SeikanError(refusal.code, refusal.message, {
      hopStatus: status,
      hopError: /;\s*error=([a-z_]+)/.exec(proxyStatus)?.[1],
      hints: refusal.hints,
    })
  );
}

/** A refusal's text without markup, at most a few lines. */
function firstLines(body: readonly Uint8Array[]): string {
  const text = Buffer.concat([NOTHING, ...body]).toString("utf8");
  const plain = text
    .replace(/<(style|script|head)[\s\S]*?<\/\1>/gi, " ")
    .replace(/<[^>]*>/g, " ")
    .replace(/&nbsp;/g, " ");
  const lines = plain
    .split(/\r?\n/)
    .map((line) => line.replace(/\s+/g, " ").trim())
    // The hints of another seikan are for whoever sits there.
    .filter((line) => line !== "" && !line.startsWith("hint: "));
  return lines.slice(0, 3).join(" / ").slice(0, 300);
}

/** `Host` for a resource of the hop itself, without a default port (RFC 9110 section 7.2); none when `fields` has one. */
export function hostFields(hop: HttpHop): string[] {
  if (fieldValue(hop.fields, "host") !== undefined) return [];
  const { host, port } = hop.proxy;
  const isDefault = port === (hop.isSecure ? 443 : 80);
  const bare = host.includes(":") ? `[${host}]` : host;
  return ["Host", isDefault ? bare : formatHostPort(host, port)];
}
