import type { ConfigFile, FileReader } from "../config/file.ts";
import { resolveValues } from "../config/resolve.ts";
import { type SeikanError, toSeikanError } from "../core/errors.ts";
import type { AgentInvocation } from "./agent-options.ts";
import type { CommandIo } from "./command.ts";
import type { ConnectInvocation } from "./connect-options.ts";
import type { ServeInvocation } from "./serve-options.ts";

/**
 * What a start makes before it listens, dials or starts anything: there it is
 * seen that options do not go together, or that a file they name is not there.
 */
const STARTS = {
  async connect(invocation: ConnectInvocation, io: CommandIo): Promise<void> {
    const { Reaching } = await import("./reaching.ts");
    void new Reaching(invocation.values, invocation.sourceOf("via"), io);
  },
  async serve(invocation: ServeInvocation, io: CommandIo): Promise<void> {
    const { Server } = await import("./server.ts");
    void new Server(invocation, io);
  },
  async agent(invocation: AgentInvocation, io: CommandIo): Promise<void> {
    const { Agent, agentName } = await import("./agent-run.ts");
    void new Agent(invocation, agentName(invocation.values.name), io);
  },
} as const;

/** Why a command would not start, with this file and nothing else. */
export interface Refusal {
  readonly command: string;
  readonly error: SeikanError;
}

/** Starts each command that the file says something to, as far as nobody notices. */
export async function rehearse(
  file: ConfigFile,
  readers: Readonly<Record<keyof typeof STARTS, FileReader>>,
  io: CommandIo,
): Promise<Refusal[]> {
  const refusals: Refusal[] = [];
  for (const command of Object.keys(STARTS) as (keyof typeof STARTS)[]) {
    const reader = readers[command];
    if (!tablesOf(reader).some((table) => file.table(table) !== undefined)) continue;
    try {
      const { values, sources } = resolveValues(reader.specs, new Map(), io.env, await file.read(reader, io.env));
      const sourceOf = (option: string) => sources.get(option)!.name;
      const invocation = { values, positionals: [], tail: undefined, sourceOf, config: undefined };
      await STARTS[command](invocation as never, io);
    } catch (thrown) {
      refusals.push({ command, error: toSeikanError(thrown) });
    }
  }
  return refusals;
}

function tablesOf({ section, specs }: FileReader): string[] {
  return [section, ...Object.values(specs).flatMap((spec) => spec.section?.name ?? [])];
}
