/** Baked in by build.ts; a run from source says so. */
declare const SEIKAN_VERSION: string | undefined;
declare const SEIKAN_COMMIT: string | undefined;
declare const SEIKAN_TARGET: string | undefined;

export const VERSION: string = typeof SEIKAN_VERSION === "string" ? SEIKAN_VERSION : "0.0.0-source";

export function versionLine(): string {
  return `seikan ${VERSION}`;
}

export function versionJson(): string {
  const commit = typeof SEIKAN_COMMIT === "string" ? SEIKAN_COMMIT : "unknown";
  const target = typeof SEIKAN_TARGET === "string" ? SEIKAN_TARGET : `${process.platform}-${process.arch}`;
  return JSON.stringify({ name: "seikan", version: VERSION, commit, target, bun: Bun.version });
}
