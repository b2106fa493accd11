import { formatTarget, type Target, type TcpTarget } from "../core/address.ts";
import { deadlineIn, type Deadline } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { fieldValue, fieldValues, formatHead, type Fields } from "../wire/fields.ts";
import { ResponseReader, type MessageHandler, type ResponseHead } from "../wire/http1.ts";
import { readStep, type Step, type Taken } from "./handshake.ts";
import type { ProxyCredentials } from "./proxy-credentials.ts";
import type { Dialer } from "./transport.ts";

export interface HttpHop {
  readonly proxy: TcpTarget;
  /** Sends the proxy's name to people: `http://proxy:3128`. */
  readonly name: string;
  readonly credentials: ProxyCredentials;
  /** Added to each request; in CONNECT `Host` replaces ours. */
  readonly fields: Fields;
  /** Opens a connection to the proxy itself, TLS included where it speaks that. */
  readonly reach: Dialer;
}

/** How much of a refusal's body is read, to be shown to people. */
const REFUSAL_BYTES = 8 * 1024;
/** And how long for: a proxy that does not end its body shall not delay the error. */
const REFUSAL_MS = 2000;
const INFORMATIONAL_ANSWERS = 16;
const CONNECT_TRIES = 5;

/**
 * A dialer that asks the HTTP proxy to CONNECT
 * (RFC 9110 section 9.3.6). Nothing of the tunnel is sent before the proxy
 * agreed (RFC 9931); bytes behind its answer are the tunnel's first ones.
 */
export function httpConnectDialer(hop: HttpHop): Dialer {
  return async (target, options) => {
    const authority = authorityOf(target);
    const attempt = hop.credentials.attempt("CONNECT", authority);
    let stream: ByteStream | undefined;
    let reused = false;
    for (let tries = 0; tries < CONNECT_TRIES; tries++) {
      stream ??= await hop.reach(hop.proxy, { deadline: options.deadline });
      try {
        const answer = await ask(stream, hop, authority, attempt.value, options.deadline);
        if (isSuccess(answer.head.status)) return stream;
        if (answer.head.status !== 407) throw refused(hop, authority, answer);
        await attempt.challenged(fieldValues(answer.head.fields, "proxy-authenticate"), hop.name);
        reused = answer.reusable;
        if (reused) continue;
        stream.abort(new SeikanError("hop-auth", "authenticating on a new connection"));
        stream = undefined;
      } catch (thrown) {
        const error = toSeikanError(thrown);
        stream?.abort(error);
        // It promised to keep the connection and closed it all the same.
        if (!reused || error.code !== "hop-closed") throw error;
        stream = undefined;
        reused = false;
      }
    }
    throw new SeikanError("hop-auth", `${hop.name} keeps asking for credentials`);
  };
}

function authorityOf(target: Target): string {
  if (target.kind === "tcp") return formatTarget(target);
  throw new SeikanError("usage", `an HTTP proxy cannot reach ${formatTarget(target)}`);
}

function isSuccess(status: number): boolean {
  return status >= 200 && status < 300;
}

async function ask(
  stream: ByteStream,
  hop: HttpHop,
  authority: string,
  authorization: string | undefined,
  deadline: Deadline,
): Promise<Answer> {
  const host = fieldValue(hop.fields, "host") === undefined ? ["Host", authority] : [];
  const credentials = authorization === undefined ? [] : ["Proxy-Authorization", authorization];
  stream.write(formatHead(`CONNECT ${authority} HTTP/1.1`, [...host, ...credentials, ...hop.fields]));
  const step = new AnswerStep(hop.name);
  const answer = await readStep(stream, step, deadline, hop.name);
  if (isSuccess(answer.head.status) || answer.complete) return answer;
  await readStep(stream, step.body(), Math.min(deadline, deadlineIn(REFUSAL_MS)), hop.name).catch(() => {});
  return step.answer!;
}

interface Answer {
  readonly head: ResponseHead;
  readonly body: Uint8Array[];
  /** The whole answer was read. */
  complete: boolean;
  /** Another request may follow on the same connection. */
  reusable: boolean;
}

const NOTHING = new Uint8Array(0);

/** Reads the final answer to a CONNECT. Yields at its head; `body()` reads on. */
class AnswerStep implements Step<Answer>, MessageHandler<ResponseHead> {
  readonly #reader = new ResponseReader(this, "to-connect");
  readonly #name: string;
  answer: Answer | undefined;
  #informational = 0;
  #bodyBytes = 0;

  constructor(name: string) {
    this.#name = name;
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
    if (head.status === 101) throw new SeikanError("hop-protocol", `${this.#name} answers CONNECT with 101`);
    if (head.status < 200) {
      if (++this.#informational > INFORMATIONAL_ANSWERS)
        throw new SeikanError("hop-protocol", `${this.#name} sends 1xx without end`);
      return;
    }
    this.answer = { head, body: [], complete: false, reusable: false };
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

function notHttp(name: string, chunk: Uint8Array, cause: unknown): SeikanError {
  const isTls = chunk[0] === 0x15 || chunk[0] === 0x16;
  const hints = isTls ? [`it speaks TLS: try https:// instead of http://`] : ["is this an HTTP proxy?"];
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new SeikanError("hop-protocol", `${name} does not answer like an HTTP proxy (${reason})`, { cause, hints });
}

function refused(hop: HttpHop, authority: string, answer: Answer): SeikanError {
  const { status, reason, fields } = answer.head;
  const details = [firstLines(answer.body), fieldValue(fields, "proxy-status")].filter(
    (text) => text !== undefined && text !== "",
  );
  const message = `${hop.name} refused CONNECT ${authority}: ${status}${reason === "" ? "" : ` ${reason}`}`;
  const code = status === 401 ? "hop-auth" : "hop-refused";
  return new SeikanError(code, message, { hopStatus: status, hints: details.map((text) => `it says: ${text}`) });
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
    .filter((line) => line !== "");
  return lines.slice(0, 3).join(" / ").slice(0, 300);
}
