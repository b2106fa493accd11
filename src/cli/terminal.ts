import { writeSync } from "node:fs";
import { isatty } from "node:tty";

/** Writes to a descriptor now. A reader that has gone is no error: there is nobody to tell. */
export function writeTo(fd: 1 | 2, text: string): void {
  let bytes: Uint8Array = Buffer.from(text, "utf8");
  for (let tries = 0; bytes.length > 0 && tries < 1000; tries++) {
    try {
      bytes = bytes.subarray(writeSync(fd, bytes));
    } catch (error) {
      const code = (error as { code?: string }).code;
      if (code !== "EAGAIN") return;
      Bun.sleepSync(1);
    }
  }
}

/** Colours for this descriptor: NO_COLOR and FORCE_COLOR (no-color.org) win over what it is. */
export function usesColor(fd: 1 | 2, env: Readonly<Record<string, string | undefined>>): boolean {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== "") return false;
  if (env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== "" && env.FORCE_COLOR !== "0") return true;
  return isatty(fd) && env.TERM !== "dumb";
}

/** Makes bytes from peers harmless to a terminal and to a log: controls are escaped. */
export function escapeControls(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (char) => {
    const code = char.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
}

const STYLES = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, blue: 34, cyan: 36 } as const;

export type Paint = (style: keyof typeof STYLES, text: string) => string;

export function painter(on: boolean): Paint {
  return (style, text) => (on ? `\x1b[${STYLES[style]}m${text}\x1b[0m` : text);
}

export function terminalWidth(fd: 1 | 2): number {
  const columns = isatty(fd) ? (fd === 1 ? process.stdout.columns : process.stderr.columns) : undefined;
  return Math.min(Math.max(columns ?? 80, 40), 100);
}
