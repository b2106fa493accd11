import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { expandHome, lookUpConfig, PROJECT_FILE, userFile, type LookUp } from "../../src/config/look-up.ts";
import { SeikanError } from "../../src/core/errors.ts";
import { TempFolder } from "../support/process.ts";

let folder: TempFolder;
beforeEach(() => {
  folder = new TempFolder();
});
afterEach(() => folder[Symbol.dispose]());

/** Writes a file below the test's folder, with the folders above it. */
function write(name: string): string {
  const path = folder.file(name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, "");
  return path;
}

function makeFolder(name: string): string {
  const path = folder.file(name);
  mkdirSync(path, { recursive: true });
  return path;
}

const nothing: LookUp = { found: undefined, passedOver: undefined };
const project = (path: string): LookUp => ({ found: { path, kind: "project" }, passedOver: undefined });
const user = (path: string): LookUp => ({ found: { path, kind: "user" }, passedOver: undefined });
const named = (path: string): LookUp => ({ found: { path, kind: "named" }, passedOver: undefined });

interface Asked {
  readonly named?: string;
  readonly readsProject?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

/** Looks from a folder below the test's; the user's own file would be `user/seikan/config.toml`. */
function lookFrom(cwd: string, { named: name, readsProject = true, env = {} }: Asked = {}): LookUp {
  const own = { XDG_CONFIG_HOME: folder.file("user"), ...env };
  return lookUpConfig({ named: name, readsProject, env: own, cwd: folder.file(cwd) });
}

describe("the project's file", () => {
  test("is seikan.toml", () => {
    expect(PROJECT_FILE).toBe("seikan.toml");
  });

  test("is the one in this folder", () => {
    const path = write("seikan.toml");
    expect(lookFrom(".")).toEqual(project(path));
  });

  test("is the nearest one of the repository", () => {
    makeFolder("repo/.git");
    const top = write("repo/seikan.toml");
    makeFolder("repo/a/b/c");
    expect(lookFrom("repo/a/b/c")).toEqual(project(top));
    const near = write("repo/a/seikan.toml");
    expect(lookFrom("repo/a/b/c")).toEqual(project(near));
    expect(lookFrom("repo/a")).toEqual(project(near));
    expect(lookFrom("repo")).toEqual(project(top));
  });

  test("may lie in the root of the repository, and not above it", () => {
    makeFolder("repo/.git");
    makeFolder("repo/a");
    write("seikan.toml");
    expect(lookFrom("repo/a")).toEqual(nothing);
    expect(lookFrom("repo")).toEqual(nothing);
    const path = write("repo/seikan.toml");
    expect(lookFrom("repo/a")).toEqual(project(path));
  });

  test("is not that of the repository around this one", () => {
    makeFolder("outer/.git");
    write("outer/seikan.toml");
    makeFolder("outer/inner/.git");
    makeFolder("outer/inner/a");
    expect(lookFrom("outer/inner/a")).toEqual(nothing);
  });

  test("ends at a .git that is a file, as of a work tree or a submodule, too", () => {
    makeFolder("outer/.git");
    write("outer/seikan.toml");
    write("outer/tree/.git");
    makeFolder("outer/tree/a");
    expect(lookFrom("outer/tree/a")).toEqual(nothing);
  });

  test("is looked for in this folder alone where there is no repository", () => {
    write("seikan.toml");
    makeFolder("a/b");
    expect(lookFrom("a/b")).toEqual(nothing);
    const path = write("a/b/seikan.toml");
    expect(lookFrom("a/b")).toEqual(project(path));
  });

  test("counts before the user's own", () => {
    const own = write("user/seikan/config.toml");
    expect(lookFrom(".")).toEqual(user(own));
    const path = write("seikan.toml");
    expect(lookFrom(".")).toEqual(project(path));
  });

  test("is not read unasked by a command that reads none", () => {
    write("seikan.toml");
    expect(lookFrom(".", { readsProject: false })).toEqual(nothing);
    const own = write("user/seikan/config.toml");
    expect(lookFrom(".", { readsProject: false })).toEqual(user(own));
  });

  test("may be written by its group, and not by everybody", () => {
    const path = write("seikan.toml");
    chmodSync(path, 0o664);
    expect(lookFrom(".")).toEqual(project(path));
    for (const mode of [0o666, 0o602, 0o777]) {
      chmodSync(path, mode);
      expect(lookFrom(".")).toEqual({ found: undefined, passedOver: { path, why: "everybody may write to it" } });
    }
  });

  test("gives way to the user's own where everybody may write to it", () => {
    const path = write("seikan.toml");
    chmodSync(path, 0o666);
    const own = write("user/seikan/config.toml");
    expect(lookFrom(".")).toEqual({
      found: { path: own, kind: "user" },
      passedOver: { path, why: "everybody may write to it" },
    });
  });

  test("does not give way to one further up where everybody may write to it", () => {
    makeFolder("repo/.git");
    write("repo/seikan.toml");
    const path = write("repo/a/seikan.toml");
    chmodSync(path, 0o666);
    expect(lookFrom("repo/a")).toEqual({ found: undefined, passedOver: { path, why: "everybody may write to it" } });
  });

  const isRoot = process.getuid?.() === 0;

  test.skipIf(!isRoot)("is not read when it belongs to another user", () => {
    const path = write("seikan.toml");
    chownSync(path, 12_345, 0);
    expect(lookFrom(".")).toEqual({ found: undefined, passedOver: { path, why: "it belongs to another user" } });
  });

  test.skipIf(!isRoot)("is not read when it is a link to what another user writes", () => {
    const target = write("elsewhere.toml");
    chownSync(target, 12_345, 0);
    const path = folder.file("seikan.toml");
    symlinkSync(target, path);
    expect(lookFrom(".")).toEqual({ found: undefined, passedOver: { path, why: "it belongs to another user" } });
  });

  test("that may be written by everybody is read when it is named", () => {
    const path = write("seikan.toml");
    chmodSync(path, 0o666);
    expect(lookFrom(".", { named: "seikan.toml" })).toEqual(named(path));
  });
});

describe("a file that is named", () => {
  test("counts before any other, alone", () => {
    write("seikan.toml");
    write("user/seikan/config.toml");
    const path = write("other.toml");
    expect(lookFrom(".", { named: "other.toml" })).toEqual(named(path));
    expect(lookFrom(".", { named: path, readsProject: false })).toEqual(named(path));
  });

  test("begins at this folder, or at home with a tilde", () => {
    makeFolder("a");
    const path = write("b/other.toml");
    expect(lookFrom("a", { named: "../b/other.toml" })).toEqual(named(path));
    expect(lookFrom("a", { named: "~/other.toml", env: { HOME: folder.file("b") } })).toEqual(named(path));
  });

  test("must be there", () => {
    write("seikan.toml");
    let thrown: unknown;
    try {
      lookFrom(".", { named: "other.toml" });
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(SeikanError);
    expect(thrown).toMatchObject({
      code: "usage",
      message: `--config: there is no file ${folder.file("other.toml")}`,
    });
  });

  test("with an empty name is none", () => {
    const path = write("seikan.toml");
    expect(lookFrom(".", { named: "" })).toEqual(project(path));
  });
});

describe("the user's own file", () => {
  const table: [env: Record<string, string>, path: string][] = [
    [{ XDG_CONFIG_HOME: "/xdg" }, "/xdg/seikan/config.toml"],
    [{ XDG_CONFIG_HOME: "/xdg", HOME: "/home/ann" }, "/xdg/seikan/config.toml"],
    [{ XDG_CONFIG_HOME: "", HOME: "/home/ann" }, "/home/ann/.config/seikan/config.toml"],
    [{ HOME: "/home/ann" }, "/home/ann/.config/seikan/config.toml"],
    [{ HOME: "" }, join(homedir(), ".config/seikan/config.toml")],
    [{}, join(homedir(), ".config/seikan/config.toml")],
  ];
  for (const [env, path] of table) {
    test(`is ${path.replace(homedir(), "~")} with ${JSON.stringify(env)}`, () => expect(userFile(env)).toBe(path));
  }

  test("is found below .config without $XDG_CONFIG_HOME", () => {
    const path = write("home/.config/seikan/config.toml");
    const env = { XDG_CONFIG_HOME: "", HOME: folder.file("home") };
    expect(lookFrom(".", { env })).toEqual(user(path));
    expect(lookFrom(".", { env, readsProject: false })).toEqual(user(path));
  });

  test("need not be there", () => {
    expect(lookFrom(".")).toEqual(nothing);
  });
});

describe("a tilde", () => {
  const env = { HOME: "/home/ann" };
  const table: [path: string, expanded: string][] = [
    ["~", "/home/ann"],
    ["~/a/b", "/home/ann/a/b"],
    ["~bob/a", "~bob/a"],
    ["a/~/b", "a/~/b"],
    ["/~", "/~"],
    ["", ""],
  ];
  for (const [path, expanded] of table) {
    test(`in ${JSON.stringify(path)} makes it ${JSON.stringify(expanded)}`, () =>
      expect(expandHome(path, env)).toBe(expanded));
  }
});
