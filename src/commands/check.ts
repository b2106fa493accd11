import { formatTarget, type Target } from "../core/address.ts";
import { after, deadlineIn, now } from "../core/clock.ts";
import { SeikanError, toSeikanError, usageError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { exitCodeOf } from "../platform/signals.ts";
import { formatWay, type Way } from "../routes/route-table.ts";
import { formatHop } from "../transports/chain.ts";
import type { TlsFacts, TraceStep } from "../transports/transport.ts";
import type { CommandIo, PrintStyle } from "./command.ts";
import type { ConnectInvocation, ConnectValues } from "./connect-options.ts";
import { Lifetime } from "./lifetime.ts";
import type { Reaching } from "./reaching.ts";

/** How long the target may take to speak first; most wait for the client. */
const FIRST_BYTE_MS = 1000;
const EXPIRES_SOON_DAYS = 14;
const DAY_MS = 86_400_000;
const LABEL_WIDTH = 34;

/** `connect --check`: makes the connection step by step and says what each hop answered. */
export async function check(
  reaching: Reaching,
  target: Target | undefined,
  { values, tail }: ConnectInvocation,
  io: CommandIo,
): Promise<number> {
  if (tail !== undefined || values.listen.length > 0)
    throw usageError("--check makes one connection: it goes with neither -L nor a command");
  const way = target === undefined ? reaching.fallback : reaching.choose(target);
  if (target === undefined && way.hops.length === 0)
    throw usageError("--check needs a TARGET, a --via, or both", "seikan connect --check HOST:PORT --via URL");
  const report = new Report(target, way, io);
  report.begin();
  const lifetime = new Lifetime({ timeoutMs: values.timeout });
  try {
    const walked = walk(reaching, target, way, values, report).then(() => report.works());
    return await Promise.race([walked, lifetime.ended, lifetime.stopping.then(exitCodeOf)]);
  } catch (thrown) {
    return report.fails(toSeikanError(thrown));
  } finally {
    reaching.closeTunnels();
    lifetime.release();
  }
}

async function walk(
  reaching: Reaching,
  target: Target | undefined,
  way: Way,
  values: ConnectValues,
  report: Report,
): Promise<void> {
  const trace = (step: TraceStep) => report.step(describe(step));
  if (target === undefined) return way.probe({ deadline: deadlineIn(values["connect-timeout"]), trace });
  const stream = await reaching.dialOnce(target, way, trace);
  if (target.kind !== "udp") report.step(await firstByte(stream));
  stream.abort(new SeikanError("cancelled", "it was only checked"));
}

/** One line of the time line. */
interface Line {
  /** For scripts: what kind of step it was, and its facts. */
  readonly facts: Readonly<Record<string, unknown>>;
  readonly label: string;
  readonly detail: string;
  /** Nothing failed, but somebody should look at it. */
  readonly isOdd?: boolean;
}

function describe(step: TraceStep): Line {
  switch (step.kind) {
    case "lookup":
      return { facts: { step: step.kind, ...step }, label: `look up ${step.host}`, detail: step.addresses.join(" ") };
    case "tcp":
    case "udp":
    case "unix":
      return {
        facts: { step: step.kind, address: step.address },
        label: step.kind.toUpperCase(),
        detail: step.address,
      };
    case "tls":
      return describeTls(step.peer, step.session);
    case "answer": {
      const { hop, request, status, reason, agreed } = step;
      const words = [status, reason].filter((word) => word !== undefined && word !== "").join(" ");
      return {
        facts: { step: "answer", hop, request, status, reason, agreed },
        label: request,
        detail: `${hop}: ${words}`,
        isOdd: !agreed,
      };
    }
    case "session": {
      const tripMs = Math.round(step.tripMs * 10) / 10;
      const facts = { step: "tunnel", hop: step.hop, roundTripMs: tripMs };
      return { facts, label: "tunnel ready", detail: `${step.hop}: round trip ${tripMs} ms` };
    }
  }
}

function describeTls(peer: string, { trusted, version, alpn, subject, issuer, expires }: TlsFacts): Line {
  const facts = { step: "tls", peer, trusted, version, alpn, subject, issuer, expires: expires?.toISOString() };
  const daysLeft = expires === undefined ? Infinity : Math.floor((expires.getTime() - Date.now()) / DAY_MS);
  const parts = [
    version,
    subject,
    issuer === undefined ? undefined : `issued by ${issuer}`,
    validity(expires, daysLeft),
  ];
  const detail = parts.filter((part) => part !== undefined).join(", ");
  return { facts, label: `TLS with ${peer}`, detail, isOdd: !trusted || daysLeft < EXPIRES_SOON_DAYS };
}

function validity(expires: Date | undefined, daysLeft: number): string | undefined {
  if (expires === undefined) return undefined;
  const day = expires.toISOString().slice(0, 10);
  return daysLeft < 0 ? `expired on ${day}` : `valid until ${day} (${daysLeft} days)`;
}

/** What the target says unasked. */
function firstByte(stream: ByteStream): Promise<Line> {
  return new Promise((resolve) => {
    const answer = (outcome: string, detail: string, isOdd = false) => {
      cancel();
      resolve({ facts: { step: "first-byte", outcome, detail }, label: "first byte", detail, isOdd });
    };
    const cancel = after(FIRST_BYTE_MS, () =>
      answer("silent", `none within ${FIRST_BYTE_MS / 1000} s: the client speaks first there, as in HTTP and TLS`),
    );
    stream.attach({
      onData: (chunk) => answer("data", JSON.stringify(Buffer.from(chunk.subarray(0, 60)).toString("latin1"))),
      onEnd: () => answer("closed", "the target closed the connection at once", true),
      onDrain() {},
      onClose: ({ error }) => answer("closed", error?.message ?? "the target closed the connection", true),
    });
  });
}

/** Prints the time line as it happens, and the verdict. */
class Report {
  readonly #target: Target | undefined;
  readonly #way: Way;
  readonly #io: CommandIo;
  readonly #startedAt = now();
  #lastAt = now();
  /** Of the last step. */
  #isOdd = false;

  constructor(target: Target | undefined, way: Way, io: CommandIo) {
    this.#target = target;
    this.#way = way;
    this.#io = io;
  }

  get #what(): string {
    return this.#target === undefined ? formatHop(this.#way.hops.at(-1)!) : formatTarget(this.#target);
  }

  begin(): void {
    const hops = this.#way.hops.map(formatHop).join(" → ");
    const way = `${hops === "" ? "direct" : hops} (${this.#way.reason})`;
    const head = this.#target === undefined ? [] : [this.#paint("bold", this.#what)];
    this.#print([...head, this.#paint("dim", way)], "");
  }

  step({ facts, label, detail, isOdd }: Line): void {
    const ms = this.#lap();
    this.#isOdd = isOdd ?? false;
    this.#io.event("check-step", { ms: Math.round(ms * 10) / 10, ...facts });
    const glyph = isOdd ? this.#paint("yellow", "!") : this.#paint("green", "✓");
    this.#print([
      glyph,
      this.#paint("dim", duration(ms)),
      this.#paint("plain", label.padEnd(LABEL_WIDTH)),
      this.#paint("plain", detail),
    ]);
  }

  works(): number {
    const ms = now() - this.#startedAt;
    this.#io.event("check", { ok: true, ...this.#facts(), ms: Math.round(ms) });
    const verdict = `${this.#what} ${this.#outcome()}, ${duration(ms).trim()} in all`;
    this.#print([this.#paint("green", "works:"), this.#paint("plain", verdict)], "\n");
    return 0;
  }

  /** What was shown, and no more than that. */
  #outcome(): string {
    if (this.#target?.kind === "udp") return "can be sent to; whether anybody listens only an answer would show";
    if (this.#target !== undefined) return this.#isOdd ? "is reached, but look at the lines with !" : "is reached";
    const { scheme } = this.#way.hops.at(-1)!;
    return scheme.startsWith("ws") ? "is ready" : "takes connections; name a TARGET to see whether it is a proxy";
  }

  fails(error: SeikanError): number {
    const { code, message, hints, outcome } = error;
    const ms = this.#lap();
    this.#io.event("check", {
      ok: false,
      ...this.#facts(),
      ms: Math.round(now() - this.#startedAt),
      error: { code, message, hints },
    });
    this.#print([this.#paint("red", "✗"), this.#paint("dim", duration(ms)), this.#paint("red", message)]);
    for (const hint of hints) {
      const [, label, text] = /^(it says): (.*)$/s.exec(hint) ?? ["", "hint", hint];
      this.#print([" ".repeat(8), this.#paint("cyan", `${label}:`), this.#paint("plain", text!)]);
    }
    this.#print([this.#paint("red", "does not work:"), `${code}, exit code ${outcome.exit}`], "\n");
    return outcome.exit;
  }

  #facts(): Record<string, unknown> {
    const target = this.#target === undefined ? undefined : formatTarget(this.#target);
    return {
      target,
      reason: this.#way.reason,
      hops: formatWay(this.#way)
        .split(" ")
        .filter((hop) => hop !== "direct"),
    };
  }

  #lap(): number {
    const time = now();
    const ms = time - this.#lastAt;
    this.#lastAt = time;
    return ms;
  }

  #paint(style: PrintStyle, text: string): string {
    return this.#io.paint(style, text);
  }

  #print(parts: readonly string[], before = "  "): void {
    if (!this.#io.printsEvents) this.#io.print(before + parts.join("  ").trimEnd());
  }
}

/** `  12 ms`, `10.0 s`: eight columns. */
function duration(ms: number): string {
  const text = ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
  return text.padStart(8);
}
