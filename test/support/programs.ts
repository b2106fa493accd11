import { afterAll } from "bun:test";
import { existsSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Debian packages of the programs that tests use, by program. */
const PACKAGES: Readonly<Record<string, string>> = {
  curl: "curl",
  git: "git",
  wget: "wget",
  ssh: "openssh-client",
  sshd: "openssh-server",
  squid: "squid-openssl",
  tinyproxy: "tinyproxy",
  socat: "socat",
  ncat: "ncat",
  proxytunnel: "proxytunnel",
  corkscrew: "corkscrew",
  "connect-proxy": "connect-proxy",
  htpasswd: "apache2-utils",
  python3: "python3",
  npm: "npm",
  chromium: "chromium",
  haproxy: "haproxy",
  nginx: "nginx-light",
  websockify: "websockify",
  dig: "bind9-dnsutils",
  prlimit: "util-linux",
  setsid: "util-linux",
  node: "nodejs",
  openssl: "openssl",
  postgres: "postgresql",
  initdb: "postgresql",
  psql: "postgresql-client",
};

/** Also what Debian keeps off the PATH. */
function searchPath(): string {
  const postgres = [...new Bun.Glob("usr/lib/postgresql/*/bin/initdb").scanSync({ cwd: "/", absolute: true })];
  const folders = postgres.toSorted().map((path) => path.replace(/\/initdb$/, ""));
  return [process.env.PATH, "/usr/sbin", "/sbin", "/usr/local/sbin", ...folders.reverse()].join(":");
}

const skipped = new Map<string, string>();
let aptUpdated = false;

/** The program's path; installed if need be. Undefined where that is impossible: the skip is told loudly. */
export function program(name: string): string | undefined {
  const found = Bun.which(name, { PATH: searchPath() });
  if (found !== null) return found;
  install(PACKAGES[name] ?? name);
  const installed = Bun.which(name, { PATH: searchPath() });
  if (installed === null) skipped.set(name, `${name} is not here and could not be installed`);
  return installed ?? undefined;
}

/** A Python that has this module: Debian's own has Debian's packages, another one on PATH has not. */
export function pythonWith(module: string): string | undefined {
  if (program("python3") === undefined) return undefined;
  const find = () =>
    ["python3", "/usr/bin/python3"].find((python) => {
      return (
        Bun.which(python, { PATH: searchPath() }) !== null && Bun.spawnSync([python, "-c", `import ${module}`]).success
      );
    });
  const found = find();
  if (found !== undefined) return found;
  install(`python3-${module}`);
  const installed = find();
  if (installed === undefined) skipped.set(module, `Python's ${module} is not here and could not be installed`);
  return installed;
}

/**
 * The `node_modules` folder of an npm package that is too large to depend on; installed once, below the
 * system's temporary folder. Undefined where that is impossible: the skip is told loudly.
 */
export function npmPackage(name: string, version: string): string | undefined {
  const npm = program("npm");
  const folder = join(tmpdir(), `seikan-npm-${name}-${version}`);
  const modules = join(folder, "node_modules");
  if (existsSync(modules)) return modules;
  if (npm === undefined) return undefined;
  // Another run may be at it, too: whoever is first moves it into place.
  const fresh = mkdtempSync(`${folder}-`);
  const words = ["install", "--prefix", fresh, "--no-audit", "--no-fund", `${name}@${version}`];
  const run = Bun.spawnSync([npm, ...words], { cwd: fresh, timeout: 60_000 });
  if (run.success && !existsSync(folder)) renameSync(fresh, folder);
  else rmSync(fresh, { recursive: true, force: true });
  if (existsSync(modules)) return modules;
  skipped.set(name, `${name} could not be installed: ${run.stderr.toString().trim()}`);
  return undefined;
}

function install(packageName: string): void {
  if (process.platform !== "linux" || process.getuid?.() !== 0 || Bun.which("apt-get") === null) return;
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const apt = (...args: string[]) =>
    Bun.spawnSync(["apt-get", "-qq", "-y", "--no-install-recommends", ...args], { env });
  if (!aptUpdated) apt("update");
  aptUpdated = true;
  // Services must not start: tests run their own.
  apt("-o", "Dpkg::Options::=--force-confold", "install", packageName);
}

afterAll(() => {
  for (const reason of skipped.values()) console.error(`\n!!! SKIPPED: ${reason}\n`);
  skipped.clear();
});
