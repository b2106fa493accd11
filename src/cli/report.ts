import { toSeikanError, type SeikanError } from "../core/errors.ts";
import { escapeControls, painter, usesColor, writeTo } from "./terminal.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** Turns any throw into one sentence with hints on stderr, and returns the exit code. */
export function report(thrown: unknown, env: Env, json: boolean): number {
  const error = toSeikanError(thrown);
  writeTo(2, json ? `${asJson(error)}\n` : asText(error, env));
  return error.outcome.exit;
}

function asJson(error: SeikanError): string {
  const { code, message, hints } = error;
  return JSON.stringify({ event: "error", time: new Date().toISOString(), error: { code, message, hints } });
}

function asText(error: SeikanError, env: Env): string {
  const paint = painter(usesColor(2, env));
  const lines = [`seikan: ${paint("red", "error:")} ${escapeControls(error.message)}`];
  for (const hint of error.hints) lines.push(`  ${paint("cyan", "hint:")} ${escapeControls(hint)}`);
  // A bug: whoever reports it needs the place.
  if (error.code === "internal" && error.cause instanceof Error && error.cause.stack !== undefined) {
    lines.push(paint("dim", error.cause.stack));
  }
  return `${lines.join("\n")}\n`;
}
