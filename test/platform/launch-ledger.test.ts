import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { SeikanError } from "../../src/core/errors.ts";
import { LaunchLedger } from "../../src/platform/launch-ledger.ts";
import { ProcessGroup } from "../../src/platform/process-group.ts";
import { livingMembers, startOf } from "../../src/platform/processes.ts";
import { runtimeFolder } from "../../src/platform/runtime-folder.ts";
import { Process, TempFolder } from "../support/process.ts";
import { isAlive, isGone } from "../support/services.ts";
import { until, within } from "../support/wait.ts";

const SOURCE = join(import.meta.dir, "../../src/platform");
const IS_LINUX = process.platform === "linux";

let temp: TempFolder;
let groups: ProcessGroup[];
beforeEach(() => {
  temp = new TempFolder();
  groups = [];
});
afterEach(() => {
  for (const group of groups) group.kill();
  temp[Symbol.dispose]();
});

/** A launch that nobody wrote down yet. */
function launch(command = "exec sleep 1000"): ProcessGroup {
  const env = { PATH: process.env.PATH ?? "" };
  const group = new ProcessGroup({ command, folder: temp.path, env, hasTerminal: false, source: () => () => {} });
  groups.push(group);
  return group;
}

/** What the ledger has on disk. */
const files = () => (existsSync(temp.file("launches")) ? readdirSync(temp.file("launches")).toSorted() : []);

/** Writes down a launch as a server would have that was not this one. */
function write(entry: object | string, name = `${crypto.randomUUID()}.json`): void {
  mkdirSync(temp.file("launches"), { recursive: true, mode: 0o700 });
  writeFileSync(join(temp.file("launches"), name), typeof entry === "string" ? entry : JSON.stringify(entry));
}

/** Nobody has this number. */
const GONE = { pid: 2 ** 30, start: "1" };

const cleanUp = (): Promise<string[]> => within(new LaunchLedger(temp.path).cleanUp(), "the ledger is cleaned up");

/** A server of its own, which launches these commands and says which process each is. */
async function otherServer(...commands: string[]): Promise<{ server: Process; pids: number[] }> {
  const code = `
    const { LaunchLedger } = await import(${JSON.stringify(join(SOURCE, "launch-ledger.ts"))});
    const { ProcessGroup } = await import(${JSON.stringify(join(SOURCE, "process-group.ts"))});
    const ledger = new LaunchLedger(${JSON.stringify(temp.path)});
    const env = { PATH: process.env.PATH };
    const pids = ${JSON.stringify(commands)}.map((command, index) => {
      const group = new ProcessGroup({ command, folder: "/", env, hasTerminal: false, source: () => () => {} });
      ledger.add("service" + index, group.pid, group.mark);
      return group.pid;
    });
    console.log("launched " + pids.join(" "));
    setInterval(() => {}, 1000);
  `;
  const server = new Process([process.execPath, "-e", code]);
  await server.prints("\n");
  return { server, pids: server.stdout.trim().split(" ").slice(1).map(Number) };
}

async function killed(server: Process): Promise<void> {
  server.kill("SIGKILL");
  await server.exited();
}

describe("the ledger", () => {
  test("holds a launch until it is over, for this user alone", () => {
    const { pid, mark } = launch();
    const forget = new LaunchLedger(temp.path).add("django", pid, mark);
    const name = `${mark.split("=")[1]}.json`;
    expect(files()).toEqual([name]);
    const file = join(temp.file("launches"), name);
    const server = { pid: process.pid, start: startOf(process.pid)! };
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({ name: "django", pid, mark, start: startOf(pid)!, server });
    expect([lstatSync(temp.file("launches")).mode & 0o777, lstatSync(file).mode & 0o777]).toEqual([0o700, 0o600]);
    forget();
    forget();
    expect(files()).toEqual([]);
  });

  test("that is empty, or not there, has nothing to clean up", async () => {
    expect(await cleanUp()).toEqual([]);
    expect(files()).toEqual([]);
    mkdirSync(temp.file("launches"));
    expect(await cleanUp()).toEqual([]);
  });

  test("keeps many launches apart", () => {
    const ledger = new LaunchLedger(temp.path);
    const forgets = Array.from({ length: 50 }, (_, index) => ledger.add(`s${index}`, process.pid, `M=${index}`));
    expect(files()).toHaveLength(50);
    for (const forget of forgets.slice(1)) forget();
    expect(files()).toEqual(["0.json"]);
  });
});

describe("what a server left behind that was killed", () => {
  test("is ended by the next one", async () => {
    const { server, pids } = await otherServer("exec sleep 1000", "sleep 1000 & sleep 1000");
    await using _ = server;
    await killed(server);
    expect(pids.map(isAlive)).toEqual([true, true]);
    expect((await cleanUp()).toSorted()).toEqual(["service0", "service1"]);
    expect([pids.map(isAlive), files()]).toEqual([[false, false], []]);
    expect(await cleanUp()).toEqual([]);
  });

  test("is ended by SIGKILL where it ignores SIGTERM", async () => {
    const { server, pids } = await otherServer("trap '' TERM; while :; do sleep 0.01; done");
    await using _ = server;
    await killed(server);
    expect([await cleanUp(), pids.map(isAlive), files()]).toEqual([["service0"], [false], []]);
  });

  test("is ended as a whole where its first process has gone", async () => {
    const { server, pids } = await otherServer(`sh -c 'echo $$ > ${temp.file("pid")}; exec sleep 1000' & exit 0`);
    await using _ = server;
    await until(
      () => existsSync(temp.file("pid")) && readFileSync(temp.file("pid"), "utf8").endsWith("\n"),
      "it says who",
    );
    await isGone(pids[0]!);
    const left = Number(readFileSync(temp.file("pid"), "utf8"));
    await killed(server);
    expect(isAlive(left)).toBe(true);
    if (IS_LINUX) expect(await cleanUp()).toEqual(["service0"]);
    else process.kill(left, "SIGKILL");
    await isGone(left);
  });

  test("and has ended since is only forgotten", async () => {
    const { server, pids } = await otherServer("exit 0");
    await using _ = server;
    await isGone(pids[0]!);
    await killed(server);
    expect(files()).toHaveLength(1);
    expect([await cleanUp(), files()]).toEqual([[], []]);
  });

  test("is left alone while that server lives", async () => {
    const { server, pids } = await otherServer("exec sleep 1000");
    await using _ = server;
    expect([await cleanUp(), isAlive(pids[0]!), files().length]).toEqual([[], true, 1]);
    await killed(server);
    expect([await cleanUp(), isAlive(pids[0]!)]).toEqual([["service0"], false]);
  });

  test("is ended besides launches of this one, which are left alone", async () => {
    const { pid, mark } = launch();
    new LaunchLedger(temp.path).add("mine", pid, mark);
    const { server, pids } = await otherServer("exec sleep 1000");
    await using _ = server;
    await killed(server);
    expect([await cleanUp(), isAlive(pids[0]!), isAlive(pid)]).toEqual([["service0"], false, true]);
    expect(files()).toEqual([`${mark.split("=")[1]}.json`]);
  });

  test("is ended once by several that begin at the same moment", async () => {
    const { server, pids } = await otherServer(...Array.from({ length: 6 }, () => "exec sleep 1000"));
    await using _ = server;
    await killed(server);
    const { pid, mark } = launch();
    const ended = Promise.all([cleanUp(), cleanUp(), cleanUp()]);
    new LaunchLedger(temp.path).add("mine", pid, mark);
    const names = new Set((await ended).flat());
    expect([...names].toSorted()).toEqual(pids.map((_pid, index) => `service${index}`));
    expect([pids.some(isAlive), isAlive(pid), files()]).toEqual([false, true, [`${mark.split("=")[1]}.json`]]);
  });

  // Where nobody asks how a killed server ended (some containers), its number stays.
  test.skipIf(!IS_LINUX)("is ended also where the killed server is still a zombie", async () => {
    const { pid, mark } = launch();
    await using parent = new Process(["sh", "-c", "sh -c 'kill -STOP $$' & echo \"child $!\"; exec sleep 1000"]);
    await parent.prints("\n");
    const zombie = Number(parent.stdout.split(" ")[1]);
    const server = { pid: zombie, start: startOf(zombie) };
    process.kill(zombie, "SIGKILL");
    await isGone(zombie);
    expect([typeof server.start, startOf(zombie)]).toEqual(["string", undefined]);
    write({ name: "web", pid, mark, start: startOf(pid), server });
    expect([await cleanUp(), isAlive(pid)]).toEqual([["web"], false]);
  });
});

describe("a number that was given to somebody else", () => {
  test("is not touched where it names the launch", async () => {
    const bystander = launch();
    write({ name: "web", pid: bystander.pid, start: "1", mark: `SEIKAN_LAUNCH=${crypto.randomUUID()}`, server: GONE });
    expect([await cleanUp(), isAlive(bystander.pid), files()]).toEqual([[], true, []]);
  });

  test("is not touched where the launch ended before it was written down", async () => {
    const bystander = launch();
    write({ name: "web", pid: bystander.pid, mark: `SEIKAN_LAUNCH=${crypto.randomUUID()}`, server: GONE });
    expect([await cleanUp(), isAlive(bystander.pid), files()]).toEqual([[], true, []]);
  });

  test.skipIf(!IS_LINUX)("is not touched while what has the mark is ended", async () => {
    const [bystander, left] = [launch(), launch()];
    // Its environment cannot be read for a moment while it begins.
    await until(() => livingMembers(undefined, left.mark).length === 1, "it can be found");
    write({ name: "web", pid: bystander.pid, start: "1", mark: left.mark, server: GONE });
    expect([await cleanUp(), isAlive(bystander.pid), isAlive(left.pid)]).toEqual([["web"], true, false]);
  });

  test("is no server that lives", async () => {
    const { pid, mark } = launch();
    write({ name: "web", pid, start: startOf(pid), mark, server: { pid: process.pid, start: "1" } });
    expect([await cleanUp(), isAlive(pid)]).toEqual([["web"], false]);
  });
});

describe("an entry", () => {
  // In a container a server may well be the first process.
  test("of a server that is process 1 is that of one that lives", async () => {
    const { pid, mark } = launch();
    write({ name: "web", pid, start: startOf(pid), mark, server: { pid: 1, start: startOf(1) } });
    expect([await cleanUp(), isAlive(pid), files().length]).toEqual([[], true, 1]);
  });

  test.skipIf(!IS_LINUX)("with another mark than those of launches is not followed", async () => {
    const value = crypto.randomUUID();
    const env = { PATH: process.env.PATH ?? "", LEDGER_TEST: value };
    const bystander = new ProcessGroup({
      ...{ command: "exec sleep 1000", folder: temp.path, env, hasTerminal: false, source: () => () => {} },
    });
    groups.push(bystander);
    const mark = `LEDGER_TEST=${value}`;
    write({ name: "web", pid: 2 ** 30, start: "1", mark, server: GONE });
    await until(() => livingMembers(undefined, mark).length === 1, "it can be found");
    expect([await cleanUp(), isAlive(bystander.pid), files()]).toEqual([[], true, []]);
  });
});

describe("a broken file", () => {
  const broken: [what: string, text: string][] = [
    ["nothing", ""],
    ["half of an entry", '{"name":"web","pid":12'],
    ["no JSON", "\0\0\0\0"],
  ];
  for (const [what, text] of broken) {
    test(`with ${what} is removed, and hides no other`, async () => {
      const { pid, mark } = launch();
      write(text, "a.json");
      write({ name: "web", pid, start: startOf(pid), mark, server: GONE }, "b.json");
      write(text, "c.json");
      expect([await cleanUp(), isAlive(pid), files()]).toEqual([["web"], false, []]);
    });
  }

  for (const text of ["null", "{}", "[]", "7", '"text"', '{"server":null}']) {
    test(`with ${text} is removed, and hides no other`, async () => {
      const { pid, mark } = launch();
      write(text, "a.json");
      write({ name: "web", pid, start: startOf(pid), mark, server: GONE }, "b.json");
      expect([await cleanUp(), isAlive(pid), files()]).toEqual([["web"], false, []]);
    });
  }

  test("of another kind is left alone", async () => {
    write("something", "notes.txt");
    expect([await cleanUp(), files()]).toEqual([[], ["notes.txt"]]);
  });
});

describe("the runtime folder", () => {
  const folderIn = (base: string) => runtimeFolder({ XDG_RUNTIME_DIR: base });

  function refusal(base: string): SeikanError {
    try {
      folderIn(base);
    } catch (thrown) {
      if (thrown instanceof SeikanError) return thrown;
      throw thrown;
    }
    throw new Error(`${base} was taken`);
  }

  test("is made for this user alone, and found again", () => {
    const path = join(temp.path, "seikan");
    expect([folderIn(temp.path), folderIn(temp.path)]).toEqual([path, path]);
    expect(lstatSync(path).mode & 0o777).toBe(0o700);
  });

  test("is one of this user's where the system names none", () => {
    for (const env of [{}, { XDG_RUNTIME_DIR: "" }]) {
      const path = runtimeFolder(env);
      expect(path).toEndWith(`seikan-${process.getuid!()}`);
      expect(lstatSync(path).mode & 0o777).toBe(0o700);
    }
  });

  for (const mode of [0o755, 0o770, 0o701, 0o777]) {
    test(`is refused where others may look into it: ${mode.toString(8)}`, () => {
      mkdirSync(join(temp.path, "seikan"));
      chmodSync(join(temp.path, "seikan"), mode);
      const error = refusal(temp.path);
      expect([error.code, error.message]).toEqual(["command-failed", `${join(temp.path, "seikan")} is not ours alone`]);
    });
  }

  test("is refused where it is a link to somewhere else", () => {
    mkdirSync(join(temp.path, "elsewhere"), { mode: 0o700 });
    symlinkSync(join(temp.path, "elsewhere"), join(temp.path, "seikan"));
    expect(refusal(temp.path).message).toBe(`${join(temp.path, "seikan")} is not ours alone`);
  });
});
