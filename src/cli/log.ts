import { createConsola, type ConsolaReporter, type LogObject } from "consola/core";
import type { LogLevel } from "../commands/command.ts";
import type { LogFields, Logger } from "../core/log.ts";
import { escapeControls, painter, usesColor, writeTo } from "./terminal.ts";

export type LogFormat = "pretty" | "plain" | "json";

// consola's scale; -999 is silent.
const LEVELS: Record<LogLevel, number> = { silent: -999, error: 0, warn: 1, info: 3, debug: 4 };

/** Messages to stderr, one line each, through consola. */
export function createLogger(
  level: LogLevel,
  format: LogFormat,
  env: Readonly<Record<string, string | undefined>>,
): Logger {
  const reporter = format === "json" ? jsonReporter : lineReporter(format, usesColor(2, env));
  const consola = createConsola({ level: LEVELS[level], reporters: [reporter], throttle: 0, throttleMin: Infinity });
  const at = (type: "error" | "warn" | "info" | "debug") => (message: string, fields?: LogFields) =>
    consola[type](message, fields ?? {});
  return { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug") };
}

function partsOf(entry: LogObject): { message: string; fields: LogFields } {
  const [message, fields] = entry.args as [string, LogFields | undefined];
  return { message, fields: fields ?? {} };
}

const jsonReporter: ConsolaReporter = {
  log(entry) {
    const { message, fields } = partsOf(entry);
    writeTo(
      2,
      `${JSON.stringify({ event: "log", time: entry.date.toISOString(), level: entry.type, message, ...fields })}\n`,
    );
  },
};

const GLYPHS: Record<string, readonly [string, "red" | "yellow" | "cyan" | "dim"]> = {
  error: ["✗", "red"],
  warn: ["!", "yellow"],
  info: ["›", "cyan"],
  debug: ["·", "dim"],
};

function lineReporter(format: "pretty" | "plain", color: boolean): ConsolaReporter {
  const paint = painter(color);
  return {
    log(entry) {
      const { message, fields } = partsOf(entry);
      const [glyph, style] = GLYPHS[entry.type] ?? ["›", "cyan"];
      const time = entry.date.toTimeString().slice(0, 8);
      const lead =
        format === "pretty"
          ? `${paint("dim", time)} ${paint(style, glyph)}`
          : `${entry.date.toISOString()} ${entry.type}`;
      const tail = formatFields(fields);
      writeTo(2, `${lead} ${escapeControls(message)}${tail === "" ? "" : ` ${paint("dim", tail)}`}\n`);
    },
  };
}

/** `key=value` pairs; values with spaces or quotes as JSON strings. */
export function formatFields(fields: LogFields): string {
  return Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => {
      const text = escapeControls(String(value));
      return `${key}=${text === "" || /[\s"=]/.test(text) ? JSON.stringify(text) : text}`;
    })
    .join(" ");
}
