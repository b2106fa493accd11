import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, posix } from "node:path";

const ROOT = join(import.meta.dir, "..");

/** What each folder of src may import of ours, besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  wire: ["core"],
  platform: ["core"],
  transports: ["wire", "core"],
  routes: ["services", "transports", "wire", "core"],
  config: ["core"],
  services: ["transports", "platform", "wire", "core"],
  commands: ["config", "routes", "services", "transports", "platform", "wire", "core"],
  cli: ["commands", "config", "routes", "transports", "platform", "wire", "core"],
  // src/main.ts
  ".": ["cli", "commands", "routes", "transports", "platform", "wire", "core"],
};

/** `FILE: what` of violations that stand for now, each with its reason. */
const KNOWN: readonly string[] = [];

interface SourceFile {
  /** `core/stream.ts` */
  readonly path: string;
  readonly folder: string;
  readonly text: string;
  /** The text without comments. */
  readonly code: string;
  readonly imports: readonly string[];
  /** Those that are there at run time: without `import type`. */
  readonly runs: readonly string[];
}

function filesBelow(folder: string): SourceFile[] {
  return [...new Bun.Glob("**/*.ts").scanSync(join(ROOT, folder))].toSorted().map((name) => {
    const path = name.replaceAll("\\", "/");
    const text = readFileSync(join(ROOT, folder, name), "utf8");
    const code = withoutComments(text);
    const slash = path.indexOf("/");
    return {
      path,
      folder: slash < 0 ? "." : path.slice(0, slash),
      text,
      code,
      imports: importsOf(code),
      runs: importsOf(withoutTypes(code)),
    };
  });
}

/** Blanks comments; strings and templates stay, whatever they look like. */
function withoutComments(text: string): string {
  return text.replace(
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\[\s\S]|[^`\\])*`)|\/\*[\s\S]*?\*\/|(^|[^:\\/])\/\/[^\n]*/g,
    (_, literal: string | undefined, before: string | undefined) => literal ?? before ?? "",
  );
}

function withoutTypes(code: string): string {
  return code.replace(/\b(?:import|export)\s+type\b[^;]*?\bfrom\s*["'][^"']+["']/g, "");
}

/** Static, dynamic and type imports, and re-exports. */
function importsOf(code: string): string[] {
  const found = code.matchAll(/(?:\bfrom\s*|\bimport\s*\(?\s*|\brequire\s*\(\s*)["']([^"']+)["']/g);
  return [...found].map((match) => match[1]!);
}

const SOURCES = filesBelow("src");
const TESTS = filesBelow("test").filter(({ path }) => path !== "architecture.test.ts");

/** Our own files that a source imports, as paths below src. */
function ownImports({ path, imports }: SourceFile, names = imports): string[] {
  return names
    .filter((name) => name.startsWith("."))
    .map((name) => posix.normalize(posix.join(posix.dirname(path), name)));
}

function folderOf(path: string): string {
  return path.includes("/") ? path.slice(0, path.indexOf("/")) : ".";
}

/** The violations that are not known, and the known ones that are none any more. */
function expectNone(violations: readonly string[], known: readonly string[] = []): void {
  expect(violations.filter((violation) => !known.includes(violation))).toEqual([]);
  expect(known.filter((violation) => !violations.includes(violation))).toEqual([]);
}

/** Files in which the pattern occurs, `PATH: match`. */
function uses(files: readonly SourceFile[], pattern: RegExp): string[] {
  return files.flatMap(({ path, code }) => [...code.matchAll(pattern)].map((match) => `${path}: ${match[0].trim()}`));
}

describe("the sources", () => {
  test("are found, and lie in known folders", () => {
    expect(SOURCES.length).toBeGreaterThan(40);
    expect([...new Set(SOURCES.map(({ folder }) => folder))].toSorted()).toEqual(Object.keys(MAY_IMPORT).toSorted());
    expect(SOURCES.filter(({ folder }) => folder === ".").map(({ path }) => path)).toEqual(["main.ts"]);
  });

  test("import files that exist, with their extension", () => {
    const paths = new Set(SOURCES.map(({ path }) => path));
    const outside = new Set(["../package.json", "wire/llhttp.d.ts", "routes/services-page.html"]);
    expectNone(
      SOURCES.flatMap((file) =>
        ownImports(file)
          .filter((path) => !paths.has(path) && !outside.has(path))
          .map((path) => `${file.path}: ${path}`),
      ),
    );
  });

  for (const [folder, allowed] of Object.entries(MAY_IMPORT)) {
    test(`in ${folder === "." ? "main.ts" : `${folder}/`} import ${allowed.length === 0 ? "nothing else of ours" : `only ${allowed.join(", ")}`}`, () => {
      const violations = SOURCES.filter((file) => file.folder === folder).flatMap((file) =>
        ownImports(file)
          .filter((path) => !path.startsWith("..") && ![folder, ...allowed].includes(folderOf(path)))
          .map((path) => `${file.path}: ${path}`),
      );
      expectNone(
        violations,
        KNOWN.filter((known) => folderOf(known) === folder && !known.includes("(")),
      );
    });
  }

  test("import each other in one direction, types aside: no file reaches itself", () => {
    const graph = new Map(SOURCES.map((file) => [file.path, ownImports(file, file.runs)]));
    const circles: string[] = [];
    const done = new Set<string>();
    const visit = (path: string, trail: readonly string[]) => {
      if (trail.includes(path)) circles.push([...trail.slice(trail.indexOf(path)), path].join(" -> "));
      if (trail.includes(path) || done.has(path)) return;
      for (const next of graph.get(path) ?? []) visit(next, [...trail, path]);
      done.add(path);
    };
    for (const path of graph.keys()) visit(path, []);
    expectNone(circles);
  });

  test("open sockets in transports/ only", () => {
    expectNone(
      uses(
        SOURCES.filter(({ folder }) => folder !== "transports"),
        /\bBun\s*\.\s*(?:listen|connect|serve|udpSocket)\b|\bupgradeTLS\b/g,
      ),
    );
    expectNone(
      SOURCES.flatMap(({ path, imports }) =>
        imports
          .filter((name) => /^node:(?:net|tls|http|https|http2|dgram)$/.test(name))
          .map((name) => `${path}: ${name}`),
      ),
      // What serves files is middleware for it.
      ["transports/file-server.ts: node:http"],
    );
  });

  test("name citty and consola in cli/ only", () => {
    const violations = SOURCES.filter(({ folder }) => folder !== "cli" && folder !== ".").flatMap(({ path, imports }) =>
      imports.filter((name) => /^(?:citty|consola)(?:\/|$)/.test(name)).map((name) => `${path}: ${name}`),
    );
    expectNone(violations);
  });

  test("end the process and use the console in cli/ and main.ts only", () => {
    const others = SOURCES.filter(({ folder }) => folder !== "cli" && folder !== ".");
    expectNone(uses(others, /\bprocess\s*\.\s*exit\s*\(|\bprocess\s*\.\s*exitCode\s*=|\bconsole\s*\.\s*\w+/g));
  });

  test("know llhttp in wire/http1.ts only", () => {
    expectNone(
      uses(
        SOURCES.filter(({ path }) => !path.startsWith("wire/http1") && path !== "wire/llhttp.d.ts"),
        /node:_http_common/g,
      ),
    );
  });
});

describe("the tests", () => {
  test("wait for what happens and not for time to pass, outside test/support", () => {
    // test/bench measures how much happens in a given time: it has to let time pass.
    const others = TESTS.filter(({ folder }) => folder !== "support" && folder !== "bench");
    expect(others.length).toBeGreaterThan(20);
    expectNone(uses(others, /\bsetTimeout\s*\(|\bBun\s*\.\s*sleep\w*|(?<![\w.])sleep\s*\(/g));
  });

  test("name no port of their own, outside test/support", () => {
    // A listener in a test takes port 0.
    const others = TESTS.filter(({ folder }) => folder !== "support");
    expectNone(uses(others, /Bun\s*\.\s*(?:listen|serve)\s*(?:<[^>]*>)?\(\s*\{[^}]*\bport:\s*[1-9]\d*/g));
  });
});
