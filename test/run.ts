/**
 * `npm test`: type check, lint and format, then the executable is built, and
 * every suite runs: with the source, and the end-to-end ones with the compiled
 * executable.
 */
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const EXECUTABLE = join(ROOT, "dist", process.platform === "win32" ? "seikan.exe" : "seikan");
// A test may wait for what must happen; `within` says what did not.
const TIMEOUT = ["--timeout", "60000"];
const asked = process.argv.slice(2);

/** The slow suites run once, with the executable: they are about programs and time-outs. */
function sourceSuites(): string[] {
  const all = [...new Bun.Glob("test/**/*.test.ts").scanSync({ cwd: ROOT })];
  return all.filter((path) => !/(^|[\\/])slow-[^\\/]*$/.test(path)).toSorted();
}

interface Step {
  readonly name: string;
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

const steps: readonly Step[] = [
  { name: "type check", command: ["node_modules/.bin/tsc", "--noEmit"] },
  { name: "lint", command: ["node_modules/.bin/oxlint", "--deny-warnings"] },
  { name: "format", command: [process.execPath, "fmt", "--check", "--no-script"] },
  { name: "build", command: [process.execPath, "build.ts", "--quiet"] },
  {
    name: "tests of the source",
    command: [process.execPath, "test", ...TIMEOUT, ...(asked.length > 0 ? asked : sourceSuites())],
  },
  {
    name: "tests of the compiled executable",
    command: [process.execPath, "test", ...TIMEOUT, ...(asked.length > 0 ? asked : ["test/e2e"])],
    env: { SEIKAN_EXECUTABLE: EXECUTABLE },
  },
];

let passed = 0;
let failed = 0;
let skipped = 0;

/** Passes the runner's output on and adds up its closing lines. */
async function forward(stream: ReadableStream<Uint8Array>): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    process.stderr.write(chunk);
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      // oxlint-disable-next-line no-control-regex
      const [, count, what] = /^\s*(\d+) (pass|fail|skip)$/.exec(line.replace(/\x1b\[\d*m/g, "")) ?? [];
      if (what === "pass") passed += Number(count);
      if (what === "fail") failed += Number(count);
      if (what === "skip") skipped += Number(count);
    }
  }
}

let code = 0;
for (const { name, command, env } of steps) {
  console.error(`\n# ${name}`);
  const child = Bun.spawn([...command], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ["ignore", "inherit", "pipe"],
  });
  await forward(child.stderr);
  if ((await child.exited) === 0) continue;
  console.error(`\n${name}: failed`);
  code = 1;
  // Without types or an executable the rest says nothing.
  if (!name.startsWith("tests")) break;
}

console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
process.exit(code);
