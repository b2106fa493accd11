import { parseArgs } from "node:util";
import { SeikanError, usageError } from "../core/errors.ts";
import type { OptionSpec, OptionSpecs } from "../core/options.ts";
import { suggest } from "./suggest.ts";

/** A command line, split at the first `--`. */
export interface SplitLine {
  readonly words: readonly string[];
  readonly tail: readonly string[] | undefined;
}

export function splitTail(argv: readonly string[]): SplitLine {
  const at = argv.indexOf("--");
  return at < 0 ? { words: argv, tail: undefined } : { words: argv.slice(0, at), tail: argv.slice(at + 1) };
}

export interface ParsedWords {
  readonly positionals: readonly { readonly text: string; readonly index: number }[];
  /** What was given for each option, in order; a flag is `true` or an inline value. */
  readonly given: ReadonlyMap<string, readonly string[]>;
}

/** Parses words strictly: unknown options, missing values and `-p=1` are errors that name a way out. */
export function parseWords(words: readonly string[], specs: OptionSpecs): ParsedWords {
  const { tokens } = parseArgs({
    args: [...words],
    options: parserOptions(specs),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const positionals: { text: string; index: number }[] = [];
  const given = new Map<string, string[]>();
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push({ text: token.value, index: token.index });
    if (token.kind !== "option") continue;
    const spec = Object.hasOwn(specs, token.name) ? specs[token.name] : undefined;
    if (spec === undefined) throw unknownOption(token.rawName, specs);
    given.set(token.name, [...(given.get(token.name) ?? []), givenValue(spec, token)]);
  }
  return { positionals, given };
}

function parserOptions(specs: OptionSpecs): Record<string, { type: "string" | "boolean"; short?: string }> {
  const options: Record<string, { type: "string" | "boolean"; short?: string }> = Object.create(null);
  for (const [name, spec] of Object.entries(specs)) {
    const type = spec.kind === "flag" || spec.bare !== undefined ? "boolean" : "string";
    options[name] = spec.short === undefined ? { type } : { type, short: spec.short };
  }
  return options;
}

interface OptionToken {
  readonly rawName: string;
  readonly value?: string | undefined;
  readonly inlineValue?: boolean | undefined;
}

function givenValue(spec: OptionSpec<unknown>, token: OptionToken): string {
  const { rawName, value, inlineValue } = token;
  if (spec.kind === "flag") return value ?? "true";
  if (value === undefined && spec.bare !== undefined) return spec.bare;
  if (value === undefined) throw usageError(`${rawName} needs a value: ${rawName} ${spec.metavar}`);
  if (inlineValue && !rawName.startsWith("--") && value.startsWith("=")) {
    throw usageError(`write ${rawName} ${value.slice(1)} or --long-name=${value.slice(1)}, not ${rawName}${value}`);
  }
  if (!inlineValue && /^-./.test(value) && !/^-\d/.test(value)) {
    throw usageError(
      `${rawName} needs a value, but ${value} looks like an option`,
      `if it is the value, write ${rawName}=${value}`,
    );
  }
  return value;
}

function unknownOption(rawName: string, specs: OptionSpecs): SeikanError {
  const name = rawName.replace(/^-+/, "");
  const close = rawName.startsWith("--") ? suggest(name, Object.keys(specs)) : undefined;
  return usageError(
    `unknown option ${rawName}`,
    close === undefined ? "--help lists the options" : `did you mean --${close}?`,
  );
}

/** The environment variable of an option. */
export function variableOf(name: string): string {
  return `SEIKAN_${name.replaceAll("-", "_").toUpperCase()}`;
}

/** Values by name: command line over environment over default. */
export function resolveValues(
  specs: OptionSpecs,
  given: ReadonlyMap<string, readonly string[]>,
  env: Readonly<Record<string, string | undefined>>,
): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(specs)) {
    const words = given.get(name);
    const variable = variableOf(name);
    const fromEnv = words === undefined ? env[variable] : undefined;
    const source = fromEnv === undefined ? `--${name}` : variable;
    values[name] = resolveOne(spec, words ?? envWords(spec, fromEnv), source);
  }
  return values;
}

function envWords(spec: OptionSpec<unknown>, text: string | undefined): readonly string[] | undefined {
  if (text === undefined || text === "") return undefined;
  if (spec.kind !== "list") return [text];
  return text
    .split(spec.separator ?? ",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
}

function resolveOne(spec: OptionSpec<unknown>, words: readonly string[] | undefined, source: string): unknown {
  const parse = (word: string) => parseFor(spec, word, source);
  if (spec.kind === "list") return (words ?? []).map(parse);
  const last = words?.at(-1) ?? spec.default;
  if (last !== undefined) return parse(last);
  return spec.kind === "flag" ? false : undefined;
}

function parseFor(spec: OptionSpec<unknown>, word: string, source: string): unknown {
  try {
    return spec.parse(word);
  } catch (error) {
    if (error instanceof SeikanError) throw usageError(`${source}: ${error.message}`, ...error.hints);
    throw error;
  }
}
