import { SeikanError } from "../core/errors.ts";

const ANSWER_MS = 30_000;

/** Runs a shell command and returns the first line it prints. What it prints is never shown. */
export async function askCommand(command: string, env: Record<string, string>): Promise<string> {
  const shell = process.platform === "win32" ? ["cmd", "/d", "/s", "/c", command] : ["/bin/sh", "-c", command];
  const child = Bun.spawn(shell, { env, stdin: "ignore", stdout: "pipe", stderr: "inherit", timeout: ANSWER_MS });
  const [output, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  const line = output.split(/\r?\n/, 1)[0]!.trim();
  if (code === 0 && line !== "") return line;
  throw new SeikanError(
    "hop-auth",
    `--proxy-auth-command ${code === 0 ? "printed nothing" : `ended with code ${code}`}`,
  );
}
