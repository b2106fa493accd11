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
export async function configError(path: string, text: string, findings: readonly Finding[]): Promise<SeikanError> {
  const { locator } = await import("./locate.ts");
  const { locate, shown } = locator(text);
  const mistakes = findings
    .map((finding): Mistake => mistakeAt(shown, locate(finding.path, finding.isKey), finding))
    .toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
  return mistaken(path, mistakes);
}

/** The text is no TOML. */
export function syntaxError(path: string, text: string, line: number, column: number, message: string): SeikanError {
  const finding = { path: [], isKey: false, message };
  // Where nothing can be told about it, texts in quotes may be secrets.
  const shown = text.replace(/(["'])(?:(?!\1)[^\n])+/g, (quoted) => quoted[0] + "*".repeat(quoted.length - 1));
  return mistaken(path, [mistakeAt(shown, { line, column, length: 1 }, finding)]);
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
  const lines = text.split(/\r?\n/);
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
