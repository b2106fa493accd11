import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatTarget, tcpTarget, type Target } from "../../src/core/address.ts";
import { SeikanError } from "../../src/core/errors.ts";
import { isAbsent, ServiceAddress, type Spoken } from "../../src/services/address.ts";
import type { Place } from "../../src/services/settings.ts";
import { directDialer } from "../../src/transports/direct.ts";
import { freePort } from "../../src/transports/free-port.ts";
import { listen } from "../../src/transports/tcp.ts";
import type { Dialer } from "../../src/transports/transport.ts";
import { serverNameOf } from "../../src/wire/client-hello.ts";
import { certificateFor } from "../support/certificates.ts";
import { soon } from "../support/pairs.ts";
import { runProgram } from "../support/seikan.ts";
import { askOver, failureOf } from "../support/service-host.ts";
import { Recorder, reset, within } from "../support/wait.ts";

const folder = mkdtempSync(join(tmpdir(), "seikan-address-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A server on this address that answers with a name. */
function server(hostname: string, name: string, port = 0) {
  const started = Bun.serve({ hostname, port, fetch: () => new Response(name) });
  return { port: started.port!, end: () => started.stop(true), [Symbol.dispose]: () => void started.stop(true) };
}

/** An address whose dials are written down. */
class Asked {
  readonly targets: string[] = [];
  readonly address: ServiceAddress;
  readonly #direct: Dialer;

  constructor(place: Place | number, changes: Partial<Spoken> = {}, resolve = new Map<string, string>()) {
    this.#direct = directDialer({ resolve });
    const spoken = { tls: false, insecure: false, proxyProtocol: false, ...changes };
    const direct: Dialer = (target, options) => {
      this.targets.push(formatTarget(target));
      return this.#direct(target, options);
    };
    this.address =
      typeof place === "number"
        ? new ServiceAddress({ kind: "loopback", port: place }, place, direct, spoken)
        : new ServiceAddress(place, undefined, direct, spoken);
  }

  async ask(): Promise<string> {
    return askOver(await this.address.dial({ deadline: soon() }), "/");
  }

  failure(permit?: () => void): Promise<SeikanError> {
    return failureOf(this.address.dial({ deadline: soon(), ...(permit && { permit }) }));
  }

  /** What was dialled since this was asked last. */
  get since(): string[] {
    return this.targets.splice(0);
  }
}

const at = (target: Target): Place => ({ kind: "target", target });

describe("a port of this machine", () => {
  test("is found on IPv4", async () => {
    using web = server("127.0.0.1", "four");
    const asked = new Asked(web.port);
    expect([await asked.ask(), asked.since]).toEqual(["four", [`127.0.0.1:${web.port}`]]);
  });

  test("is found on IPv6, and looked for there first from then on", async () => {
    using web = server("::1", "six");
    const [four, six] = [`127.0.0.1:${web.port}`, `[::1]:${web.port}`];
    const asked = new Asked(web.port);
    expect([await asked.ask(), asked.since, asked.address.name]).toEqual(["six", [four, six], six]);
    expect([await asked.ask(), await asked.ask(), asked.since]).toEqual(["six", "six", [six, six]]);
  });

  test("is found where it moves to, and remembered there", async () => {
    const web = server("::1", "six");
    const [four, six] = [`127.0.0.1:${web.port}`, `[::1]:${web.port}`];
    const asked = new Asked(web.port);
    expect([await asked.ask(), asked.since]).toEqual(["six", [four, six]]);
    await web.end();
    using _moved = server("127.0.0.1", "four", web.port);
    expect([await asked.ask(), asked.since]).toEqual(["four", [six, four]]);
    expect([await asked.ask(), asked.since]).toEqual(["four", [four]]);
  });

  test("is remembered by many dials at once as by one", async () => {
    using web = server("::1", "six");
    const asked = new Asked(web.port);
    await Promise.all([asked.ask(), asked.ask()]);
    expect(asked.since).toHaveLength(4);
    expect([await asked.ask(), asked.since]).toEqual(["six", [`[::1]:${web.port}`]]);
  });

  test("where nobody listens is refused on both, and told by the first", async () => {
    const port = freePort();
    const asked = new Asked(port);
    const error = await asked.failure();
    expect([error.code, error.message]).toEqual(["connect-refused", `connection refused by 127.0.0.1:${port}`]);
    expect([isAbsent(error), asked.since]).toEqual([true, [`127.0.0.1:${port}`, `[::1]:${port}`]]);
  });

  test("that cannot be dialled for another reason is not looked for elsewhere", async () => {
    using web = server("::1", "six");
    const asked = new Asked(web.port);
    const denial = new SeikanError("address-denied", "not this one");
    const error = await asked.failure(() => {
      throw denial;
    });
    expect([error, isAbsent(error), asked.since]).toEqual([denial, false, [`127.0.0.1:${web.port}`]]);
  });

  test("that is not known yet is refused without a dial", async () => {
    const asked = new Asked({ kind: "loopback", port: undefined });
    const error = await asked.failure();
    expect([error.code, error.message, isAbsent(error)]).toEqual(["connect-refused", "it has no port yet", true]);
    expect([asked.since, asked.address.name]).toEqual([[], "no port yet"]);
  });

  test("has a name", () => {
    expect(new Asked(8001).address.name).toBe("127.0.0.1:8001");
  });
});

describe("a free port", () => {
  test("is free on both loopbacks, and another one each time", () => {
    const ports = Array.from({ length: 20 }, freePort);
    for (const port of ports) {
      using _four = server("127.0.0.1", "four", port);
      using _six = server("::1", "six", port);
    }
    expect(new Set(ports).size).toBeGreaterThan(1);
  });
});

describe("a unix socket", () => {
  const path = join(folder, "app.sock");

  test("is dialled", async () => {
    const web = Bun.serve({ unix: path, fetch: () => new Response("unix") });
    const asked = new Asked(at({ kind: "unix", path }));
    expect([await asked.ask(), asked.since, asked.address.name]).toEqual(["unix", [`unix:${path}`], `unix:${path}`]);
    await web.stop(true);
  });

  test("that is not there is absent", async () => {
    const asked = new Asked(at({ kind: "unix", path: join(folder, "none.sock") }));
    const error = await asked.failure();
    expect([error.code, isAbsent(error)]).toEqual(["connect-failed", true]);
    expect(error.message).toBe(`cannot connect to unix:${join(folder, "none.sock")}: ENOENT`);
  });

  test("that was left behind is refused", async () => {
    const left = join(folder, "left.sock");
    const code = `Bun.listen({ unix: ${JSON.stringify(left)}, socket: { data() {} } }); process.kill(process.pid, "SIGKILL");`;
    await runProgram([process.execPath, "-e", code]);
    expect(existsSync(left)).toBe(true);
    const error = await new Asked(at({ kind: "unix", path: left })).failure();
    expect([error.code, isAbsent(error)]).toEqual(["connect-refused", true]);
  });
});

describe("another place", () => {
  test("is dialled by its name, on no loopback besides", async () => {
    using web = server("127.0.0.1", "four");
    const asked = new Asked(at(tcpTarget("127.0.0.1", web.port)));
    expect([await asked.ask(), asked.since]).toEqual(["four", [`127.0.0.1:${web.port}`]]);
    expect(new Asked(at(tcpTarget("10.0.0.1", 80))).address.name).toBe("10.0.0.1:80");
    expect(new Asked(at(tcpTarget("fd00::1", 80))).address.name).toBe("[fd00::1]:80");
  });

  test("with a name that nobody knows is not absent", async () => {
    const error = await new Asked(at(tcpTarget("no-such-host.invalid", 80))).failure();
    expect([error.code, isAbsent(error)]).toEqual(["name-not-found", false]);
  });
});

describe("TLS to a service", () => {
  const certificate = certificateFor("other.test");

  function secure(hostname: string) {
    const { cert, key } = certificate;
    const started = Bun.serve({ hostname, port: 0, tls: { cert, key }, fetch: () => new Response("secure") });
    return { port: started.port!, [Symbol.dispose]: () => void started.stop(true) };
  }

  for (const hostname of ["127.0.0.1", "::1"]) {
    test(`is spoken with any certificate where that is wanted, at ${hostname}`, async () => {
      using web = secure(hostname);
      expect(await new Asked(web.port, { tls: true, insecure: true }).ask()).toBe("secure");
    });

    test(`is refused with a certificate that nobody trusts, at ${hostname}`, async () => {
      using web = secure(hostname);
      const error = await new Asked(web.port, { tls: true }).failure();
      expect([error.code, isAbsent(error)]).toEqual(["tls-certificate", false]);
    });
  }

  test("with a server that speaks none fails, and it is not absent", async () => {
    using web = server("127.0.0.1", "plain");
    const error = await new Asked(web.port, { tls: true }).failure();
    expect([error.code, isAbsent(error)]).toEqual(["tls-failed", false]);
  });

  test("with a server that speaks none fails also where any certificate would do", async () => {
    using web = server("127.0.0.1", "plain");
    expect((await new Asked(web.port, { tls: true, insecure: true }).failure()).code).toBe("tls-failed");
  });

  test("where nobody listens is a refusal", async () => {
    expect((await new Asked(freePort(), { tls: true, insecure: true }).failure()).code).toBe("connect-refused");
  });

  const names: [what: string, place: (port: number) => Place | number, name: string][] = [
    ["a port of this machine", (port) => port, "localhost"],
    ["127.0.0.1", (port) => at(tcpTarget("127.0.0.1", port)), "localhost"],
    ["localhost", (port) => at(tcpTarget("localhost", port)), "localhost"],
    ["another name", (port) => at(tcpTarget("app.test", port)), "app.test"],
  ];
  for (const [what, place, name] of names) {
    test(`asks for ${name} where the service is at ${what}`, async () => {
      const hello = Promise.withResolvers<string>();
      const listener = listen({ kind: "tcp", host: "localhost", port: 0 }, (stream) => {
        const recorder = new Recorder(stream, false);
        recorder.onChunk = () => {
          const found = serverNameOf(recorder.bytes);
          if (found === undefined) return;
          hello.resolve(found);
          stream.abort(reset());
        };
        stream.attach(recorder);
      });
      const known = new Map([[`app.test:${listener.port}`, "127.0.0.1"]]);
      const failure = new Asked(place(listener.port!), { tls: true, insecure: true }, known).failure();
      expect(await within(hello.promise, "the hello")).toBe(name);
      expect((await failure).code).not.toBe("connect-refused");
      listener.close();
    });
  }
});

describe("a PROXY header", () => {
  const source = { address: "192.0.2.7", port: 5000 };

  /** What the service hears first: from a dial for this source. */
  async function heard(changes: Partial<Spoken>, length: number, from?: typeof source): Promise<Buffer> {
    const first = Promise.withResolvers<Buffer>();
    const listener = listen({ kind: "tcp", host: "localhost", port: 0 }, (stream) => {
      const recorder = new Recorder(stream);
      void recorder.received(length).then(() => first.resolve(recorder.bytes));
    });
    const { address } = new Asked(listener.port!, changes);
    const stream = await address.dial({ deadline: soon(), ...(from && { source: from }) });
    stream.write(Buffer.from("GET /"));
    const bytes = await within(first.promise, "the first bytes");
    stream.abort(reset());
    listener.close();
    return bytes;
  }

  const signature = "0d0a0d0a000d0a515549540a";

  test("names the visitor where the service wants it", async () => {
    const bytes = await heard({ proxyProtocol: true }, 33, source);
    expect(bytes.subarray(0, 12).toString("hex")).toBe(signature);
    // PROXY, TCP over IPv4, 12 bytes; the visitor's address and port are the first of the pairs.
    expect([...bytes.subarray(12, 20)]).toEqual([0x21, 0x11, 0, 12, 192, 0, 2, 7]);
    expect([bytes.readUInt16BE(24), bytes.subarray(28).toString()]).toEqual([5000, "GET /"]);
  });

  test("names nobody where nobody asked", async () => {
    const bytes = await heard({ proxyProtocol: true }, 21);
    expect(bytes.subarray(0, 16).toString("hex")).toBe(`${signature}20000000`);
    expect(bytes.subarray(16).toString()).toBe("GET /");
  });

  test("is not there where nobody wants it", async () => {
    expect((await heard({}, 5, source)).toString()).toBe("GET /");
  });
});

describe("a process without descriptors", () => {
  test.skipIf(process.platform === "win32")("does not take that for a service that is not there", async () => {
    const source = (name: string) => JSON.stringify(join(import.meta.dir, "../../src", name));
    const code = `
      import { openSync } from "node:fs";
      import { isAbsent, ServiceAddress } from ${source("services/address.ts")};
      import { directDialer } from ${source("transports/direct.ts")};
      const place = { kind: "loopback", port: ${freePort()} };
      const unix = { kind: "target", target: { kind: "unix", path: "/no/such/socket" } };
      const told = async (where, port) => {
        const address = new ServiceAddress(where, port, directDialer({}), {});
        const error = await address.dial({ deadline: performance.now() + 5000 }).catch((error) => error);
        return [error.code, isAbsent(error)];
      };
      const before = await told(place, place.port);
      try { for (;;) openSync("/dev/null", "r"); } catch {}
      console.log(JSON.stringify([before, await told(place, place.port), await told(unix)]));
      process.exit(0);
    `;
    const outcome = await runProgram(["/bin/sh", "-c", 'ulimit -n 128 && exec "$0" -e "$1"', process.execPath, code]);
    expect(outcome).toEqual({
      ...{ code: 0, stderr: "" },
      stdout: `${JSON.stringify([
        ["connect-refused", true],
        ["limit-reached", false],
        ["limit-reached", false],
      ])}\n`,
    });
  });
});
