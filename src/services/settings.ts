import type { Target } from "../core/address.ts";

/** Where a service listens: a port of this machine's loopback, or somewhere else. */
export type Place =
  /** Undefined: a free port, chosen for each start. */
  | { readonly kind: "loopback"; readonly port: number | undefined }
  | { readonly kind: "target"; readonly target: Target };

/** How it is known that a service takes requests. */
export type ReadySign =
  | { readonly kind: "port" }
  /** This path answers 2xx or 3xx. */
  | { readonly kind: "http"; readonly path: string }
  /** It prints a line that holds this text. */
  | { readonly kind: "log"; readonly text: string };

/** How a service is started and reached. All times in milliseconds. */
export interface ServiceSettings {
  readonly name: string;
  readonly place: Place;
  /** A text runs in a shell, a list directly; undefined: it is only reached. */
  readonly command: string | readonly string[] | undefined;
  /** Absolute. */
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
  /** A file with more of it, absolute; read at each start. */
  readonly envFile: string | undefined;
  readonly hasTerminal: boolean;
  /** It speaks TLS. */
  readonly tls: boolean;
  /** Any certificate is good. */
  readonly insecure: boolean;
  /** It wants a PROXY header (version 2) in front of each connection. */
  readonly proxyProtocol: boolean;
  readonly ready: ReadySign;
  readonly readyMs: number;
  /** Waited after the sign, for servers that give it too early. */
  readonly settleMs: number;
  /** How long a start usually takes, for people; 0: nobody said. */
  readonly usualMs: number;
  /** Without use for so long it is stopped; 0: never. */
  readonly idleMs: number;
  readonly restarts: boolean;
  /** Between SIGTERM and SIGKILL. */
  readonly stopMs: number;
  /** Services that must be ready first. */
  readonly dependsOn: readonly string[];
}

/** What is put into commands and environments. */
export interface Placeholders {
  /** The address to bind. */
  readonly host: string;
  readonly port: number | undefined;
  readonly name: string;
  readonly url: string;
}

/** Replaces `{port}`, `{host}`, `{addr}`, `{name}` and `{url}`; anything else in braces stays. */
export function fillIn(text: string, { host, port, name, url }: Placeholders): string {
  const known: Readonly<Record<string, string | undefined>> = {
    ...{ host, name, url },
    ...(port !== undefined && { port: String(port), addr: `${host}:${port}` }),
  };
  return text.replace(/\{(host|port|addr|name|url)\}/g, (whole, word: string) => known[word] ?? whole);
}

/** Whether a process that runs with the one would do for the other. */
export function runsTheSame(a: ServiceSettings, b: ServiceSettings): boolean {
  const process = (settings: ServiceSettings) => {
    const { place, command, folder, env, envFile, hasTerminal, tls, insecure, proxyProtocol, ready, dependsOn } =
      settings;
    const spoken = [tls, insecure, proxyProtocol];
    const sorted = Object.entries(env).toSorted(([one], [other]) => (one < other ? -1 : 1));
    return JSON.stringify([place, command, folder, sorted, envFile, hasTerminal, spoken, ready, dependsOn]);
  };
  return process(a) === process(b);
}
