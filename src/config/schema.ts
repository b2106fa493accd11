import type { GenericSchema } from "valibot";
import * as v from "valibot";
import { SeikanError } from "../core/errors.ts";
import type { OptionSpec, OptionSpecs } from "../core/options.ts";
import { suggest } from "../core/suggest.ts";
import { isSecret, type KeyPath } from "./key-path.ts";
import type { Finding } from "./mistakes.ts";

/** What a section of options looks like: every flag has its key. */
export function optionsSchema(specs: OptionSpecs): GenericSchema<Record<string, unknown>> {
  // A file cannot name itself.
  const written = Object.entries(specs).filter(([name, { kind }]) => kind !== "section" && name !== "config");
  const entries = written.map(([name, spec]) => [name, v.optional(optionSchema(spec))] as const);
  return v.strictObject(Object.fromEntries(entries)) as GenericSchema<Record<string, unknown>>;
}

function optionSchema(spec: OptionSpec<unknown>): GenericSchema {
  return v.pipe(shapeOf(spec), v.description(spec.help));
}

function shapeOf(spec: OptionSpec<unknown>): GenericSchema {
  if (spec.kind === "flag") return v.boolean();
  const word = v.pipe(v.union([v.string(), v.number()], "expected a text"), parsed<string | number>(spec));
  if (spec.kind === "list") return v.union([v.array(word), word], LIST);
  if (spec.bare === undefined) return word;
  const several = v.pipe(
    v.array(v.pipe(v.string(), parsed<string>(spec))),
    v.minLength(1, "expected at least one; true is everything, false nothing"),
  );
  return v.union([v.boolean(), several, word], LIST);
}

const LIST = "expected a text or a list of texts";

/** What the command line would say about it. */
function parsed<T extends string | number>(spec: OptionSpec<unknown>) {
  return v.rawCheck<T>(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    try {
      spec.parse(String(dataset.value));
    } catch (thrown) {
      if (!(thrown instanceof SeikanError)) throw thrown;
      addIssue({ message: [thrown.message, ...thrown.hints].join("; ") });
    }
  });
}

/** The entries of one section: a table of tables. */
export function sectionSchema(entry: GenericSchema): GenericSchema<Record<string, unknown>> {
  return v.record(v.string(), entry) as GenericSchema<Record<string, unknown>>;
}

export interface Checked<T> {
  /** Undefined where something is wrong. */
  readonly value: T | undefined;
  readonly findings: readonly Finding[];
}

/** Checks a table; `above` is where it is in the file. Everything that is wrong is found at once. */
export function check<T>(schema: GenericSchema<T>, input: unknown, above: KeyPath): Checked<T> {
  const findings: Finding[] = [];
  const result = v.safeParse(schema, spelled(schema, input, above, findings));
  if (!result.success) {
    const issues = result.issues.flatMap((issue) => innermost(issue)).map((issue) => toFinding(issue, above));
    // What was found wrong as a whole is not looked into.
    const whole = findings.filter(({ isKey }) => !isKey).map(({ path }) => path);
    for (const issue of issues) if (!isTold(issue, whole, findings)) findings.push(issue);
  }
  return { value: findings.length === 0 ? (result.output as T) : undefined, findings };
}

/** Said already, of a whole that is wrong, or about a table that lacks a key because its name is wrong. */
function isTold({ path, message }: Finding, whole: readonly KeyPath[], findings: readonly Finding[]): boolean {
  if (whole.some((one) => isBelow(path, one))) return true;
  return findings.some((other) => {
    const isSame = other.path.length === path.length && isBelow(path, other.path) && other.message === message;
    return isSame || (other.isKey && other.path.length > path.length && isBelow(other.path, path));
  });
}

function isBelow(path: KeyPath, above: KeyPath): boolean {
  return above.every((part, index) => part === path[index]);
}

type Issue = Pick<v.GenericIssue, "kind" | "type" | "input" | "expected" | "message" | "issues"> & {
  readonly path?: readonly { readonly key: unknown }[] | undefined;
};

/** A union says only that nothing fits; the form that got furthest knows why. */
function innermost(issue: Issue): Issue[] {
  const inner: readonly Issue[] = issue.type === "union" ? (issue.issues ?? []) : [];
  const telling = inner.filter((one) => one.kind === "validation" || (one.path?.length ?? 0) > 0);
  if (telling.length === 0) return [issue];
  return telling.flatMap((one) => innermost({ ...one, path: [...(issue.path ?? []), ...(one.path ?? [])] }));
}

function toFinding(issue: Issue, above: KeyPath): Finding {
  const path = [...above, ...(issue.path ?? []).map(({ key }) => key as string | number)];
  const name = path.filter((part) => typeof part === "string").at(-1) ?? "";
  if (issue.kind === "schema" && issue.input === undefined) return { path, isKey: true, message: `${name} is missing` };
  // A text outside of all tables may be anything.
  const isTable = issue.expected === "Object";
  const isHidden = isSecret(path) || ((path.length === 1 || isTable) && typeof issue.input === "string");
  const got = issue.kind === "schema" && !isHidden ? `, got ${shown(issue.input)}` : "";
  const said = issue.message.startsWith("Invalid ")
    ? `expected ${NAMES[issue.expected ?? ""] ?? issue.expected}`
    : issue.message;
  return { path, isKey: false, message: `${name}: ${said}${got}` };
}

const NAMES: Readonly<Record<string, string>> = {
  string: "a text",
  number: "a number",
  boolean: "true or false",
  Object: "a table",
  Array: "a list",
};

function shown(input: unknown): string {
  if (Array.isArray(input)) return "a list";
  if (input instanceof Date) return "a date";
  if (typeof input === "object" && input !== null) return "a table";
  return JSON.stringify(input) ?? String(input);
}

/** The known key that is meant, whatever its spelling. */
export function closest(key: string, known: readonly string[]): string | undefined {
  return known.find((one) => plain(one) === plain(key)) ?? suggest(key, known);
}

/** Of an entry that is a table. */
export function keysOf(schema: GenericSchema): string[] {
  return Object.keys(partsOf(schema).entries ?? {});
}

export function unknownKey(path: KeyPath, known: readonly string[], what = "key"): Finding {
  const name = String(path.at(-1));
  const close = suggest(name, known);
  const hint = close === undefined ? `known are ${known.join(", ")}` : `did you mean \`${close}\`?`;
  return { path, isKey: true, message: `unknown ${what} \`${name}\``, hint };
}

/**
 * The input with its keys as the schema spells them (hyphens and underscores
 * are the same), less those it does not know, which are found wrong.
 */
function spelled(schema: GenericSchema, input: unknown, path: KeyPath, findings: Finding[]): unknown {
  if (typeof input !== "object" || input === null || input instanceof Date) return input;
  const { type, item, value, entries } = partsOf(schema);
  if (Array.isArray(input) && item === undefined && (entries !== undefined || type === "record")) {
    findings.push({ path, isKey: false, message: `${String(path.at(-1))}: expected a table, got a list` });
    return undefined;
  }
  if (Array.isArray(input))
    return item === undefined ? input : input.map((one, index) => spelled(item, one, [...path, index], findings));
  const under = (key: string) => [...path, key];
  if (type === "record" && value !== undefined)
    return Object.fromEntries(
      Object.entries(input).map(([key, one]) => [key, spelled(value, one, under(key), findings)]),
    );
  if (entries === undefined) return input;
  const known = Object.keys(entries);
  const table: Record<string, unknown> = {};
  for (const [key, one] of Object.entries(input)) {
    const name = known.find((entry) => plain(entry) === plain(key));
    if (name === undefined) findings.push(unknownKey(under(key), known));
    else if (name in table) findings.push({ path: under(key), isKey: true, message: `${name} is there twice` });
    else table[name] = spelled(entries[name]!, one, under(key), findings);
  }
  return table;
}

function plain(key: string): string {
  return key.replaceAll("-", "_");
}

interface Parts {
  readonly type: string;
  /** Of a list. */
  readonly item?: GenericSchema;
  /** Of a record. */
  readonly value?: GenericSchema;
  /** Of an object. */
  readonly entries?: Readonly<Record<string, GenericSchema>>;
}

/** What a schema is made of, below what makes it optional or checks it further; of several forms the table or list. */
function partsOf(schema: GenericSchema): Parts {
  const { pipe, wrapped, options } = schema as unknown as {
    readonly pipe?: readonly [GenericSchema];
    readonly wrapped?: GenericSchema;
    readonly options?: readonly GenericSchema[];
  };
  if (pipe !== undefined && pipe[0] !== schema) return partsOf(pipe[0]);
  if (wrapped !== undefined) return partsOf(wrapped);
  const parts = schema as unknown as Parts;
  if (options === undefined) return parts;
  return options.map(partsOf).find((form) => (form.entries ?? form.item ?? form.value) !== undefined) ?? parts;
}
