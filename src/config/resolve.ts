import { SeikanError, usageError } from "../core/errors.ts";
import type { OptionSpec, OptionSpecs } from "../core/options.ts";
import type { FileValues } from "./file.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** The environment variable of an option. */
export function variableOf(name: string): string {
  return `SEIKAN_${name.replaceAll("-", "_").toUpperCase()}`;
}

/** Where a value came from. */
export interface Source {
  readonly kind: "flag" | "environment" | "file" | "default";
  /** `--via`, `SEIKAN_VIA`, `via in seikan.toml`, `default`. */
  readonly name: string;
}

export interface Resolved {
  readonly values: Readonly<Record<string, unknown>>;
  /** As they were written; undefined where there is no value. */
  readonly words: ReadonlyMap<string, readonly string[] | undefined>;
  readonly sources: ReadonlyMap<string, Source>;
  /** Differs where a value does. */
  readonly prints: ReadonlyMap<string, string>;
}

/** Values by name: command line over environment over configuration file over default. */
export function resolveValues(
  specs: OptionSpecs,
  given: ReadonlyMap<string, readonly string[]>,
  env: Env,
  file?: FileValues,
): Resolved {
  const values: Record<string, unknown> = {};
  const words = new Map<string, readonly string[] | undefined>();
  const sources = new Map<string, Source>();
  const prints = new Map<string, string>();
  for (const [name, spec] of Object.entries(specs)) {
    const [source, chosen] = choose(name, spec, given, env, file);
    sources.set(name, source);
    words.set(name, chosen);
    const own = source.kind === "file" ? file : undefined;
    prints.set(name, JSON.stringify([chosen, own?.writtenIn(name)]));
    values[name] = valueOf(spec, chosen, source.name, own?.entriesOf(name));
  }
  return { values, words, sources, prints };
}

function choose(
  name: string,
  spec: OptionSpec<unknown>,
  given: ReadonlyMap<string, readonly string[]>,
  env: Env,
  file: FileValues | undefined,
): [Source, readonly string[] | undefined] {
  const flags = given.get(name);
  if (flags !== undefined) return [{ kind: "flag", name: `--${name}` }, flags];
  const variable = variableOf(name);
  const fromEnv = spec.kind === "section" ? undefined : envWords(spec, env[variable]);
  if (fromEnv !== undefined) return [{ kind: "environment", name: variable }, fromEnv];
  const written = file?.wordsOf(name);
  if (written !== undefined) return [{ kind: "file", name: `${name} in ${file!.name}` }, written];
  return [{ kind: "default", name: `--${name}` }, spec.default === undefined ? undefined : [spec.default]];
}

function envWords(spec: OptionSpec<unknown>, text: string | undefined): readonly string[] | undefined {
  if (text === undefined || text === "") return undefined;
  if (spec.kind !== "list") return [text];
  return text
    .split(spec.separator ?? ",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
}

function valueOf(
  spec: OptionSpec<unknown>,
  words: readonly string[] | undefined,
  source: string,
  entries: readonly unknown[] = [],
): unknown {
  const parse = (word: string) => parseFor(spec, word, source);
  if (spec.kind === "list" || spec.kind === "section") return [...(words ?? []).map(parse), ...entries];
  const last = words?.at(-1);
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
