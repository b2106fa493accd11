/**
 * Compiles seikan into standalone executables.
 *
 *   bun build.ts           for this platform, into dist/seikan
 *   bun build.ts --all     archives for every target, with SHA256SUMS
 */
import { chmodSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const TARGETS = [
  "linux-x64",
  "linux-arm64",
  "linux-x64-musl",
  "linux-arm64-musl",
  "darwin-x64",
  "darwin-arm64",
  "windows-x64",
  "windows-arm64",
] as const;

type Target = (typeof TARGETS)[number];

const ROOT = import.meta.dir;
const DIST = join(ROOT, "dist");
const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };

function commit(): string {
  const git = Bun.spawnSync(["git", "rev-parse", "--short=12", "HEAD"], { cwd: ROOT, stderr: "ignore" });
  return git.exitCode === 0 ? git.stdout.toString().trim() : "unknown";
}

async function compile(outfile: string, target: Target | undefined): Promise<void> {
  await Bun.build({
    entrypoints: [join(ROOT, "src/main.ts")],
    minify: true,
    sourcemap: "none",
    bytecode: true,
    // CommonJS bytecode ends consola at start.
    format: "esm",
    define: {
      "process.env.NODE_ENV": '"production"',
      SEIKAN_VERSION: JSON.stringify(version),
      SEIKAN_COMMIT: JSON.stringify(commit()),
      SEIKAN_TARGET: JSON.stringify(target ?? `${process.platform}-${process.arch}`),
    },
    compile: {
      outfile,
      // A stranger's folder must not configure us.
      autoloadDotenv: false,
      autoloadBunfig: false,
      execArgv: ["--use-system-ca"],
      ...(target === undefined ? {} : { target: `bun-${target}` as Bun.Build.CompileTarget }),
    },
  });
}

/** An executable that was broken by its build exits 0 without a word, so it must say its version. */
function smokeTest(file: string): void {
  const run = Bun.spawnSync([file, "--version"]);
  const said = run.stdout.toString().trim();
  if (run.exitCode !== 0 || said !== `seikan ${version}`) throw new Error(`${file} is broken: it says "${said}"`);
}

async function buildHere(): Promise<string> {
  const file = join(DIST, process.platform === "win32" ? "seikan.exe" : "seikan");
  await compile(file, undefined);
  smokeTest(file);
  return file;
}

async function buildAll(): Promise<void> {
  const sums: string[] = [];
  for (const target of TARGETS) {
    const name = target.startsWith("windows") ? "seikan.exe" : "seikan";
    const folder = join(DIST, `seikan-${target}`);
    mkdirSync(folder, { recursive: true });
    await compile(join(folder, name), target);
    chmodSync(join(folder, name), 0o755);
    for (const extra of ["README.md", "LICENSE", "CHANGELOG.md", "docs"]) {
      cpSync(join(ROOT, extra), join(folder, extra), { recursive: true });
    }
    const archive = pack(target);
    sums.push(`${new Bun.CryptoHasher("sha256").update(readFileSync(join(DIST, archive))).digest("hex")}  ${archive}`);
    rmSync(folder, { recursive: true });
    console.error(`built ${archive}`);
  }
  writeFileSync(join(DIST, "SHA256SUMS"), `${sums.join("\n")}\n`);
}

function pack(target: Target): string {
  const folder = `seikan-${target}`;
  const archive = target.startsWith("windows") ? `${folder}.zip` : `${folder}.tar.gz`;
  const command = target.startsWith("windows")
    ? ["zip", "-q", "-r", archive, folder]
    : ["tar", "-czf", archive, folder];
  const run = Bun.spawnSync(command, { cwd: DIST });
  if (run.exitCode !== 0) throw new Error(`${command[0]} failed: ${run.stderr}`);
  return archive;
}

mkdirSync(DIST, { recursive: true });
if (process.argv.includes("--all")) await buildAll();
else {
  const file = await buildHere();
  if (!process.argv.includes("--quiet")) console.error(`built ${file}`);
}
