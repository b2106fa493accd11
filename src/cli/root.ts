import { isatty } from "node:tty";
import { defineCommand, runCommand, type CommandDef } from "citty";
import { GLOBAL_OPTIONS, type Command, type CommandIo, type Invocation } from "../commands/command.ts";
import { SeikanError, usageError } from "../core/errors.ts";
import type { OptionSpecs } from "../core/options.ts";
import { lookUpConfig, type FoundConfig, type LookUp } from "../config/look-up.ts";
import { resolveValues, variableOf, type Resolved } from "../config/resolve.ts";
import { parseWords, splitTail, type ParsedWords } from "./args.ts";
import { renderCommandHelp, renderExitCodes, renderRootHelp, type HelpStyle } from "./help.ts";
import { createLogger, type LogFormat } from "./log.ts";
import { suggest } from "../core/suggest.ts";
import { escapeControls, painter, terminalWidth, usesColor, writeTo } from "./terminal.ts";
import { versionJson, versionLine } from "./version.ts";

interface Entry {
  readonly summary: string;
  load(): Promise<Command>;
}

/** Every subcommand; its module is loaded when it is used. No prototype: `toString` is no command. */
const COMMANDS: Readonly<Record<string, Entry>> = Object.assign(Object.create(null) as object, {
  connect: {
    summary: "Reach a target through proxies and tunnels: as stdin and stdout, on local ports, or behind a command",
    load: async () => (await import("../commands/connect.ts")).connectCommand as unknown as Command,
  },
  serve: {
    summary: "Be a proxy, the far end of tunnels, the public side of agents and a launcher of development servers",
    load: async () => (await import("../commands/serve.ts")).serveCommand as unknown as Command,
  },
  agent: {
    summary: "Expose what only this machine can reach, through a seikan serve elsewhere",
    load: async () => (await import("../commands/agent.ts")).agentCommand as unknown as Command,
  },
  services: {
    summary: "See, start and stop the services of a running seikan serve",
    load: async () => (await import("../commands/services.ts")).servicesCommand as unknown as Command,
  },
  config: {
    summary: "Check the configuration file, print what is in force and why, or its schema",
    load: async () => (await import("../commands/config.ts")).configCommand as unknown as Command,
  },
  token: {
    summary: "Make a token for agents, and what a server stores of it",
    load: async () => (await import("../commands/token.ts")).tokenCommand as unknown as Command,
  },
});

type Env = Readonly<Record<string, string | undefined>>;

/** Runs a command line to its exit code. */
export async function run(argv: readonly string[], env: Env): Promise<number> {
  const { words, tail } = splitTail(argv);
  const early = earlyAnswer(words, env);
  if (early !== undefined) return early;
  const found = await findCommand(words);
  if (found === undefined) return noCommand(words, env);
  const { command, rest } = found;
  if (rest.some((word) => word === "--help" || word === "-h")) return print(renderCommandHelp(command, helpStyle(env)));
  const parsed = parseWords(rest, specsOf(command));
  checkLine(command, rest, parsed, tail);
  const lookUp = lookUpFor(command, parsed, env);
  const invocation = await readInvocation(command, parsed, tail, env, lookUp);
  const io = createIo(command, invocation, env);
  tellConfig(lookUp, io);
  const outcome = await runCommand(cittyCommand(command), { rawArgs: [], data: { invocation, io } });
  return outcome.result as number;
}

/** The command as citty knows it: structure is citty's, parsing is ours. */
function cittyCommand(command: Command): CommandDef {
  return defineCommand({
    meta: { name: command.name, description: command.summary },
    run: ({ data }) => {
      const { invocation, io } = data as { invocation: Invocation<OptionSpecs>; io: CommandIo };
      return command.run(invocation, io);
    },
  });
}

function specsOf(command: Command): OptionSpecs {
  return { ...command.options, ...GLOBAL_OPTIONS };
}

function helpStyle(env: Env): HelpStyle {
  return { width: terminalWidth(1), color: usesColor(1, env) };
}

function print(text: string): number {
  writeTo(1, `${text}\n`);
  return 0;
}

function earlyAnswer(words: readonly string[], env: Env): number | undefined {
  const entries = Object.entries(COMMANDS).map(([name, { summary }]) => ({ name, summary }));
  if (words.length === 0 || ["--help", "-h"].includes(words[0]!)) return print(renderRootHelp(entries, helpStyle(env)));
  if (words.some((word) => word === "--version" || word === "-V")) {
    return print(words.includes("--json") ? versionJson() : versionLine());
  }
  if (words[0] !== "help") return undefined;
  if (words.length === 1) return print(renderRootHelp(entries, helpStyle(env)));
  return words[1] === "exit-codes" ? print(renderExitCodes(helpStyle(env))) : undefined;
}

/** The command is the first word that names one and is no option's value: options may stand before it. */
async function findCommand(words: readonly string[]): Promise<{ command: Command; rest: string[] } | undefined> {
  const asked = words[0] === "help" ? words.slice(1).concat("--help") : words;
  for (const [index, word] of asked.entries()) {
    const entry = COMMANDS[word];
    if (entry === undefined) continue;
    const command = await entry.load();
    const rest = asked.toSpliced(index, 1);
    if (index === 0 || isPositional(asked, index, command)) return { command, rest };
  }
  return undefined;
}

function isPositional(words: readonly string[], index: number, command: Command): boolean {
  try {
    return parseWords(words.slice(0, index + 1), specsOf(command)).positionals.at(-1)?.index === index;
  } catch {
    // A wrong option in front is reported once the command is known.
    return !words[index - 1]!.startsWith("-");
  }
}

function noCommand(words: readonly string[], env: Env): number {
  if (words.some((word) => word === "--help" || word === "-h")) return earlyAnswer(["--help"], env)!;
  const word = (words[0] === "help" ? words[1] : words.find((candidate) => !candidate.startsWith("-"))) ?? words[0]!;
  const close = suggest(word, Object.keys(COMMANDS));
  throw usageError(
    `no command ${JSON.stringify(word)}`,
    close === undefined ? "seikan --help lists the commands" : `did you mean seikan ${close}?`,
  );
}

function unexpectedArgument(
  command: Command,
  { text, index }: ParsedWords["positionals"][number],
  words: readonly string[],
): SeikanError {
  const before = words[index - 1]?.replace(/^--/, "") ?? "";
  const spec = Object.hasOwn(command.options, before) ? command.options[before] : undefined;
  const hint =
    spec?.bare === undefined ? `usage: seikan ${command.name} ${command.usage}` : `did you mean --${before}=${text}?`;
  return usageError(`unexpected argument ${JSON.stringify(text)}`, hint);
}

function checkLine(
  command: Command,
  words: readonly string[],
  parsed: ParsedWords,
  tail: readonly string[] | undefined,
): void {
  const unexpected = parsed.positionals[command.positionals];
  if (unexpected !== undefined) throw unexpectedArgument(command, unexpected, words);
  if (tail !== undefined && !command.tail) throw usageError(`seikan ${command.name} runs no command behind --`);
  if (tail !== undefined && tail.length === 0) throw usageError("there is no command behind --");
}

function lookUpFor({ section, readsProject }: Command, { given }: ParsedWords, env: Env): LookUp {
  if (section === undefined) return { found: undefined, passedOver: undefined };
  const named = given.get("config")?.at(-1);
  return lookUpConfig({ named, readsProject: readsProject ?? false, env, cwd: process.cwd() });
}

/** With what command line, environment and configuration file say; the file as it is by now. */
async function readInvocation(
  command: Command,
  parsed: ParsedWords,
  tail: readonly string[] | undefined,
  env: Env,
  lookUp: LookUp,
): Promise<Invocation<OptionSpecs>> {
  return toInvocation(command, parsed, tail, env, lookUp, await resolve(command, parsed, env, lookUp.found));
}

function toInvocation(
  command: Command,
  parsed: ParsedWords,
  tail: readonly string[] | undefined,
  env: Env,
  lookUp: LookUp,
  resolved: Resolved,
): Invocation<OptionSpecs> {
  const path = lookUp.found?.path;
  const reread = async () => {
    const next = await resolve(command, parsed, env, lookUp.found);
    const changed = [...next.prints.keys()].filter((name) => next.prints.get(name) !== resolved.prints.get(name));
    return { invocation: toInvocation(command, parsed, tail, env, lookUp, next), changed };
  };
  return {
    values: resolved.values as Invocation<OptionSpecs>["values"],
    positionals: parsed.positionals.map(({ text }) => text),
    tail,
    sourceOf: (name) => resolved.sources.get(name)!.name,
    config: path === undefined ? undefined : { path, reread },
  };
}

async function resolve(
  command: Command,
  parsed: ParsedWords,
  env: Env,
  found: FoundConfig | undefined,
): Promise<Resolved> {
  const specs = specsOf(command);
  if (found === undefined) return resolveValues(specs, parsed.given, env);
  const { ConfigFile } = await import("../config/file.ts");
  const file = await new ConfigFile(found).read({ section: command.section!, specs }, env);
  return resolveValues(specs, parsed.given, env, file);
}

/** A file that was not asked for is named, used or not. */
function tellConfig({ found, passedOver }: LookUp, { log }: CommandIo): void {
  if (passedOver !== undefined)
    log.warn(`${passedOver.path} is not read: ${passedOver.why}`, { hint: `--config ${passedOver.path} reads it` });
  if (found === undefined) return;
  log[found.kind === "project" ? "info" : "debug"](`configuration: ${found.path}`);
}

function createIo(command: Command, invocation: Invocation<OptionSpecs>, env: Env): CommandIo {
  const { values } = invocation;
  const base = values["log-level"] ?? command.defaultLogLevel(invocation);
  const level = values.quiet ? "error" : values.verbose ? "debug" : base;
  const format = values["log-format"];
  const paint = painter(usesColor(1, env));
  const resolved: LogFormat = format !== "auto" ? format : usesColor(2, env) ? "pretty" : "plain";
  return {
    log: createLogger(level, resolved, env),
    print: (line) => writeTo(1, `${line}\n`),
    show: (text) => writeTo(2, `${text}\n`),
    paint: (style, text) => (style === "plain" ? escapeControls(text) : paint(style, escapeControls(text))),
    isTerminal: isatty(1),
    printsEvents: values.json,
    event(event, fields) {
      if (!values.json) return;
      const line = JSON.stringify({ event, time: new Date().toISOString(), ...fields });
      writeTo(invocation.tail === undefined ? 1 : 2, `${line}\n`);
    },
    env,
    childEnv: withoutSecrets(env, specsOf(command)),
  };
}

/** Options of any command that hold secrets: they are set for one command, and seen by the children of all. */
export const SECRET_OPTIONS: readonly string[] = [
  ...["token", "auth", "agent-token", "expose", "proxy-auth", "proxy-header", "via", "route", "server"],
];

/** The environment less every variable that holds a secret of ours. */
function withoutSecrets(env: Env, specs: OptionSpecs): Record<string, string> {
  const secrets = new Set(SECRET_OPTIONS.map(variableOf));
  for (const [name, spec] of Object.entries(specs)) if (spec.secret) secrets.add(variableOf(name));
  const kept = Object.entries(env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !secrets.has(entry[0]),
  );
  return Object.fromEntries(kept);
}
