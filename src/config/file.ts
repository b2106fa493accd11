import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { parse, TomlError } from "smol-toml";
import * as v from "valibot";
import { SeikanError, usageError } from "../core/errors.ts";
import type { OptionSpec, OptionSpecs, SectionPlace } from "../core/options.ts";
import { distrust, expandHome, type FoundConfig } from "./look-up.ts";
import { configError, syntaxError, type Finding } from "./mistakes.ts";
import { isSecret, type KeyPath } from "./key-path.ts";
import { check, closest, keysOf, optionsSchema, sectionSchema, unknownKey } from "./schema.ts";

type Env = Readonly<Record<string, string | undefined>>;
type Table = Readonly<Record<string, unknown>>;

/** Tables that may stand at the top of the file. */
export const SECTIONS = ["connect", "serve", "agent", "service", "expose", "route", "token"] as const;

/** What a configuration file says to one command. */
export interface FileValues {
  /** For errors: `seikan.toml`. */
  readonly name: string;
  /** What is written for an option, as on a command line; undefined: nothing. */
  wordsOf(option: string): readonly string[] | undefined;
  /** The values of a list that stand in tables of their own. */
  entriesOf(option: string): readonly unknown[];
  /** Those tables as they were written, to see whether they change. */
  writtenIn(option: string): string;
}

/** A command's part of the file. */
export interface FileReader {
  /** The table of its options. */
  readonly section: string;
  readonly specs: OptionSpecs;
}

/** A configuration file, parsed. */
export class ConfigFile {
  readonly path: string;
  readonly text: string;
  readonly #table: Table;

  readonly #isProject: boolean;

  /** Throws where it cannot be read or is no TOML; one of a project also where somebody else could have written it. */
  constructor({ path, kind }: Pick<FoundConfig, "path" | "kind">) {
    this.path = path;
    this.#isProject = kind === "project";
    this.text = readText(path, this.#isProject);
    this.#table = parseText(path, this.text);
  }

  /** What it says to this command. Rejects with everything that is wrong, each with its line. */
  async read(reader: FileReader, env: Env): Promise<FileValues> {
    const { values, findings } = this.#read(reader, env);
    const all = [...this.#unknownSections(), ...findings];
    if (all.length > 0) throw await configError(this.path, this.text, all, shownFor([reader]));
    return values;
  }

  /** Rejects with everything that is wrong for any of these commands. */
  async check(readers: readonly FileReader[], env: Env): Promise<void> {
    const found = readers.flatMap((reader) => this.#read(reader, env).findings);
    const distinct = new Map(found.map((finding) => [`${finding.path.join("\0")}\0${finding.message}`, finding]));
    const all = [...this.#unknownSections(), ...distinct.values()];
    if (all.length > 0) throw await configError(this.path, this.text, all, shownFor(readers));
  }

  /** What stands in a table, as it was written; undefined: there is none. */
  table(section: string): Table | undefined {
    return this.#table[section] as Table | undefined;
  }

  #unknownSections(): Finding[] {
    const names = Object.keys(this.#table).filter((name) => !SECTIONS.some((known) => known === name));
    return names.map((name) => unknownKey([name], SECTIONS, "section"));
  }

  #read({ section, specs }: FileReader, env: Env): { values: FileValues; findings: Finding[] } {
    const place: SectionPlace = { folder: dirname(this.path), env };
    const options = check(optionsSchema(specs), this.#table[section] ?? {}, [section]);
    const findings = [...options.findings];
    if (this.#isProject) findings.push(...personal(specs, options.value ?? {}, section));
    const entries = new Map<string, unknown[]>();
    for (const [name, spec] of Object.entries(specs)) {
      if (spec.section === undefined || this.#table[spec.section.name] === undefined) continue;
      entries.set(name, this.#readSection(spec, place, findings));
    }
    const words = new Map(
      Object.entries(options.value ?? {}).map(([name, value]) => [name, toWords(specs[name]!, value, place)]),
    );
    const values: FileValues = {
      name: basename(this.path),
      wordsOf: (option) => words.get(option) ?? (entries.has(option) ? [] : undefined),
      entriesOf: (option) => entries.get(option) ?? [],
      writtenIn: (option) => JSON.stringify(this.#table[specs[option]?.section?.name ?? ""]) ?? "",
    };
    return { values, findings };
  }

  #readSection({ section }: OptionSpec<unknown>, place: SectionPlace, findings: Finding[]): unknown[] {
    const { name, entry, read, together } = section!;
    const table = check(sectionSchema(v.unknown()), this.#table[name], [name]);
    findings.push(...table.findings);
    // One by one, so that a mistake in one entry hides none in the others.
    const values = Object.entries(table.value ?? {}).flatMap(([key, written]) => {
      const checked = check(entry(v), written, [name, key]);
      findings.push(...checked.findings);
      if (checked.findings.length > 0) return [];
      try {
        return [read(key, checked.value as never, place)];
      } catch (thrown) {
        if (!(thrown instanceof SeikanError)) throw thrown;
        const path = thrown.key === undefined ? [name, key] : [name, key, thrown.key];
        findings.push({ path, isKey: thrown.key === undefined, message: thrown.message, hint: thrown.hints[0] });
        return [];
      }
    });
    for (const { entry: key, message } of together?.(values, Object.keys(this.#table[name] as Table)) ?? [])
      findings.push({ path: [name, key], isKey: true, message });
    return values;
  }
}

/** What may be shown of a file with mistakes: values of keys that these readers know, and that are no secrets. */
function shownFor(readers: readonly FileReader[]): (path: KeyPath) => boolean {
  const known = new Map<string, readonly string[]>();
  for (const { section, specs } of readers) {
    known.set(section, Object.keys(specs));
    for (const { section: own } of Object.values(specs))
      if (own !== undefined) known.set(own.name, keysOf(own.entry(v)));
  }
  return (path) => {
    const [section, ...rest] = path;
    const keys = known.get(String(section));
    // Outside of all tables only tables are known.
    if (keys === undefined || rest.length === 0) return false;
    const isOption = readers.some((reader) => reader.section === section);
    // The name of an entry is no key.
    const key = rest[isOption ? 0 : 1];
    // A value where a table should be may be anything.
    if (key === undefined) return false;
    const meant = closest(String(key), keys);
    return meant !== undefined && !isSecret([String(section), meant]) && !isSecret(path);
  };
}

/** What a file that came with a project does not decide for whoever starts it. */
function personal(specs: OptionSpecs, values: Table, section: string): Finding[] {
  return Object.keys(values)
    .filter((name) => specs[name]?.isPersonal === true)
    .map((name) => ({
      ...{ path: [section, name], isKey: true, message: `${name} is not for the file of a project` },
      hint: "--config FILE reads it, or give it on the command line",
    }));
}

function readText(path: string, isProject: boolean): string {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, "r");
    // What is read is what was looked at.
    const why = isProject ? distrust(path, fstatSync(descriptor)) : undefined;
    if (why !== undefined) throw usageError(`${path} is not read: ${why}`, `--config ${path} reads it`);
    return readFileSync(descriptor, "utf8").replace(/^\uFEFF/, "");
  } catch (cause) {
    if (cause instanceof SeikanError) throw cause;
    throw usageError(`cannot read ${path}: ${(cause as { code?: string }).code ?? String(cause)}`);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

function parseText(path: string, text: string): Table {
  try {
    return parse(text);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    const message = cause.message.split("\n", 1)[0]!.replace(/^Invalid TOML document: /, "");
    throw syntaxError(path, text, cause.line, cause.column, message);
  }
}

/** What would be written on a command line. */
function toWords(spec: OptionSpec<unknown>, value: unknown, { folder, env }: SectionPlace): string[] {
  const texts = [value].flat().map(String);
  const placed = spec.isPath === true ? texts.map((text) => resolve(folder, expandHome(text, env))) : texts;
  if (spec.kind === "list" || spec.bare === undefined) return placed;
  if (typeof value === "boolean") return value ? [spec.bare] : [];
  return [placed.join(",")];
}
