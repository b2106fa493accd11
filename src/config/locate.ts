import { parseTOML, type AST } from "toml-eslint-parser";
import { isSecret, type KeyPath, type Place } from "./key-path.ts";

/**
 * Finds where keys and values are written. The parser that knows positions is
 * a second one, loaded only once there is something to point at.
 */
export function locator(text: string, isShown: (path: KeyPath) => boolean = (path) => !isSecret(path)): Locator {
  const program = parseTOML(text);
  const [body] = program.body;
  const written: Written[] = [];
  for (const node of body.body) {
    if (node.type === "TOMLKeyValue") collect(node, [], written);
    else {
      written.push({ path: node.resolvedKey, key: node.key, value: node.key });
      for (const inner of node.body) collect(inner, node.resolvedKey, written);
    }
  }
  const locate = (path: KeyPath, isKey: boolean) => {
    // What is missing is missing in the table around it.
    for (let length = path.length; length > 0; length--) {
      const wanted = path.slice(0, length);
      const found =
        written.find((one) => isEqual(one.path, wanted)) ??
        written.find((one) => isSame(one.path.slice(0, length), wanted));
      if (found !== undefined) return placeOf(isKey || length < path.length ? found.key : found.value);
    }
    return undefined;
  };
  const hidden = written.filter(({ path, key, value }) => value !== key && !isShown(path)).map(({ value }) => value);
  // A comment may hold what was a value before.
  return { locate, shown: masked(text, [...hidden, ...program.comments]) };
}

export interface Locator {
  /** Of a key or its value; of the table around it where it is missing. */
  locate(path: KeyPath, isKey: boolean): Place | undefined;
  /** The text with stars for its secrets, everything else in its place. */
  readonly shown: string;
}

function masked(text: string, hidden: readonly Node[]): string {
  let shown = text;
  for (const { range } of hidden) {
    const [start, end] = range;
    shown = shown.slice(0, start) + shown.slice(start, end).replace(/[^\s#]/g, "*") + shown.slice(end);
  }
  return shown;
}

interface Written {
  readonly path: KeyPath;
  readonly key: Node;
  readonly value: Node;
}

type Node = Pick<AST.TOMLNode, "loc" | "range">;

function collect({ key, value }: AST.TOMLKeyValue, above: KeyPath, written: Written[]): void {
  const names = key.keys.map((part) => (part.type === "TOMLBare" ? part.name : part.value));
  // `a.b = 1` writes a, too.
  for (const [index, part] of key.keys.entries())
    written.push({ path: [...above, ...names.slice(0, index + 1)], key: part, value: value });
  collectValue(value, [...above, ...names], written);
}

function collectValue(value: AST.TOMLContentNode, path: KeyPath, written: Written[]): void {
  if (value.type === "TOMLInlineTable") for (const inner of value.body) collect(inner, path, written);
  if (value.type !== "TOMLArray") return;
  for (const [index, element] of value.elements.entries()) {
    written.push({ path: [...path, index], key: element, value: element });
    collectValue(element, [...path, index], written);
  }
}

function isEqual(a: KeyPath, b: KeyPath): boolean {
  return a.length === b.length && a.every((part, index) => part === b[index]);
}

/** Hyphens and underscores are the same in keys. */
function isSame(a: KeyPath, b: KeyPath): boolean {
  return a.length === b.length && a.every((part, index) => plain(part) === plain(b[index]!));
}

function plain(part: string | number): string {
  return String(part).replaceAll("-", "_");
}

function placeOf({ loc, range }: Node): Place {
  const isOneLine = loc.start.line === loc.end.line;
  return {
    line: loc.start.line,
    column: loc.start.column + 1,
    length: isOneLine ? Math.max(1, range[1] - range[0]) : 1,
  };
}
