import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { accepting, freePort, Process, TempFolder } from "./process.ts";
import { program } from "./programs.ts";
import { COMMAND } from "./seikan.ts";

/** A private OpenSSH server and how to reach it. */
export interface SshServer extends AsyncDisposable {
  readonly port: number;
  readonly folder: TempFolder;
  /** Arguments of ssh or scp up to the host, with `seikan connect` and these arguments as ProxyCommand. */
  options(...connectArgs: string[]): string[];
}

export const hasSsh = (): boolean =>
  process.getuid?.() === 0 && program("ssh") !== undefined && program("sshd") !== undefined;

export async function startSshd(): Promise<SshServer> {
  const folder = new TempFolder();
  const port = freePort();
  for (const name of ["host", "user"]) {
    Bun.spawnSync(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder.file(name)]);
  }
  copyFileSync(folder.file("user.pub"), folder.file("authorized"));
  chmodSync(folder.file("authorized"), 0o600);
  writeFileSync(
    folder.file("config"),
    [
      ...["ListenAddress 127.0.0.1", "ListenAddress ::1", `Port ${port}`, `HostKey ${folder.file("host")}`],
      ...[`AuthorizedKeysFile ${folder.file("authorized")}`, "UsePAM no", "StrictModes no", "PidFile none"],
      ...["PermitRootLogin prohibit-password", "PasswordAuthentication no", "Subsystem sftp internal-sftp"],
    ].join("\n"),
  );
  // Where sshd locks itself in before anybody has logged in.
  mkdirSync("/run/sshd", { recursive: true });
  const sshd = new Process([program("sshd")!, "-D", "-e", "-f", folder.file("config")]);
  const stop = async () => {
    sshd.kill("SIGTERM");
    await sshd.exited().catch(() => {});
    await sshd[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  };
  try {
    await accepting(port, sshd);
  } catch (error) {
    await stop();
    throw error;
  }
  const options = (...connectArgs: string[]) => [
    ...["-F", "/dev/null", "-i", folder.file("user"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"],
    ...["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"],
    ...["-o", `ProxyCommand=${[...COMMAND, "connect", "%h", "%p", ...connectArgs].join(" ")}`],
  ];
  return { port, folder, options, [Symbol.asyncDispose]: stop };
}
