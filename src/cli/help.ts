import { GLOBAL_OPTIONS, type Command } from "../commands/command.ts";
import { OUTCOMES } from "../core/errors.ts";
import type { OptionSpec, OptionSpecs } from "../core/options.ts";
import { variableOf } from "../config/resolve.ts";
import { painter, type Paint } from "./terminal.ts";

export interface HelpStyle {
  readonly width: number;
  readonly color: boolean;
}

/** One line of the command overview. */
export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
}

export function renderRootHelp(commands: readonly CommandEntry[], style: HelpStyle): string {
  const paint = painter(style.color);
  const heading = (text: string) => paint("bold", text);
  const rows = commands.map(({ name, summary }) => row(name, summary, style, paint));
  return [
    "seikan carries byte streams to where a plain socket cannot go.",
    "",
    `${heading("Usage:")} seikan COMMAND [OPTIONS]`,
    "",
    heading("Commands"),
    ...rows,
    "",
    heading("Examples"),
    ...examples(
      [
        {
          does: "ssh through a corporate proxy",
          line: "ssh -o ProxyCommand='seikan connect %h %p --via http://proxy:3128' host",
        },
        { does: "Be a proxy on 127.0.0.1:8080", line: "seikan serve" },
        {
          does: "Run tests with a database behind a proxy",
          line: "seikan connect -L 5432 db.internal:5432 -- npm test",
        },
      ],
      paint,
    ),
    "",
    heading("Options"),
    ...optionRows(GLOBAL_OPTIONS, style, paint),
    row("-h, --help", "Show this help, or a command's", style, paint),
    row("-V, --version", "Print the version; with --json its commit and target, too", style, paint),
    "",
    `seikan COMMAND --help tells more; seikan help exit-codes lists the exit codes.`,
  ].join("\n");
}

export function renderCommandHelp(command: Command, style: HelpStyle): string {
  const paint = painter(style.color);
  const lines = [
    ...wrap(command.summary, style.width),
    "",
    `${paint("bold", "Usage:")} seikan ${command.name} ${command.usage}`,
    "",
    ...wrap(command.description, style.width),
    "",
    paint("bold", "Examples"),
    ...examples(command.examples, paint),
  ];
  const all = { ...command.options, ...GLOBAL_OPTIONS };
  for (const group of new Set(Object.values(all).map((spec) => spec.group))) {
    const specs = Object.fromEntries(Object.entries(all).filter(([, spec]) => spec.group === group));
    lines.push("", paint("bold", group), ...optionRows(specs, style, paint));
  }
  const section =
    command.section === undefined
      ? ""
      : ` And from the configuration file: connect-timeout = "10s" in [${command.section}]; seikan config --help tells which file.`;
  lines.push(
    "",
    ...wrap(
      `Every option can also come from the environment: --connect-timeout as SEIKAN_CONNECT_TIMEOUT.${section}`,
      style.width,
    ),
  );
  return lines.join("\n");
}

function examples(list: readonly { does: string; line: string }[], paint: Paint): string[] {
  return list.flatMap(({ does, line }) => [`  ${paint("dim", `# ${does}`)}`, `  ${line}`]);
}

function optionRows(specs: OptionSpecs, style: HelpStyle, paint: Paint): string[] {
  return Object.entries(specs).map(([name, spec]) =>
    row(optionLabel(name, spec), optionText(name, spec), style, paint),
  );
}

function optionLabel(name: string, spec: OptionSpec<unknown>): string {
  if (spec.kind === "section") return `    [${spec.section?.name}.NAME]`;
  const short = spec.short === undefined ? "    " : `-${spec.short}, `;
  if (spec.metavar === undefined) return `${short}--${name}`;
  return spec.bare === undefined ? `${short}--${name} ${spec.metavar}` : `${short}--${name}[=${spec.metavar}]`;
}

function optionText(name: string, spec: OptionSpec<unknown>): string {
  const notes: string[] = [];
  if (spec.default !== undefined) notes.push(`[default: ${spec.default === "0" ? "off" : spec.default}]`);
  if (spec.kind === "section") notes.push("[configuration file only]");
  if (spec.kind === "list") notes.push("[repeatable]");
  if (spec.secret) notes.push(`[env: ${variableOf(name)}]`);
  return [spec.help, ...notes].join(" ");
}

const LABEL_WIDTH = 30;

function row(label: string, text: string, style: HelpStyle, paint: Paint): string {
  const indent = LABEL_WIDTH + 2;
  const narrow = style.width < 60;
  const lines = wrap(text, narrow ? style.width - 6 : style.width - indent);
  const name = paint("cyan", label);
  if (narrow || label.length > LABEL_WIDTH - 2) {
    const pad = " ".repeat(narrow ? 6 : indent);
    return [`  ${name}`, ...lines.map((line) => pad + line)].join("\n");
  }
  const [first, ...rest] = lines;
  return [
    `  ${name}${" ".repeat(LABEL_WIDTH - label.length)}${first}`,
    ...rest.map((line) => " ".repeat(indent) + line),
  ].join("\n");
}

export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      if (line !== "" && line.length + 1 + word.length > width) {
        lines.push(line);
        line = word;
      } else {
        line = line === "" ? word : `${line} ${word}`;
      }
    }
    lines.push(line);
  }
  return lines;
}

const EXIT_CODES: readonly (readonly [string, string])[] = [
  ["0", "done; drained after one SIGTERM or SIGINT; the stream ended normally"],
  ["1", "failed while running: stream reset, tunnel lost, internal error"],
  ["2", "usage or configuration, also: cannot listen there"],
  ["3", "target or hop not reachable: name not found, refused, TLS failed, the hop said 502, 503, 504 or 403"],
  ["4", "credentials refused or missing"],
  ["124", "--connect-timeout or --timeout passed"],
  ["125", "the wrapper around -- COMMAND failed"],
  ["126", "COMMAND cannot be executed"],
  ["127", "COMMAND was not found"],
  ["128+n", "ended at once by signal n (the second signal, or SIGHUP for connect)"],
  ["other", "COMMAND's own code (128+n if a signal ended it)"],
];

export function renderExitCodes(style: HelpStyle): string {
  const paint = painter(style.color);
  const rows = EXIT_CODES.map(([code, text]) => row(code, text, style, paint));
  const byCode = Object.entries(OUTCOMES).map(([code, { status, exit }]) =>
    row(code, `exit ${exit}, HTTP ${status}`, style, paint),
  );
  return [paint("bold", "Exit codes"), ...rows, "", paint("bold", "Error codes in events and logs"), ...byCode].join(
    "\n",
  );
}
