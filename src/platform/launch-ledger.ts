import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { endAll } from "./process-group.ts";
import { livingMembers, startOf } from "./processes.ts";

/** What is known about a launch, should we be killed before it ends. */
interface Entry {
  readonly name: string;
  /** Its first process, which names its group. */
  readonly pid: number;
  readonly start: string | undefined;
  readonly mark: string;
  /** Who launched it. */
  readonly server: { readonly pid: number; readonly start: string | undefined };
}

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
    const entry: Entry = { name, pid, mark, start: startOf(pid), server };
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

function readEntry(file: string): Entry | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Entry;
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
  await endAll(isSame ? pid : undefined, mark, GRACE_MS);
  return true;
}
