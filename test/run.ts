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
// Files side by side, a process for each core: most of the time is waiting.
const SIDE_BY_SIDE = ["--parallel", ...TIMEOUT];
// More files than these are no accident.
const AGAIN_AT_MOST = 3;
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
    command: [process.execPath, "test", ...SIDE_BY_SIDE, ...(asked.length > 0 ? asked : sourceSuites())],
  },
  {
    name: "tests of the compiled executable",
    command: [process.execPath, "test", ...SIDE_BY_SIDE, ...(asked.length > 0 ? asked : ["test/e2e"])],
    env: { SEIKAN_EXECUTABLE: EXECUTABLE },
  },
];

const RESULT = /^\((pass|fail|skip|todo)\) /;

/** A test that failed: where it is, and what the runner said of it. */
interface Failure {
  readonly file: string;
  readonly told: string;
}

/** What one run of the test runner came to. */
class Tally {
  passed = 0;
  failed = 0;
  skipped = 0;
  readonly failures: Failure[] = [];
  #file = "";
  #told: string[] = [];

  read(line: string): void {
    const [, count, what] = /^\s*(\d+) (pass|fail|skip)$/.exec(line) ?? [];
    if (what === "pass") this.passed += Number(count);
    else if (what === "fail") this.failed += Number(count);
    else if (what === "skip") this.skipped += Number(count);
    else if (/^test[\\/].*\.test\.ts:$/.test(line)) [this.#file, this.#told] = [line.slice(0, -1), []];
    // At its end the runner lists once more what failed.
    else if (/^\d+ tests? failed:$/.test(line)) this.#file = "";
    else this.#readOutput(line);
  }

  #readOutput(line: string): void {
    this.#told.push(line);
    const [, result] = RESULT.exec(line) ?? [];
    if (result === undefined) return;
    if (result === "fail" && this.#file !== "") this.failures.push({ file: this.#file, told: this.#told.join("\n") });
    this.#told = [];
  }
}

/** Runs a step, and passes its output on while it reads it. */
async function run(command: readonly string[], env: Step["env"]): Promise<{ code: number; tally: Tally }> {
  const child = Bun.spawn([...command], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ["ignore", "inherit", "pipe"],
  });
  const tally = new Tally();
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of child.stderr) {
    process.stderr.write(chunk);
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    // oxlint-disable-next-line no-control-regex
    for (const line of lines) tally.read(line.replace(/\x1b\[\d*m/g, ""));
  }
  return { code: await child.exited, tally };
}

const total = new Tally();
const lines: string[] = [];

/**
 * A few failures among thousands of tests may be the machine's: their files run
 * once more, alone. What passes then is told as such, and what fails again counts.
 */
async function again({ env }: Step, first: Tally): Promise<boolean> {
  const files = [...new Set(first.failures.map((failure) => failure.file))];
  if (files.length > AGAIN_AT_MOST || first.failures.length !== first.failed) return false;
  console.error(`\n# once more: ${files.join(" ")}`);
  const { code, tally } = await run([process.execPath, "test", ...TIMEOUT, ...files.map((file) => `./${file}`)], env);
  if (code !== 0) return false;
  for (const { told } of first.failures) lines.push(`failed at first, passed alone:\n${told}`);
  return tally.passed > 0;
}

let code = 0;
for (const step of steps) {
  console.error(`\n# ${step.name}`);
  const { code: ended, tally } = await run(step.command, step.env);
  total.passed += tally.passed;
  total.skipped += tally.skipped;
  if (ended === 0) continue;
  if (tally.failed > 0 && (await again(step, tally))) {
    total.passed += tally.failed;
    continue;
  }
  total.failed += tally.failed;
  for (const { told } of tally.failures) lines.push(told);
  lines.push(`${step.name}: failed`);
  code = 1;
  // Without types or an executable the rest says nothing.
  if (!step.name.startsWith("tests")) break;
}

for (const line of lines) console.log(`\n${line}`);
const { passed, failed, skipped } = total;
console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
process.exit(code);
