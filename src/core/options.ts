import type { GenericSchema } from "valibot";
import { SeikanError, usageError } from "./errors.ts";

/**
 * One option of a command, as data. The same table feeds the parser, the
 * environment, the help and the docs; each default exists here only.
 */
export interface OptionSpec<T> {
  /** A `section` is written in the configuration file only. */
  readonly kind: "flag" | "value" | "list" | "section";
  /** Heading in the help. */
  readonly group: string;
  readonly help: string;
  readonly short?: string;
  /** What the value looks like in the help: `ADDR`. */
  readonly metavar?: string;
  /** The value used when the option is given without one (`--allow-net`). */
  readonly bare?: string;
  /** As text, so that the help shows what a person would type. */
  readonly default?: string;
  /** What separates several values in the environment variable. */
  readonly separator?: string;
  /** Never shown, and removed from the environment of children. */
  readonly secret?: boolean;
  /** Not for the configuration file of a project: whoever starts it decides. */
  readonly isPersonal?: boolean;
  /** Names a file: in the configuration file relative to its folder. */
  readonly isPath?: boolean;
  /** Tables of the configuration file whose entries are values of this list, too. */
  readonly section?: SectionSpec<T>;
  /** Throws a usage error that says what was expected. */
  readonly parse: (text: string) => T;
}

/** `[NAME.ENTRY]`, or `ENTRY = …` below `[NAME]`. */
export interface SectionSpec<T> {
  readonly name: string;
  /** What an entry looks like; valibot is loaded only where there is a configuration file. */
  readonly entry: (v: typeof import("valibot")) => GenericSchema;
  /** Turns an entry of that shape into a value. Throws a usage error. */
  readonly read: (name: string, entry: never, place: SectionPlace) => T;
  /** What is wrong between entries that are right by themselves. */
  together?(values: readonly T[], names: readonly string[]): readonly EntryMistake[];
}

export interface EntryMistake {
  readonly entry: string;
  readonly message: string;
}

/** Where a section was written. */
export interface SectionPlace {
  /** The folder of the configuration file, absolute: what relative paths in it begin at. */
  readonly folder: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

export type OptionSpecs = Readonly<Record<string, OptionSpec<unknown>>>;

/** Options are named as on the command line: `values["connect-timeout"]`. */
export type ValuesOf<S extends OptionSpecs> = {
  readonly [K in keyof S]: S[K] extends { kind: "flag" }
    ? boolean
    : S[K] extends { kind: "list" | "section"; parse: (text: string) => infer T }
      ? readonly T[]
      : S[K] extends { default: string; parse: (text: string) => infer T }
        ? T
        : S[K] extends { parse: (text: string) => infer T }
          ? T | undefined
          : never;
};

type Common<T> = Omit<OptionSpec<T>, "kind" | "parse">;

export function flag<const C extends Common<boolean>>(spec: C) {
  return { ...spec, kind: "flag", parse: parseBoolean } as const;
}

export function value<T, const C extends Common<T> & { metavar: string; parse: (text: string) => T }>(spec: C) {
  return { ...spec, kind: "value" } as const;
}

export function list<T, const C extends Common<T> & { metavar: string; parse: (text: string) => T }>(spec: C) {
  return { ...spec, kind: "list" } as const;
}

/** Names the key of an entry that a usage error is about. */
export function atKey<T>(key: string, read: () => T): T {
  try {
    return read();
  } catch (thrown) {
    if (!(thrown instanceof SeikanError)) throw thrown;
    throw new SeikanError(thrown.code, thrown.message, { hints: thrown.hints, key });
  }
}

/** Entries that have no option on the command line. */
export function section<T>(group: string, help: string, spec: SectionSpec<T>) {
  const parse = (): T => {
    throw usageError(`[${spec.name}.NAME] is for the configuration file`);
  };
  return { group, help, section: spec, kind: "section", parse } as const;
}

// --- parsers ---------------------------------------------------------------

export function text(input: string): string {
  if (input === "") throw usageError("expected a value, got an empty one");
  return input;
}

export function parseBoolean(input: string): boolean {
  const word = input.toLowerCase();
  if (["1", "true", "yes", "on"].includes(word)) return true;
  if (["0", "false", "no", "off"].includes(word)) return false;
  throw usageError(`expected yes or no, got "${input}"`);
}

const DURATION_UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `500ms`, `10s`, `1m30s`, `1h` as milliseconds. A bare number is refused except 0. */
export function duration(input: string): number {
  if (input === "0") return 0;
  const parts = [...input.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)];
  if (parts.length === 0 || parts.map((part) => part[0]).join("") !== input) {
    const hint = /^\d+$/.test(input) ? [`did you mean ${input}s or ${input}ms?`] : [];
    throw usageError(`expected a duration such as 500ms, 10s, 5m or 1h, got "${input}"`, ...hint);
  }
  return parts.reduce((sum, part) => sum + Number(part[1]) * DURATION_UNITS[part[2]!]!, 0);
}

const SIZE_UNITS: Record<string, number> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
};

/** `64KiB`, `10MB` as bytes. A bare number is refused except 0. */
export function size(input: string): number {
  if (input === "0") return 0;
  const match = /^(\d+(?:\.\d+)?)([kmg]?i?b)$/i.exec(input);
  const unit = match === null ? undefined : SIZE_UNITS[match[2]!.toLowerCase()];
  if (match === null || unit === undefined) {
    const hint = /^\d+$/.test(input) ? [`did you mean ${input}KiB?`] : [];
    throw usageError(`expected a size such as 64KiB or 10MB, got "${input}"`, ...hint);
  }
  return Math.round(Number(match[1]) * unit);
}

/** A whole number from `min` to `max`. */
export function integer(min: number, max: number): (input: string) => number {
  return (input) => {
    const number = Number(input);
    if (!/^\d+$/.test(input) || number < min || number > max) {
      throw usageError(`expected a whole number from ${min} to ${max}, got "${input}"`);
    }
    return number;
  };
}

/** One of the words. */
export function choice<const W extends string>(...words: W[]): (input: string) => W {
  return (input) => {
    const found = words.find((word) => word === input);
    if (found === undefined) throw usageError(`expected ${words.join(", ")}, got "${input}"`);
    return found;
  };
}
