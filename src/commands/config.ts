import type { GenericSchema } from "valibot";
import { ConfigFile, SECTIONS, type FileReader } from "../config/file.ts";
import { lookUpConfig, PROJECT_FILE, userFile, type LookUp } from "../config/look-up.ts";
import { isSecret, type KeyPath } from "../config/key-path.ts";
import { resolveValues, type Resolved } from "../config/resolve.ts";
import { usageError } from "../core/errors.ts";
import { flag, type OptionSpec, type OptionSpecs } from "../core/options.ts";
import { redactUrl } from "../transports/chain.ts";
import { AGENT_OPTIONS } from "./agent-options.ts";
import { GLOBAL_OPTIONS, type Command, type CommandIo, type Invocation } from "./command.ts";
import { CONNECT_OPTIONS } from "./connect-options.ts";
import { rehearse } from "./rehearsal.ts";
import { SERVE_OPTIONS } from "./serve-options.ts";

const OPTIONS = {
  sources: flag({ group: "Print", help: "Say where each value came from, and print the defaults, too" }),
} as const satisfies OptionSpecs;

type ConfigInvocation = Invocation<typeof OPTIONS>;

export const configCommand: Command<typeof OPTIONS> = {
  name: "config",
  summary: "Check the configuration file, print what is in force, or its schema for editors.",
  usage: "check | print [--sources] [connect|serve|agent] | schema",
  description: [
    `The file is the one that --config or SEIKAN_CONFIG names; or, for seikan serve only, ${PROJECT_FILE} in this folder or one above it, up to the root of the repository; or $XDG_CONFIG_HOME/seikan/config.toml (~/.config/seikan/config.toml). The first that is there counts, alone.`,
    "A flag on the command line counts before the environment, that before the file, that before the default. Relative paths in the file begin at its folder.",
  ].join("\n\n"),
  examples: [
    { does: "Is the file right? All mistakes at once, each with its line", line: "seikan config check" },
    { does: "What is in force, and why", line: "seikan config print --sources serve" },
    { does: "Completion in an editor", line: "seikan config schema > seikan.schema.json" },
  ],
  options: OPTIONS,
  positionals: 2,
  tail: false,
  defaultLogLevel: () => "warn",
  run,
};

/** Who reads the file. */
const READERS = {
  connect: { section: "connect", specs: { ...CONNECT_OPTIONS, ...GLOBAL_OPTIONS } },
  serve: { section: "serve", specs: { ...SERVE_OPTIONS, ...GLOBAL_OPTIONS } },
  agent: { section: "agent", specs: { ...AGENT_OPTIONS, ...GLOBAL_OPTIONS } },
} as const satisfies Readonly<Record<string, FileReader>>;

async function run(invocation: ConfigInvocation, io: CommandIo): Promise<number> {
  const [verb, reader] = invocation.positionals;
  if (reader !== undefined && (verb !== "print" || !Object.hasOwn(READERS, reader)))
    throw usageError(`unexpected argument ${JSON.stringify(reader)}`, `usage: seikan config ${configCommand.usage}`);
  if (verb === "check") return check(invocation, io);
  if (verb === "print") return print(invocation, reader, io);
  if (verb === "schema") return printSchema(io);
  throw usageError(
    verb === undefined ? "what about the configuration?" : `no command ${JSON.stringify(verb)}`,
    `usage: seikan config ${configCommand.usage}`,
  );
}

function lookUp(command: string, { values, sourceOf }: ConfigInvocation, env: CommandIo["env"]): LookUp {
  const named = sourceOf("config") === "--config" ? values.config : undefined;
  return lookUpConfig({ named, readsProject: command === "serve", env, cwd: process.cwd() });
}

/** The file that `command` would read. */
function fileFor(command: string, invocation: ConfigInvocation, env: CommandIo["env"]): ConfigFile | undefined {
  const { found } = lookUp(command, invocation, env);
  return found === undefined ? undefined : new ConfigFile(found);
}

async function check(invocation: ConfigInvocation, io: CommandIo): Promise<number> {
  const { passedOver } = lookUp("serve", invocation, io.env);
  if (passedOver !== undefined)
    throw usageError(`${passedOver.path} is not read: ${passedOver.why}`, `--config ${passedOver.path} checks it`);
  const file = fileFor("serve", invocation, io.env);
  if (file === undefined)
    throw usageError(
      "there is no configuration file",
      `it would be ${PROJECT_FILE} in this folder, or ${userFile(io.env)}; --config names another one`,
    );
  await file.check(Object.values(READERS), io.env);
  // What is missing in it may come from the command line: that is no mistake of the file.
  const refusals = await rehearse(file, READERS, io);
  for (const { command, error } of refusals)
    io.log.warn(`with this file alone seikan ${command} would not start: ${error.message}`, { hint: error.hints[0] });
  const refused = refusals.map(({ command, error }) => ({ command, why: error.message }));
  if (io.printsEvents) io.event("checked", { path: file.path, refused });
  else io.print(`${file.path} is right`);
  return 0;
}

// --- print -----------------------------------------------------------------------

interface Printed {
  readonly path: KeyPath;
  readonly value: unknown;
  readonly source: string;
}

async function print(invocation: ConfigInvocation, only: string | undefined, io: CommandIo): Promise<number> {
  const { sources } = invocation.values;
  const printed: Printed[] = [];
  for (const [name, reader] of Object.entries(READERS)) {
    if (only !== undefined && name !== only) continue;
    const file = fileFor(name, invocation, io.env);
    const values = await file?.read(reader, io.env);
    const lines = await linesOf(file);
    const resolved = resolveValues(reader.specs, new Map(), io.env, values);
    printed.push(...optionsOf(reader, resolved, lines, sources), ...sectionsOf(reader, resolved, file, lines));
  }
  if (io.printsEvents) io.print(JSON.stringify(asTree(printed)));
  else for (const line of asToml(printed, sources)) io.print(line);
  return 0;
}

/** Which way it goes may be seen, with what credentials may not. */
function withoutSecrets(path: KeyPath, value: unknown): unknown {
  if (path[0] !== "route" && !["via", "server"].includes(String(path[1]))) return "***";
  if (Array.isArray(value)) return value.map((one) => withoutSecrets(path, one));
  return redactUrl(String(value)).replace(/\?.*$/s, "?***");
}

type LineOf = (path: KeyPath) => string;

async function linesOf(file: ConfigFile | undefined): Promise<LineOf> {
  if (file === undefined) return () => "";
  const { locator } = await import("../config/locate.ts");
  const { locate } = locator(file.text);
  return (path) => {
    const place = locate(path, true);
    return place === undefined ? file.path : `${file.path}:${place.line}`;
  };
}

function optionsOf({ section, specs }: FileReader, resolved: Resolved, lineOf: LineOf, all: boolean): Printed[] {
  return Object.entries(specs).flatMap(([name, spec]) => {
    const words = resolved.words.get(name);
    const { kind, name: source } = resolved.sources.get(name)!;
    // What stands in tables of its own is printed there.
    if (words === undefined || words.length === 0 || spec.kind === "section") return [];
    if (kind === "default" && !all) return [];
    const path = [section, name];
    const value = spec.secret ? withoutSecrets(path, asWritten(spec, words)) : asWritten(spec, words);
    return [{ path, value, source: kind === "file" ? lineOf(path) : kind === "default" ? "default" : source }];
  });
}

function asWritten(spec: OptionSpec<unknown>, words: readonly string[]): unknown {
  if (spec.kind === "list") return words;
  const last = words.at(-1)!;
  return spec.kind === "flag" ? spec.parse(last) : last;
}

function sectionsOf(
  { specs }: FileReader,
  { sources }: Resolved,
  file: ConfigFile | undefined,
  lineOf: LineOf,
): Printed[] {
  const inForce = Object.entries(specs).filter(([name]) => sources.get(name)?.kind === "file");
  const names = inForce.flatMap(([, { section }]) => (section === undefined ? [] : [section.name]));
  return names.flatMap((name) =>
    leaves([name], file?.table(name)).map((leaf) => ({ ...leaf, source: lineOf(leaf.path) })),
  );
}

function leaves(path: KeyPath, value: unknown): { path: KeyPath; value: unknown }[] {
  if (value === undefined) return [];
  if (path.length > 1 && isSecret(path)) return [{ path, value: withoutSecrets(path, value) }];
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [{ path, value }];
  // The keys of an entry, each with its line.
  if (path.length > 2) return [{ path, value }];
  return Object.entries(value).flatMap(([key, inner]) => leaves([...path, key], inner));
}

/** Equal lines once: connect and serve share a section. */
function asToml(printed: readonly Printed[], withSources: boolean): string[] {
  const lines: string[] = [];
  let heading = "";
  const seen = new Set<string>();
  for (const { path, value, source } of printed) {
    const table = `[${path
      .slice(0, -1)
      .map((part) => tomlKey(String(part)))
      .join(".")}]`;
    const line = `${tomlKey(String(path.at(-1)))} = ${inline(value)}${withSources ? `  # ${source}` : ""}`;
    if (seen.has(table + line)) continue;
    seen.add(table + line);
    if (table !== heading) lines.push(...(lines.length > 0 ? [""] : []), table);
    heading = table;
    lines.push(line);
  }
  return lines;
}

/** A value in one line of TOML. */
function inline(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(inline).join(", ")}]`;
  if (value instanceof Date) return value.toISOString();
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{ ${Object.entries(value)
    .map(([key, one]) => `${tomlKey(key)} = ${inline(one)}`)
    .join(", ")} }`;
}

function tomlKey(name: string): string {
  return /^[\w-]+$/.test(name) ? name : JSON.stringify(name);
}

function asTree(printed: readonly Printed[]): Record<string, unknown> {
  const tree: Record<string, unknown> = {};
  for (const { path, value, source } of printed) {
    let table = tree;
    for (const part of path.slice(0, -1)) table = (table[part] ??= {}) as Record<string, unknown>;
    table[path.at(-1)!] = { value, source };
  }
  return tree;
}

// --- schema ----------------------------------------------------------------------

async function printSchema(io: CommandIo): Promise<number> {
  const [v, { toJsonSchema }, { optionsSchema, sectionSchema }] = await Promise.all([
    import("valibot"),
    import("@valibot/to-json-schema"),
    import("../config/schema.ts"),
  ]);
  const entries: Record<string, GenericSchema> = {};
  for (const { section, specs } of Object.values(READERS)) {
    entries[section] = v.optional(optionsSchema(specs));
    for (const { section: own } of Object.values(specs))
      if (own !== undefined) entries[own.name] = v.optional(sectionSchema(own.entry(v)));
  }
  const ordered = Object.fromEntries(
    SECTIONS.flatMap((name) => (entries[name] === undefined ? [] : [[name, entries[name]]])),
  );
  const schema = toJsonSchema(v.strictObject(ordered), { typeMode: "input", errorMode: "ignore" });
  io.print(JSON.stringify({ ...schema, title: "seikan.toml" }, null, 2));
  return 0;
}
