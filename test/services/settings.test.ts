import { describe, expect, test } from "bun:test";
import { tcpTarget } from "../../src/core/address.ts";
import { fillIn, runsTheSame, type Placeholders, type ServiceSettings } from "../../src/services/settings.ts";

const WORDS: Placeholders = { host: "127.0.0.1", port: 8001, name: "django", url: "http://django.localhost:8080" };

describe("placeholders", () => {
  const table: [text: string, filled: string][] = [
    ["runserver {port}", "runserver 8001"],
    ["{host}", "127.0.0.1"],
    ["--bind {addr}", "--bind 127.0.0.1:8001"],
    ["{name}", "django"],
    ["{url}/admin", "http://django.localhost:8080/admin"],
    ["{host}:{port} {host}:{port}", "127.0.0.1:8001 127.0.0.1:8001"],
    ["{port}{name}", "8001django"],
    ["{{port}}", "{8001}"],
    ["${port}", "$8001"],
    ["", ""],
    ["no words", "no words"],
    ["{Port} {PORT} { port } {prt} {} {", "{Port} {PORT} { port } {prt} {} {"],
    ["{constructor} {__proto__} {toString}", "{constructor} {__proto__} {toString}"],
    ["awk '{print $1}' {a,b}.txt ${HOME}", "awk '{print $1}' {a,b}.txt ${HOME}"],
  ];
  for (const [text, filled] of table) {
    test(`in ${JSON.stringify(text)} give ${JSON.stringify(filled)}`, () => {
      expect(fillIn(text, WORDS)).toBe(filled);
    });
  }

  test("that have no value stay", () => {
    expect(fillIn("{host} {port} {addr} {name}", { ...WORDS, port: undefined })).toBe("127.0.0.1 {port} {addr} django");
  });

  test("are not filled in again, nor read as patterns", () => {
    expect(fillIn("{name} {url}", { ...WORDS, name: "{port}", url: "$& $1 $$" })).toBe("{port} $& $1 $$");
  });
});

const SETTINGS: ServiceSettings = {
  name: "web",
  place: { kind: "loopback", port: 8001 },
  command: "serve {port}",
  folder: "/srv",
  env: { A: "1", B: "2" },
  envFile: undefined,
  hasTerminal: false,
  tls: false,
  insecure: false,
  proxyProtocol: false,
  ready: { kind: "port" },
  readyMs: 60_000,
  settleMs: 0,
  usualMs: 0,
  idleMs: 0,
  restarts: true,
  stopMs: 5000,
  dependsOn: [],
};

describe("a process that runs would do", () => {
  const same: Partial<ServiceSettings>[] = [
    ...[{}, { readyMs: 1 }, { settleMs: 1 }, { usualMs: 1 }, { idleMs: 1 }, { restarts: false }, { stopMs: 1 }],
    ...[{ env: { A: "1", B: "2" } }, { ready: { kind: "port" } as const }, { dependsOn: [] }],
    { place: { kind: "loopback", port: 8001 } },
  ];
  for (const change of same) {
    test(`with ${JSON.stringify(change)}`, () => {
      expect(runsTheSame(SETTINGS, { ...SETTINGS, ...change })).toBe(true);
      expect(runsTheSame({ ...SETTINGS, ...change }, SETTINGS)).toBe(true);
    });
  }

  const other: Partial<ServiceSettings>[] = [
    ...[
      { place: { kind: "loopback", port: 8002 } as const },
      { place: { kind: "loopback", port: undefined } as const },
    ],
    { place: { kind: "target", target: tcpTarget("localhost", 8001) } },
    { place: { kind: "target", target: { kind: "unix", path: "/run/a" } } },
    ...[{ command: "serve  {port}" }, { command: ["serve", "{port}"] }, { command: undefined }],
    ...[{ folder: "/srv2" }, { env: {} }, { env: { A: "1", B: "3" } }, { env: { A: "1" } }, { envFile: "/srv/.env" }],
    ...[{ hasTerminal: true }, { tls: true }, { insecure: true }, { proxyProtocol: true }, { dependsOn: ["db"] }],
    ...[{ ready: { kind: "http", path: "/" } as const }, { ready: { kind: "log", text: "/" } as const }],
  ];
  for (const change of other) {
    test(`not with ${JSON.stringify(change, (_, value: unknown) => value ?? "nothing")}`, () => {
      expect(runsTheSame(SETTINGS, { ...SETTINGS, ...change })).toBe(false);
      expect(runsTheSame({ ...SETTINGS, ...change }, SETTINGS)).toBe(false);
    });
  }

  test("not with another list of the same letters", () => {
    const withWords = (...command: string[]) => ({ ...SETTINGS, command });
    expect(runsTheSame(withWords("a", "b"), withWords("a b"))).toBe(false);
    expect(runsTheSame(withWords("a", "b"), withWords("a", "b"))).toBe(true);
  });

  test("with its variables in another order", () => {
    expect(runsTheSame(SETTINGS, { ...SETTINGS, env: { B: "2", A: "1" } })).toBe(true);
  });
});
