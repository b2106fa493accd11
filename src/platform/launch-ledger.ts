import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { endAll } from "./process-group.ts";
import { livingMembers, startOf } from "./processes.ts";

const ProcessShape = v.object({
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
  /** When it began, as the system counts. */
  start: v.optional(v.string()),
});

/** What is known about a launch, should we be killed before it ends. */
const EntryShape = v.object({
  name: v.string(),
  /** Its first process, which names its group. */
  ...ProcessShape.entries,
  // Number 1 would mean everybody.
  pid: v.pipe(v.number(), v.integer(), v.minValue(2)),
  mark: v.pipe(v.string(), v.regex(/^SEIKAN_LAUNCH=[\w-]{36}$/)),
  /** Who launched it. */
  server: ProcessShape,
});

type Entry = v.InferOutput<typeof EntryShape>;

/** How long what was left behind may take to end by itself. */
const GRACE_MS = 2000;

/** What this user's servers have running, on disk: the next one ends what a killed one left behind. */
export class LaunchLedger {
  readonly #folder: string;

  constructor(runtimeFolder: string) {
    this.#folder = join(runtimeFolder, "launches");
  }

  /** Remembers a launch until the result is called. */
  add(name: string, pid: number, mark: string): () => void {
    const server = { pid: process.pid, start: startOf(process.pid) };
    const entry = { name, pid, mark, start: startOf(pid), server };
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const file = join(this.#folder, `${mark.slice(mark.indexOf("=") + 1)}.json`);
    writeFileSync(`${file}.new`, JSON.stringify(entry), { mode: 0o600 });
    renameSync(`${file}.new`, file);
    return () => rmSync(file, { force: true });
  }

  /** Ends what servers that are gone left behind, and nothing else. Resolves to the names of what it ended. */
  async cleanUp(): Promise<string[]> {
    const orphans = this.#files().filter(({ entry }) => entry === undefined || !isRunning(entry.server));
    const ended = await Promise.all(
      orphans.map(async ({ file, entry }) => {
        const wasThere = entry !== undefined && (await end(entry));
        rmSync(file, { force: true });
        return wasThere ? [entry.name] : [];
      }),
    );
    return ended.flat();
  }

  #files(): { file: string; entry: Entry | undefined }[] {
    try {
      const names = readdirSync(this.#folder).filter((name) => name.endsWith(".json"));
      return names.map((name) => ({ file: join(this.#folder, name), entry: readEntry(join(this.#folder, name)) }));
    } catch {
      return [];
    }
  }
}

/** Undefined: it is not one of ours, or was not written to its end. */
function readEntry(file: string): Entry | undefined {
  try {
    const { success, output } = v.safeParse(EntryShape, JSON.parse(readFileSync(file, "utf8")));
    return success ? output : undefined;
  } catch {
    return undefined;
  }
}

function isRunning({ pid, start }: Entry["server"]): boolean {
  return startOf(pid) !== undefined && startOf(pid) === start;
}

/** The group is known by its first process; where that has gone, its members by their mark alone. */
async function end({ pid, start, mark }: Entry): Promise<boolean> {
  const isSame = startOf(pid) !== undefined && startOf(pid) === start;
  const members = livingMembers(isSame ? pid : undefined, mark);
  if (members.length === 0) return false;
  await endAll(() => (isSame ? pid : undefined), mark, GRACE_MS);
  return true;
}
