import { toSeikanError, type Mistake, type SeikanError } from "../core/errors.ts";
import { escapeControls, painter, usesColor, writeTo, type Paint } from "./terminal.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** Turns any throw into one sentence with hints on stderr, and returns the exit code. */
export function report(thrown: unknown, env: Env, json: boolean): number {
  const error = toSeikanError(thrown);
  writeTo(2, json ? `${asJson(error)}\n` : asText(error, env));
  return error.outcome.exit;
}

/** Whoever reads stderr by program, as events or as logs, gets its last line that way, too. */
export function wantsJson(argv: readonly string[], env: Env): boolean {
  const end = argv.indexOf("--");
  const words = end < 0 ? argv : argv.slice(0, end);
  const format = words.findLastIndex((word) => /^--log-format(=|$)/.test(word));
  const given = format < 0 ? env["SEIKAN_LOG_FORMAT"] : (words[format]!.split("=")[1] ?? words[format + 1]);
  return words.includes("--json") || given === "json";
}

function asJson(error: SeikanError): string {
  const { code, message, hints } = error;
  const mistakes = error.mistakes.map(({ line, column, message: what, hint }) => ({
    line,
    column,
    message: what,
    hint,
  }));
  const described = { code, message, hints, ...(mistakes.length > 0 && { mistakes }) };
  return JSON.stringify({ event: "error", time: new Date().toISOString(), error: described });
}

function asText(error: SeikanError, env: Env): string {
  const paint = painter(usesColor(2, env));
  const lines = [`seikan: ${paint("red", "error:")} ${escapeControls(error.message)}`];
  for (const mistake of error.mistakes) lines.push("", ...mistakeLines(mistake, paint));
  for (const hint of error.hints) lines.push(`  ${paint("cyan", "hint:")} ${escapeControls(hint)}`);
  // A bug: whoever reports it needs the place.
  if (error.code === "internal" && error.cause instanceof Error && error.cause.stack !== undefined) {
    lines.push(paint("dim", error.cause.stack));
  }
  return `${lines.join("\n")}\n`;
}

function mistakeLines({ line, column, message, hint, frame }: Mistake, paint: Paint): string[] {
  const place = line === undefined ? "" : `${line}:${column}: `;
  const advice = hint === undefined ? "" : `: ${escapeControls(hint)}`;
  const code = frame.map((text) => paint(text.startsWith(">") ? "bold" : "dim", `  ${escapeControls(text)}`));
  return [`${paint("cyan", place)}${escapeControls(message)}${advice}`, ...code];
}
