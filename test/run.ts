/**
 * `npm test`: type check, lint and format, then the executable is built, and
 * every suite runs: the source's, and the compiled executable's.
 */
const steps: [string, string[]][] = [
  ["type check", ["node_modules/.bin/tsc", "--noEmit"]],
  ["lint", ["node_modules/.bin/oxlint", "--deny-warnings"]],
  ["format", [process.execPath, "fmt", "--check", "--no-script"]],
  ["build", [process.execPath, "build.ts", "--quiet"]],
  ["tests", [process.execPath, "test", ...process.argv.slice(2)]],
];

for (const [name, command] of steps) {
  console.error(`\n# ${name}`);
  const run = Bun.spawnSync(command, { cwd: `${import.meta.dir}/..`, stdio: ["ignore", "inherit", "inherit"] });
  if (run.exitCode !== 0) {
    console.error(`\n${name} failed`);
    process.exit(run.exitCode ?? 1);
  }
}
