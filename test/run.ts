/**
 * `npm test`: type check, lint and format, then the executable is built, and
 * every suite runs: the source's, and the compiled executable's.
 */
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const EXECUTABLE = join(ROOT, "dist", process.platform === "win32" ? "seikan.exe" : "seikan");
// A test may wait for what must happen; `within` says what did not.
const TIMEOUT = ["--timeout", "60000"];
const asked = process.argv.slice(2);

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
  { name: "tests of the source", command: [process.execPath, "test", ...TIMEOUT, ...asked] },
  {
    name: "tests of the compiled executable",
    command: [process.execPath, "test", ...TIMEOUT, ...(asked.length > 0 ? asked : ["test/e2e"])],
    env: { SEIKAN_EXECUTABLE: EXECUTABLE },
  },
];

for (const { name, command, env } of steps) {
  console.error(`\n# ${name}`);
  const run = Bun.spawnSync([...command], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (run.exitCode !== 0) {
    console.error(`\n${name} failed`);
    process.exit(run.exitCode ?? 1);
  }
}
