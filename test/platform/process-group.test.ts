import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SeikanError } from "../../src/core/errors.ts";
import {
  describeEnding,
  isClean,
  ProcessGroup,
  type Ending,
  type GroupOptions,
} from "../../src/platform/process-group.ts";
import { livingMembers, startOf } from "../../src/platform/processes.ts";
import { TempFolder } from "../support/process.ts";
import { isAlive, isGone, kill } from "../support/services.ts";
import { until, within } from "../support/wait.ts";

const IS_LINUX = process.platform === "linux";
/** For commands that end in time: nothing waits so long. */
const LONG_MS = 30_000;

let temp: TempFolder;
let folder: string;
beforeAll(() => {
  temp = new TempFolder();
  folder = realpathSync(temp.path);
});
afterAll(() => temp[Symbol.dispose]());

/** A group whose output is kept. Whatever is left of it, and pids that it printed, are killed in the end. */
class Played implements AsyncDisposable {
  readonly group: ProcessGroup;
  #output = "";

  constructor(command: GroupOptions["command"], changes: Partial<GroupOptions> = {}) {
    this.group = new ProcessGroup({
      ...{ command, folder, env: { PATH: process.env.PATH ?? "" }, hasTerminal: false },
      ...changes,
      source: () => (chunk: Uint8Array) => (this.#output += Buffer.from(chunk).toString()),
    });
  }

  get output(): string {
    return this.#output;
  }

  /** The number printed behind this name: `child 123`. */
  pid(name: string): number {
    return Number(new RegExp(`\\b${name} (\\d+)\\s`).exec(this.#output)![1]);
  }

  async prints(text: string): Promise<void> {
    await until(() => this.#output.includes(text), `it prints ${JSON.stringify(text)}`);
  }

  /** How the first process ends, and all it printed until then. */
  async ends(): Promise<Ending & { output: string }> {
    const ending = await within(this.group.exited, "the end of the command");
    return { ...ending, output: this.#output };
  }

  async stop(graceMs = LONG_MS): Promise<void> {
    await within(this.group.stop(graceMs), "the end of the group");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.group.kill();
    for (const [, pid] of this.#output.matchAll(/\b\w+ (\d+)\s/g)) if (Number(pid) > 1) kill(Number(pid), "SIGKILL");
    await this.group.exited;
  }
}

/** A program that says its name and number, and sleeps. */
const sleeper = (name: string) => `sh -c 'echo ${name} $$; exec sleep 1000'`;
/** One that ignores SIGTERM. */
const stubborn = (name: string) => `sh -c 'trap "" TERM; echo ${name} $$; while :; do sleep 0.01; done'`;

function refusal(command: GroupOptions["command"], changes: Partial<GroupOptions> = {}): SeikanError {
  try {
    const { group } = new Played(command, changes);
    group.kill();
  } catch (thrown) {
    if (thrown instanceof SeikanError) return thrown;
    throw thrown;
  }
  throw new Error("it began");
}

describe("a command", () => {
  test("that is a text runs in a shell", async () => {
    await using played = new Played("echo one two | tr a-z A-Z; exit 7");
    expect(await played.ends()).toEqual({ code: 7, signal: undefined, output: "ONE TWO\n" });
  });

  test("that is a list runs directly, with its words as they are", async () => {
    await using played = new Played(["printf", "%s.", "a b", "$HOME", "*", ""]);
    expect(await played.ends()).toEqual({ code: 0, signal: undefined, output: "a b.$HOME.*.." });
  });

  const endings: [command: string, ending: Ending, said: string, clean: boolean][] = [
    ["exit 0", { code: 0, signal: undefined }, "exit code 0", true],
    ["exit 1", { code: 1, signal: undefined }, "exit code 1", false],
    ["exit 255", { code: 255, signal: undefined }, "exit code 255", false],
    ["exit 143", { code: 143, signal: undefined }, "exit code 143", true],
    ["exit 130", { code: 130, signal: undefined }, "exit code 130", true],
    ["exit 137", { code: 137, signal: undefined }, "exit code 137", false],
    ["kill -TERM $$", { code: undefined, signal: "SIGTERM" }, "SIGTERM", true],
    ["kill -INT $$", { code: undefined, signal: "SIGINT" }, "SIGINT", true],
    ["kill -KILL $$", { code: undefined, signal: "SIGKILL" }, "SIGKILL", false],
    ["kill -ABRT $$", { code: undefined, signal: "SIGABRT" }, "SIGABRT", false],
    ["kill -HUP $$", { code: undefined, signal: "SIGHUP" }, "SIGHUP", false],
    ["no-such-command-at-all", { code: 127, signal: undefined }, "exit code 127", false],
  ];
  for (const [command, ending, said, clean] of endings) {
    test(`that does "${command}" ended with ${said}, ${clean ? "as somebody wished" : "which is a failure"}`, async () => {
      await using played = new Played(command);
      const { output: _, ...seen } = await played.ends();
      expect(seen).toEqual(ending);
      expect([describeEnding(seen), isClean(seen)]).toEqual([said, clean]);
    });
  }

  test("is heard on both its outputs, to the last word", async () => {
    await using played = new Played("echo out; echo err >&2; seq 1 20000; echo the last words >&2; exit 1");
    const { output } = await played.ends();
    expect(output).toStartWith("out\n");
    expect(output).toContain("err\n");
    expect(output).toContain("\n20000\n");
    expect(output).toContain("the last words\n");
  });

  test("has no input", async () => {
    await using played = new Played("cat; test -t 0 || echo no terminal");
    expect(await played.ends()).toEqual({ code: 0, signal: undefined, output: "no terminal\n" });
  });

  test("runs in its folder", async () => {
    await using played = new Played(["pwd"]);
    expect((await played.ends()).output).toBe(`${folder}\n`);
  });

  test("gets its environment, its mark and nothing else", async () => {
    process.env.GROUP_TEST_SECRET = "of this process";
    const env = { PATH: process.env.PATH ?? "", PORT: "8001", EMPTY: "", ODD: "a=b c\td" };
    await using played = new Played(["env"], { env });
    const lines = (await played.ends()).output.trimEnd().split("\n");
    delete process.env.GROUP_TEST_SECRET;
    const expected = [...Object.entries(env).map(([name, value]) => `${name}=${value}`), played.group.mark];
    expect(lines.toSorted()).toEqual(expected.toSorted());
    expect(played.group.mark).toMatch(/^SEIKAN_LAUNCH=[0-9a-f-]{36}$/);
  });

  test("has a mark of its own, also where it is started by another one", async () => {
    const env = { PATH: process.env.PATH ?? "", SEIKAN_LAUNCH: "outer" };
    await using first = new Played(["printenv", "SEIKAN_LAUNCH"], { env });
    await using second = new Played(["printenv", "SEIKAN_LAUNCH"], { env });
    const marks = [first, second].map(({ group }) => group.mark);
    expect([await first.ends(), await second.ends()].map(({ output }) => `SEIKAN_LAUNCH=${output.trim()}`)).toEqual(
      marks,
    );
    expect(marks[0]).not.toBe(marks[1]!);
  });

  test("leads a group and a session of its own", async () => {
    await using played = new Played("ps -o pid=,pgid=,sid= -p $$");
    const { pid } = played.group;
    expect((await played.ends()).output.trim().split(/\s+/).map(Number)).toEqual([pid, pid, pid]);
  });
});

describe("a command with a terminal", () => {
  test("sees one of 120 columns, on all its streams", async () => {
    await using played = new Played("test -t 0 && test -t 1 && test -t 2 && stty size", { hasTerminal: true });
    expect(await played.ends()).toEqual({ code: 0, signal: undefined, output: "40 120\r\n" });
  });

  test("is heard to the last word, and ends with its code", async () => {
    await using played = new Played("seq 1 5000; echo the last words >&2; exit 3", { hasTerminal: true });
    const { output, ...ending } = await played.ends();
    expect(ending).toEqual({ code: 3, signal: undefined });
    expect(output).toEndWith("5000\r\nthe last words\r\n");
  });

  test("is stopped with its children", async () => {
    await using played = new Played(`${sleeper("child")} & echo begun; wait`, { hasTerminal: true });
    await played.prints("child");
    await played.prints("begun");
    await played.stop();
    expect([isAlive(played.group.pid), isAlive(played.pid("child"))]).toEqual([false, false]);
  });

  test("is told where it has none", async () => {
    await using played = new Played("test -t 1 || echo no terminal");
    expect((await played.ends()).output).toBe("no terminal\n");
  });
});

describe("a command that cannot begin", () => {
  test("is not found", () => {
    const error = refusal(["no-such-command-at-all", "--flag"]);
    expect([error.code, error.message]).toEqual(["command-not-found", "no such command: no-such-command-at-all"]);
    expect(refusal(["./no-such-file"]).code).toBe("command-not-found");
    expect(refusal([""]).code).toBe("command-not-found");
  });

  test("is not found on a PATH that does not name it", () => {
    expect(refusal(["sh", "-c", "true"], { env: { PATH: folder } }).code).toBe("command-not-found");
    expect(refusal(["sh", "-c", "true"], { env: {} }).code).toBe("command-not-found");
  });

  test("is no program", () => {
    for (const [name, text] of [
      ["interpreter", "#!/no/such/interpreter\n"],
      ["text", "just a text\n"],
    ] as const) {
      writeFileSync(join(folder, name), text, { mode: 0o755 });
      const error = refusal([`./${name}`]);
      expect([error.code, error.message]).toEqual([
        "command-not-executable",
        `cannot execute ./${name}: ${name === "text" ? "ENOEXEC" : "ENOENT"}`,
      ]);
    }
  });

  test("may not be executed", () => {
    writeFileSync(join(folder, "plain"), "#!/bin/sh\necho hello\n", { mode: 0o644 });
    expect(refusal(["./plain"]).code).toBe("command-not-executable");
  });

  test("has no folder", () => {
    const missing = join(folder, "missing");
    const error = refusal(["true"], { folder: missing });
    expect([error.code, error.message]).toEqual(["command-failed", `there is no folder ${missing}`]);
    writeFileSync(join(folder, "file"), "");
    expect(refusal("true", { folder: join(folder, "file") }).message).toBe(
      `there is no folder ${join(folder, "file")}`,
    );
  });
});

describe("programs of a project", () => {
  function project(name: string, ...tools: string[]): string {
    const path = join(folder, name);
    mkdirSync(join(path, "node_modules", ".bin"), { recursive: true });
    for (const tool of tools)
      writeFileSync(join(path, "node_modules", ".bin", tool), `#!/bin/sh\necho local ${tool} "$@"\n`, { mode: 0o755 });
    return path;
  }

  for (const command of [["tool", "a b"], 'tool "a b"']) {
    test(`are found in its node_modules, by ${typeof command === "string" ? "the shell" : "a list"}`, async () => {
      await using played = new Played(command, { folder: project("one", "tool") });
      expect((await played.ends()).output).toBe("local tool a b\n");
    });
  }

  test("come before those of the system, and leave those there", async () => {
    await using played = new Played("uname; basename /a/b", { folder: project("two", "uname") });
    expect((await played.ends()).output).toBe("local uname\nb\n");
  });

  test("are found without a PATH, too", async () => {
    await using played = new Played(["/bin/sh", "-c", "tool"], { folder: project("three", "tool"), env: {} });
    expect((await played.ends()).output).toBe("local tool\n");
  });

  test("are those of its own folder alone", () => {
    project("four", "only-there");
    expect(refusal(["only-there"]).code).toBe("command-not-found");
  });

  test("may be named by their path from its folder, and are called as they were named", async () => {
    const path = project("five");
    writeFileSync(join(path, "serve"), '#!/bin/sh\necho "$0"\n', { mode: 0o755 });
    await using played = new Played(["./serve"], { folder: path });
    expect((await played.ends()).output).toContain("serve\n");
    await using named = new Played(["sh", "-c", "echo $0"], { folder: path });
    expect((await named.ends()).output).toBe("sh\n");
  });
});

describe("stopping", () => {
  test("ends a command by SIGTERM, long before the bound", async () => {
    await using played = new Played(["sleep", "1000"]);
    expect(played.group.isAlive).toBe(true);
    await played.stop();
    expect(await played.group.exited).toEqual({ code: undefined, signal: "SIGTERM" });
    expect(played.group.isAlive).toBe(false);
  });

  test("lets a command clean up", async () => {
    const cleaned = join(folder, "cleaned");
    await using played = new Played(
      `trap 'sleep 0.1; touch ${cleaned}; exit 3' TERM; echo ready; while :; do sleep 0.01; done`,
    );
    await played.prints("ready");
    await played.stop();
    expect([await played.group.exited, existsSync(cleaned)]).toEqual([{ code: 3, signal: undefined }, true]);
  });

  test("hears what a command says last", async () => {
    await using all = new AsyncDisposableStack();
    const played = Array.from({ length: 20 }, () =>
      all.use(new Played("trap 'echo cleaning; exit 3' TERM; echo ready; while :; do sleep 0.01; done")),
    );
    await Promise.all(played.map((one) => one.prints("ready")));
    await Promise.all(played.map((one) => one.stop()));
    // A shell also tells of its child that was ended.
    const last = played.map(({ output }) => output.trimEnd().split("\n").at(-1));
    expect(last).toEqual(played.map(() => "cleaning"));
  });

  test("ends a command that ignores SIGTERM by SIGKILL, and not before the bound", async () => {
    await using played = new Played("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    await played.prints("ready");
    const began = performance.now();
    await played.stop(200);
    expect(performance.now() - began).toBeGreaterThanOrEqual(200);
    expect(await played.group.exited).toEqual({ code: undefined, signal: "SIGKILL" });
    expect(played.group.isAlive).toBe(false);
  });

  test.skipIf(!IS_LINUX)("ends a command that is suspended", async () => {
    await using played = new Played("echo ready; kill -STOP $$; echo never");
    await until(() => /\) T /.test(readFileSync(`/proc/${played.group.pid}/stat`, "latin1")), "it is suspended");
    await played.stop(100);
    expect(await played.ends()).toEqual({ code: undefined, signal: "SIGKILL", output: "ready\n" });
  });

  test("ends everything that a command started", async () => {
    await using played = new Played(`${sleeper("one")} & (${sleeper("two")} & ${sleeper("three")}) & wait`);
    for (const name of ["one", "two", "three"]) await played.prints(`${name} `);
    const pids = ["one", "two", "three"].map((name) => played.pid(name));
    expect(pids.map(isAlive)).toEqual([true, true, true]);
    await played.stop();
    expect(pids.map(isAlive)).toEqual([false, false, false]);
  });

  test("ends a child that ignores SIGTERM where the command itself does not", async () => {
    await using played = new Played(`trap 'exit 0' TERM; ${stubborn("child")} & wait`);
    await played.prints("child");
    await played.stop(200);
    expect((await played.ends()).code).toBe(0);
    expect(isAlive(played.pid("child"))).toBe(false);
  });

  test("ends what a command left behind that had forked", async () => {
    await using played = new Played(`${sleeper("left")} & exit 0`);
    await played.prints("left");
    expect((await played.ends()).code).toBe(0);
    expect([played.group.isAlive, isAlive(played.pid("left"))]).toEqual([true, true]);
    await played.stop();
    expect([played.group.isAlive, isAlive(played.pid("left"))]).toEqual([false, false]);
  });

  test("ends what ignores SIGTERM and was left behind", async () => {
    await using played = new Played(`${stubborn("left")} & exit 0`);
    await played.prints("left");
    await played.ends();
    await played.stop(100);
    expect([played.group.isAlive, isAlive(played.pid("left"))]).toEqual([false, false]);
  });

  test.skipIf(!IS_LINUX)("finds a daemon that left the group and the session, by its mark", async () => {
    await using played = new Played(`setsid ${sleeper("daemon")} & exit 0`);
    await played.prints("daemon");
    await played.ends();
    expect(played.group.isAlive).toBe(true);
    await played.stop();
    expect([played.group.isAlive, isAlive(played.pid("daemon"))]).toEqual([false, false]);
  });

  test.skipIf(!IS_LINUX)("kills a daemon that left the group and ignores SIGTERM", async () => {
    await using played = new Played(`setsid ${stubborn("daemon")} & exec sleep 1000`);
    await played.prints("daemon");
    await played.stop(100);
    expect([isAlive(played.pid("daemon")), isAlive(played.group.pid)]).toEqual([false, false]);
  });

  test.skipIf(!IS_LINUX)("finds a member of the session in a group of its own, whatever its environment", async () => {
    // A shell with job control gives each job a group.
    const command = `set -m; env -i PATH="$PATH" ${sleeper("job")} & wait`;
    await using played = new Played(command, { hasTerminal: true });
    await played.prints("job ");
    await played.stop();
    expect([isAlive(played.pid("job")), isAlive(played.group.pid)]).toEqual([false, false]);
  });

  test.skipIf(!IS_LINUX)(
    "is over though somebody holds the output who is none of it, and leaves him alone",
    async () => {
      await using played = new Played(`env -i PATH="$PATH" setsid ${sleeper("other")} & exec sleep 1000`);
      await played.prints("other");
      await played.stop();
      expect([played.group.isAlive, isAlive(played.group.pid), isAlive(played.pid("other"))]).toEqual([
        false,
        false,
        true,
      ]);
    },
  );

  test("ends with the first time, however often it is asked for", async () => {
    await using played = new Played("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    await played.prints("ready");
    const first = played.group.stop(150);
    const second = played.group.stop(LONG_MS);
    expect(second).toBe(first);
    await within(second, "the second one");
    expect(isAlive(played.group.pid)).toBe(false);
  });

  test("of what has ended is over at once", async () => {
    await using played = new Played(["true"]);
    await played.ends();
    await played.stop();
    await played.stop();
    expect(played.group.isAlive).toBe(false);
  });

  test("leaves another group alone", async () => {
    await using one = new Played(["sleep", "1000"]);
    await using other = new Played(["sleep", "1000"]);
    await one.stop();
    expect([one.group.isAlive, other.group.isAlive, isAlive(other.group.pid)]).toEqual([false, true, true]);
  });
});

describe("killing", () => {
  test("ends all of it at once, whoever ignores SIGTERM", async () => {
    await using played = new Played(
      `trap '' TERM; ${stubborn("child")} & ${IS_LINUX ? `setsid ${sleeper("daemon")} & ` : ""}wait`,
    );
    await played.prints("child");
    if (IS_LINUX) await played.prints("daemon");
    played.group.kill();
    expect(await played.group.exited).toEqual({ code: undefined, signal: "SIGKILL" });
    for (const name of IS_LINUX ? ["child", "daemon"] : ["child"]) await isGone(played.pid(name));
    await until(() => !played.group.isAlive, "all of it is gone");
  });

  test("ends what is being stopped", async () => {
    await using played = new Played("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    await played.prints("ready");
    const stopped = played.group.stop(LONG_MS);
    played.group.kill();
    await within(stopped, "the stop");
    expect(await played.group.exited).toEqual({ code: undefined, signal: "SIGKILL" });
  });

  test("of what has ended does nothing", async () => {
    await using played = new Played(["true"]);
    await played.ends();
    played.group.kill();
    expect(await played.group.exited).toEqual({ code: 0, signal: undefined });
  });
});

describe("a process", () => {
  test("is known by when it began", async () => {
    await using one = new Played(["sleep", "1000"]);
    expect(startOf(one.group.pid)).toBe(startOf(one.group.pid)!);
    expect(startOf(one.group.pid)).not.toBe(startOf(process.pid)!);
    await one.stop();
    await until(() => startOf(one.group.pid) === undefined, "it is gone");
  });

  test("of a number that nobody has is none", () => {
    expect(startOf(2 ** 30)).toBeUndefined();
  });

  test("of this program is no member of a launch", () => {
    expect(livingMembers(undefined, `SEIKAN_LAUNCH=${crypto.randomUUID()}`)).toEqual([]);
  });

  test.skipIf(!IS_LINUX)("is a member by its whole mark alone", async () => {
    await using played = new Played(["sleep", "1000"], { env: { PATH: process.env.PATH ?? "", OTHER: "x" } });
    const { mark, pid } = played.group;
    await until(() => livingMembers(undefined, mark).length === 1, "it is found");
    expect(livingMembers(undefined, mark)).toEqual([pid]);
    for (const part of [mark.slice(0, -1), mark.slice(1), `${mark}0`, mark.replace("=", "=0")])
      expect(livingMembers(undefined, part)).toEqual([]);
  });
});
