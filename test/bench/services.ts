/**
 * The services section of the benchmark: how long the first request takes that
 * has to start the server, beside starting that server and asking at once.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "./peers.ts";

interface Settings {
  readonly rounds: number;
  readonly record: (name: string, peer: string, figure: number) => void;
}

/** One request on a connection of its own; undefined: nobody listens, or no whole answer came. */
async function ask(port: number, host: string): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  let text = "";
  const end = () => resolve(/^HTTP\/1\.[01] 200 /.test(text) ? text : undefined);
  Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      open: (socket) => void socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`),
      data: (_, chunk) => void (text += chunk.toString("latin1")),
      end,
      close: end,
      connectError: () => resolve(undefined),
    },
  }).catch(() => resolve(undefined));
  return promise;
}

/** Starts the server and asks again and again, as fast as that goes. */
async function startedByHand(folder: string, command: (port: number) => string[]): Promise<number> {
  const port = freePort();
  const start = performance.now();
  const child = Bun.spawn(command(port), { cwd: folder, stdin: "ignore", stdout: "ignore", stderr: "ignore" });
  while ((await ask(port, "x")) === undefined) await Bun.sleep(1);
  const elapsed = performance.now() - start;
  child.kill("SIGKILL");
  await child.exited;
  return elapsed;
}

const SERVERS: Readonly<Record<string, (port: string) => string[]>> = {
  "python http.server": (port) => ["python3", "-m", "http.server", port, "--bind", "127.0.0.1"],
  "node http": (port) => [
    "node",
    "-e",
    `require("http").createServer((_, answer) => answer.end("hello")).listen(${port}, "127.0.0.1")`,
  ],
};

export async function runServices(executable: string, { rounds, record }: Settings): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "seikan-bench-"));
  mkdirSync(join(folder, "run"), { mode: 0o700 });
  writeFileSync(join(folder, "index.html"), "hello\n");
  const port = freePort();
  const sections = Object.entries(SERVERS).map(
    ([, command], index) => `[service.s${index}]\ncommand = ${JSON.stringify(command("{port}"))}\n`,
  );
  writeFileSync(join(folder, "seikan.toml"), `[serve]\nlisten = "127.0.0.1:${port}"\n${sections.join("")}`);
  const ready = join(folder, "ready");
  const serve = Bun.spawn([executable, "serve", "--config", join(folder, "seikan.toml"), "--ready-file", ready, "-q"], {
    env: { ...process.env, XDG_RUNTIME_DIR: join(folder, "run") },
    stdio: ["ignore", "ignore", "inherit"],
  });
  while (!(await Bun.file(ready).exists())) await Bun.sleep(5);
  const token = readFileSync(join(folder, `run/seikan/serve-${serve.pid}.token`), "utf8").trim();
  const status = async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/-/services/status`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}` },
    });
    return (await answer.json()) as { services: { name: string; state: string; pid?: number }[] };
  };
  for (let round = 0; round < rounds; round++) {
    for (const [index, [name, command]] of Object.entries(SERVERS).entries()) {
      const service = `s${index}`;
      const what = `first answer of a stopped ${name} (ms)`;
      record(what, "started by hand", await startedByHand(folder, (own) => command(String(own))));
      const start = performance.now();
      if ((await ask(port, `${service}.localhost`)) === undefined) throw new Error(`${service} did not answer`);
      record(what, "seikan", performance.now() - start);
      const running = (await status()).services.find((one) => one.name === service)!;
      process.kill(running.pid!, "SIGTERM");
      while ((await status()).services.some((one) => one.name === service && one.state !== "stopped"))
        await Bun.sleep(10);
    }
  }
  serve.kill();
  await serve.exited;
  rmSync(folder, { recursive: true });
}
