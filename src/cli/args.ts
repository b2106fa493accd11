import { parseArgs } from "node:util";
import { usageError, type SeikanError } from "../core/errors.ts";
import type { OptionSpec, OptionSpecs } from "../core/options.ts";
import { suggest } from "../core/suggest.ts";

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
    if (spec === undefined || spec.kind === "section") throw unknownOption(token.rawName, specs);
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

function optionNames(specs: OptionSpecs): string[] {
  return Object.keys(specs).filter((name) => specs[name]!.kind !== "section");
}

function unknownOption(rawName: string, specs: OptionSpecs): SeikanError {
  const name = rawName.replace(/^-+/, "");
  const close = rawName.startsWith("--") ? suggest(name, optionNames(specs)) : undefined;
  return usageError(
    `unknown option ${rawName}`,
    close === undefined ? "--help lists the options" : `did you mean --${close}?`,
  );
}
