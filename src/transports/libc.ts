import { dlopen, type FFIFunction } from "bun:ffi";

const LIBRARIES: Readonly<Partial<Record<NodeJS.Platform, readonly string[]>>> = {
  darwin: ["libSystem.B.dylib"],
  // glibc, or musl.
  linux: ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`],
};

/** A function of the system's C library, for what Bun's sockets do not offer; undefined where it cannot be had. */
export function libcFunction<F>(name: string, signature: FFIFunction): F | undefined {
  for (const library of LIBRARIES[process.platform] ?? []) {
    try {
      return dlopen(library, { [name]: signature }).symbols[name] as F;
    } catch {
      continue;
    }
  }
  return undefined;
}
