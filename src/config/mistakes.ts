import { SeikanError, type Mistake } from "../core/errors.ts";
import type { KeyPath, Place } from "./key-path.ts";

/** Something wrong, before anybody looked where it is written. */
export interface Finding {
  readonly path: KeyPath;
  /** The name is wrong and not what stands behind it. */
  readonly isKey: boolean;
  readonly message: string;
  readonly hint?: string | undefined;
}

/** One error for everything that was found, each with its line. */
export async function configError(
  path: string,
  text: string,
  findings: readonly Finding[],
  isShown?: (path: KeyPath) => boolean,
): Promise<SeikanError> {
  const { locator } = await import("./locate.ts");
  const { locate, shown } = locator(text, isShown);
  const mistakes = findings
    .map((finding): Mistake => mistakeAt(shown, locate(finding.path, finding.isKey), finding))
    .toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
  return mistaken(path, mistakes);
}

/** The text is no TOML: nothing can be told about its values, so none is shown. */
export function syntaxError(path: string, text: string, line: number, column: number, message: string): SeikanError {
  const finding = { path: [], isKey: false, message };
  const shown = text.split("\n").map((one, index) => withoutValue(one, index + 1 === line));
  return mistaken(path, [mistakeAt(shown.join("\n"), { line, column, length: 1 }, finding)]);
}

/** A table's name, or the key where the mistake is; anything else may be a secret, or a piece of one. */
function withoutValue(line: string, isHere: boolean): string {
  const shown = (isHere ? /^\s*(?:\[[^"'=]*|[a-z][a-z0-9_-]{0,40}\s*=)/ : /^\s*\[[^"'=]*/).exec(line)?.[0] ?? "";
  return shown + line.slice(shown.length).replace(/[^\s]/g, "*");
}

function mistaken(path: string, mistakes: readonly Mistake[]): SeikanError {
  const count = mistakes.length === 1 ? "a mistake" : `${mistakes.length} mistakes`;
  return new SeikanError("usage", `${path} has ${count}`, { mistakes });
}

function mistakeAt(text: string, place: Place | undefined, { message, hint }: Finding): Mistake {
  const { line, column } = place ?? {};
  return { message, hint, line, column, frame: place === undefined ? [] : codeFrame(text, place) };
}

/** Lines shown before and behind a mistake. */
const CONTEXT = 1;

/** The line, its neighbours, and a mark below what is meant. */
export function codeFrame(text: string, { line, column, length }: Place): string[] {
  const lines = text.replaceAll("\t", " ").split(/\r?\n/);
  const first = Math.max(1, line - CONTEXT);
  const last = Math.min(lines.length, line + CONTEXT);
  const width = String(last).length;
  return Array.from({ length: last - first + 1 }, (_, index) => first + index).flatMap((number) => {
    const shown = `${number === line ? ">" : " "} ${String(number).padStart(width)} | ${lines[number - 1]}`.trimEnd();
    if (number !== line) return [shown];
    const room = Math.max(1, lines[number - 1]!.length - column + 1);
    return [shown, `  ${" ".repeat(width)} | ${" ".repeat(column - 1)}${"^".repeat(Math.min(length, room))}`];
  });
}
