import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { tcpTarget } from "../../src/core/address.ts";
import { SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import { AgentRegistry } from "../../src/routes/agent-registry.ts";
import { isNavigation, ServiceSites, type ServiceHosting } from "../../src/routes/service-sites.ts";
import { SiteDirectory } from "../../src/routes/site-directory.ts";
import { OPEN_POLICY, type Reached, type Site, type Visitor } from "../../src/routes/sites.ts";
import type { ServiceSettings } from "../../src/services/settings.ts";
import { freePort } from "../../src/transports/free-port.ts";
import type { RequestHead } from "../../src/wire/http1.ts";
import { soon } from "../support/pairs.ts";
import { askOver, failureOf, ServiceHall } from "../support/service-host.ts";
import { dev } from "../support/services.ts";
import { reset, until, within } from "../support/wait.ts";

/** Nothing starts: the failure tells that it was tried. */
const BROKEN: Partial<ServiceSettings> = { command: ["./no-such-command"] };
const VISITOR: Visitor = {
  ...{ address: "127.0.0.1", port: 5000, isSecure: false, host: "web.localhost:8080", member: undefined },
};

function head(method = "GET", ...fields: string[]): RequestHead {
  const named = ["Host", "web.localhost:8080", ...fields];
  return { method, target: "/", minor: 1, fields: named, keepAlive: true, framing: 0 };
}

/** Services by name, each found at these places. */
class Sited implements AsyncDisposable {
  readonly hall: ServiceHall;
  readonly sites = new ServiceSites();

  constructor(places: Readonly<Record<string, Partial<ServiceHosting>>>, settings: Partial<ServiceSettings> = BROKEN) {
    this.hall = new ServiceHall(Object.keys(places).map((name) => ({ ...settings, name })));
    this.host(places);
  }

  host(places: Readonly<Record<string, Partial<ServiceHosting>>>): void {
    this.sites.update(
      Object.entries(places).map(([name, place]) => ({
        service: this.hall.service(name),
        hosting: { hosts: [`${name}.localhost`], path: "/", isPublic: false, ...place },
      })),
    );
  }

  /** Which service this is. */
  at(host: string, path: string | undefined = "/", exposed = false): string | undefined {
    return nameOf(this.sites.find(host, { path, exposed }));
  }

  site(name = "web", exposed = false): Site {
    return this.sites.find(`${name}.localhost`, { path: "/", exposed })!;
  }

  reach(request: RequestHead, site = this.site()): Promise<Reached> {
    return site.reach(
      VISITOR,
      soon(),
      () => {},
      request,
      () => {},
    );
  }

  async failure(request: RequestHead, site = this.site()): Promise<SeikanError> {
    return failureOf(this.reach(request, site));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.hall[Symbol.asyncDispose]();
  }
}

function nameOf(site: Site | undefined): string | undefined {
  const visit = site?.begin("");
  visit?.end();
  return visit?.way?.service;
}

describe("a service is found", () => {
  test("by each of its hosts, and by no other", async () => {
    await using sited = new Sited({ web: { hosts: ["web.localhost", "www.test"] }, api: {} });
    expect(["web.localhost", "www.test", "api.localhost"].map((host) => sited.at(host))).toEqual(["web", "web", "api"]);
    for (const host of ["localhost", "a.web.localhost", "xweb.localhost", "web.localhost.test", "test", "*.localhost"])
      expect([host, sited.at(host), sited.sites.has(host)]).toEqual([host, undefined, false]);
    expect(sited.sites.has("www.test")).toBe(true);
  });

  const wildcards: [host: string, name: string | undefined][] = [
    ["web.localhost", "exact"],
    ["a.web.localhost", "below"],
    ["a.b.web.localhost", "below"],
    ["deep.a.web.localhost", "deeper"],
    ["x.deep.a.web.localhost", "deeper"],
    ["other.localhost", "all"],
    ["a.other.localhost", "all"],
    ["localhost", undefined],
    ["web.test", undefined],
    ["weblocalhost", undefined],
  ];
  for (const [host, name] of wildcards) {
    test(`at ${host}: ${name ?? "none"}`, async () => {
      await using sited = new Sited({
        all: { hosts: ["*.localhost"] },
        below: { hosts: ["*.web.localhost"] },
        deeper: { hosts: ["*.a.web.localhost"] },
        exact: { hosts: ["web.localhost"] },
      });
      // `*.a.web.localhost` is no host of its own label.
      expect([sited.at(host), sited.sites.has(host)]).toEqual([name, name !== undefined]);
      expect(sited.at("a.web.localhost")).toBe("below");
    });
  }

  const paths: [path: string | undefined, name: string][] = [
    ["/", "root"],
    ["/index.html", "root"],
    ["/api", "api"],
    ["/api/", "api"],
    ["/api/users", "api"],
    ["/api?page=2", "api"],
    ["/apis", "root"],
    ["/API", "root"],
    ["/x/api", "root"],
    ["/?/api", "root"],
    ["/api/v2", "v2"],
    ["/api/v2/users", "v2"],
    ["/api/v20", "api"],
    ["/static", "root"],
    ["/static/", "files"],
    ["/static/a.css", "files"],
    ["*", "root"],
    [undefined, "files"],
  ];
  for (const [path, name] of paths) {
    test(`at ${path ?? "a host whatever the path"}: ${name}`, async () => {
      const hosts = ["web.localhost"];
      await using sited = new Sited({
        root: { hosts },
        v2: { hosts, path: "/api/v2" },
        api: { hosts, path: "/api" },
        files: { hosts, path: "/static/" },
      });
      expect(nameOf(sited.sites.find("web.localhost", { path, exposed: false }))).toBe(name);
    });
  }

  test("below a wildcard where the exact host has not that path", async () => {
    await using sited = new Sited({
      api: { hosts: ["web.localhost"], path: "/api" },
      all: { hosts: ["*.localhost"] },
    });
    expect([sited.at("web.localhost", "/api/x"), sited.at("web.localhost", "/x")]).toEqual(["api", "all"]);
  });

  test("nowhere where its host has other paths only", async () => {
    await using sited = new Sited({ api: { hosts: ["web.localhost"], path: "/api" } });
    expect([sited.at("web.localhost", "/x"), sited.at("web.localhost", "/api")]).toEqual([undefined, "api"]);
    expect(sited.sites.has("web.localhost")).toBe(true);
  });

  test("from outside only if it is public", async () => {
    await using sited = new Sited({
      web: {},
      open: { isPublic: true },
      all: { hosts: ["*.localhost"], isPublic: true },
    });
    expect(["web.localhost", "open.localhost", "x.localhost"].map((host) => sited.at(host, "/", true))).toEqual([
      ...[undefined, "open", "all"],
    ]);
    expect(["web.localhost", "open.localhost", "x.localhost"].map((host) => sited.at(host))).toEqual([
      "web",
      "open",
      "all",
    ]);
  });

  test("where it is now, and not where it was", async () => {
    await using sited = new Sited({ web: { hosts: ["a.localhost"] }, api: { hosts: ["b.localhost"] } });
    expect([sited.at("a.localhost"), sited.at("b.localhost"), sited.sites.isEmpty]).toEqual(["web", "api", false]);
    sited.host({ api: { hosts: ["a.localhost"] } });
    expect([sited.at("a.localhost"), sited.at("b.localhost"), sited.sites.has("b.localhost")]).toEqual([
      ...["api", undefined, false],
    ]);
    sited.host({});
    expect([sited.at("a.localhost"), sited.sites.isEmpty]).toEqual([undefined, true]);
  });

  test("and changes nothing of what visitors ask", async () => {
    await using sited = new Sited({ web: {} });
    expect(sited.site().policy).toBe(OPEN_POLICY);
  });
});

describe("a navigation", () => {
  const HTML = ["Accept", "text/html,application/xhtml+xml,*/*;q=0.8"];
  const table: [what: string, method: string, fields: string[], expected: boolean][] = [
    ["of a browser", "GET", ["Sec-Fetch-Mode", "navigate", ...HTML], true],
    ["that says so, whatever it takes", "GET", ["sec-fetch-mode", "navigate", "Accept", "*/*"], true],
    ["of an older browser", "GET", HTML, true],
    ["of an older browser that names HTML late", "GET", ["accept", "application/json, text/html"], true],
    ["is no request of a script", "GET", ["Sec-Fetch-Mode", "cors", ...HTML], false],
    ["is no request of a script on its own site", "GET", ["Sec-Fetch-Mode", "same-origin", ...HTML], false],
    ["is no image", "GET", ["Sec-Fetch-Mode", "no-cors", ...HTML], false],
    ["is no WebSocket", "GET", ["Sec-Fetch-Mode", "websocket", "Upgrade", "websocket", ...HTML], false],
    ["is no WebSocket of an older browser", "GET", ["Upgrade", "websocket", ...HTML], false],
    ["is no request that takes anything", "GET", ["Accept", "*/*"], false],
    ["is no request that takes JSON", "GET", ["Accept", "application/json"], false],
    ["is no request for something like HTML", "GET", ["Accept", "text/htmlx, x-text/htm"], false],
    ["is no request that says nothing", "GET", [], false],
    ["is no form", "POST", ["Sec-Fetch-Mode", "navigate", ...HTML], false],
    ["is no HEAD", "HEAD", ["Sec-Fetch-Mode", "navigate", ...HTML], false],
    ["is no PUT", "PUT", HTML, false],
  ];
  for (const [what, method, fields, expected] of table) {
    test(what, () => {
      expect(isNavigation(head(method, ...fields))).toBe(expected);
    });
  }
});

describe("a service that does not run", () => {
  let sited: Sited;
  beforeAll(() => {
    sited = new Sited({ web: {}, api: { hosts: ["api.localhost", "*.app.test"] } });
  });
  afterAll(() => sited[Symbol.asyncDispose]());

  /** `service-failed`: it was tried. */
  const outcome = async (method: string, fields: string[]): Promise<ErrorCode> =>
    (await sited.failure(head(method, ...fields))).code;

  const ORIGINS: Readonly<Record<string, string | undefined>> = {
    none: undefined,
    own: "http://web.localhost:8080",
    "another service's": "http://api.localhost:8080",
    "that of a wildcard": "https://x.app.test",
    "another server's on this machine": "http://localhost:3000",
    "of another site": "https://evil.test",
    "of another site that looks like ours": "https://web.localhost.evil.test",
    opaque: "null",
  };
  const OURS = ["own", "another service's", "that of a wildcard"];

  function mayStart(site: string | undefined, mode: string | undefined, origin: string): boolean {
    // Programs say nothing, and older browsers no more than the origin.
    if (site === undefined) return [...OURS, "none", "another server's on this machine"].includes(origin);
    if (site !== "cross-site") return true;
    return OURS.includes(origin) || mode === "navigate";
  }

  for (const site of [undefined, "none", "same-origin", "same-site", "cross-site"]) {
    for (const [origin, value] of Object.entries(ORIGINS)) {
      test(`is started by a page in ${site ?? "unknown"} relation, origin ${origin}, as far as that may be`, async () => {
        for (const method of ["GET", "POST", "HEAD"]) {
          for (const mode of [undefined, "navigate", "cors", "no-cors", "same-origin", "websocket"]) {
            const fields = [
              ...(site === undefined ? [] : ["Sec-Fetch-Site", site]),
              ...(mode === undefined ? [] : ["Sec-Fetch-Mode", mode]),
              ...(value === undefined ? [] : ["Origin", value]),
            ];
            const expected = mayStart(site, mode, origin) ? "service-failed" : "launch-denied";
            expect([method, mode, await outcome(method, fields)]).toEqual([method, mode, expected]);
          }
        }
      });
    }
  }

  const examples: [what: string, method: string, fields: string[], expected: ErrorCode][] = [
    ["curl", "GET", ["Accept", "*/*"], "service-failed"],
    ["a POST of a program", "POST", [], "service-failed"],
    ["the address bar", "GET", ["Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"], "service-failed"],
    ["a link elsewhere", "GET", ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"], "service-failed"],
    ["an image elsewhere", "GET", ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"], "launch-denied"],
    [
      "a form elsewhere, which is a page that somebody opens",
      "POST",
      ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Origin", "https://evil.test"],
      "service-failed",
    ],
    [
      "a frame elsewhere",
      "GET",
      ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"],
      "launch-denied",
    ],
    [
      "a page that is fetched in advance elsewhere",
      "GET",
      ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Purpose", "prefetch"],
      "launch-denied",
    ],
    [
      "a WebSocket elsewhere",
      "GET",
      ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "websocket", "Origin", "https://evil.test"],
      "launch-denied",
    ],
    [
      "a script of another server here",
      "GET",
      ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors", "Origin", "http://localhost:3000"],
      "launch-denied",
    ],
    [
      "a script elsewhere that claims to take HTML",
      "GET",
      ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Accept", "text/html"],
      "launch-denied",
    ],
    [
      "a script of another service",
      "GET",
      ["Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors", "Origin", "http://api.localhost:8080"],
      "service-failed",
    ],
    ["an older browser's script here", "POST", ["Origin", "http://web.localhost:8080"], "service-failed"],
    ["an older browser's script on 127.0.0.1", "POST", ["Origin", "http://127.0.0.1:3000"], "service-failed"],
    ["an older browser's script elsewhere", "POST", ["Origin", "https://evil.test"], "launch-denied"],
    ["a script of a file", "POST", ["Origin", "file://"], "launch-denied"],
    ["an extension", "POST", ["Origin", "chrome-extension://abcdef"], "launch-denied"],
  ];
  for (const [what, method, fields, expected] of examples) {
    test(`is ${expected === "launch-denied" ? "not " : ""}started by ${what}`, async () => {
      expect(await outcome(method, fields)).toBe(expected);
    });
  }

  test("is started by a page of the host that was asked for, whatever that is", async () => {
    const request = (origin: string) => ({
      ...head("POST"),
      fields: ["Host", "web.lan:8080", "Origin", origin],
    });
    expect((await sited.failure(request("http://web.lan:8080"))).code).toBe("service-failed");
    expect((await sited.failure(request("http://web.lan:8081"))).code).toBe("launch-denied");
  });

  test("is started by an older browser's script on ::1 as by one on 127.0.0.1", async () => {
    expect(await outcome("POST", ["Origin", "http://[::1]:3000"])).toBe("service-failed");
  });

  test("tells whoever may not start it what to do", async () => {
    const error = await sited.failure(head("GET", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"));
    expect([error.message, error.outcome.status]).toEqual([
      ...["web is not running, and another site's page may not start it", 403],
    ]);
    expect(error.hints.join()).toContain("depends_on");
  });

  test("tells whoever is here why, and others nothing", async () => {
    const here = await sited.failure(head());
    expect(here.message).toBe("web cannot be started: no such command: ./no-such-command");
    expect(here.evidence!.facts).toEqual({ command: "./no-such-command", folder: sited.hall.project.path });
    await using outside = new Sited({ web: { isPublic: true } });
    const there = await outside.failure(head(), outside.site("web", true));
    expect([there.code, there.message, there.evidence, there.hints]).toEqual([
      ...["service-failed", "web is not there", undefined, []],
    ] as never);
    expect(there.forLog).toBe("web cannot be started: no such command: ./no-such-command");
  });
});

describe("a service that nobody here starts", () => {
  test("tells that it does not listen, and what could be done", async () => {
    const port = freePort();
    await using sited = new Sited({ web: {} }, { command: undefined, place: { kind: "loopback", port } });
    const error = await sited.failure(head());
    expect([error.code, error.message, error.hints]).toEqual([
      "connect-refused",
      `web does not listen: connection refused by 127.0.0.1:${port}`,
      ["start it, or give [service.web] a command that does"],
    ] as never);
  });

  test("tells those outside no address of this machine's network", async () => {
    const place = { kind: "target", target: tcpTarget("127.0.0.1", freePort()) } as const;
    await using sited = new Sited({ web: { isPublic: true } }, { command: undefined, place });
    const error = await sited.failure(head(), sited.site("web", true));
    expect([error.message, ...error.hints].join(" ")).not.toContain("127.0.0.1");
  });

  test("is asked by a probe whether it listens", async () => {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("hello") });
    const place = { kind: "loopback", port: server.port! } as const;
    await using sited = new Sited({ web: {} }, { command: undefined, place });
    await sited.site().probe("nonce", soon());
    await server.stop(true);
    const error = await failureOf(sited.site().probe("nonce", soon()));
    expect([error.code, error.message]).toEqual(["site-away", "it does not listen"]);
  });
});

describe("a service that runs", () => {
  test("serves its visitors, other sites' pages too, and knows them", async () => {
    await using sited = new Sited({ web: {} }, { command: dev() });
    const { hall } = sited;
    const ways: string[] = [];
    const first = await within(
      sited.site().reach(
        VISITOR,
        soon(),
        (way) => void ways.push(way.reason),
        head(),
        () => {},
      ),
      "it",
    );
    const pid = hall.web.facts.pid!;
    expect([first.origin, first.member, ways]).toEqual([`web ${pid}`, undefined, ["service web"]]);
    expect(await askOver(first.stream, "/who")).toBe(`web ${pid}`);
    const elsewhere = head("GET", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors");
    const second = await sited.reach(elsewhere);
    expect([second.origin, await askOver(second.stream, "/who")]).toEqual([first.origin, `web ${pid}`]);
    expect(hall.project.pids("web")).toEqual([pid]);
  });

  test("takes further requests on a connection until that process is gone", async () => {
    await using sited = new Sited({ web: {} }, { command: dev() });
    const { stream, origin } = await sited.reach(head());
    stream.abort(reset());
    const site = sited.site();
    expect([site.accepts(origin, VISITOR), site.accepts("web 1", VISITOR)]).toEqual([true, false]);
    await within(sited.hall.web.restart(), "the restart");
    expect(site.accepts(origin, VISITOR)).toBe(false);
    const again = await sited.reach(head());
    again.stream.abort(reset());
    expect([again.origin === origin, site.accepts(again.origin, VISITOR)]).toEqual([false, true]);
  });

  test("is in use while requests and WebSockets of its visitors are", async () => {
    await using sited = new Sited({ web: {} });
    const { web } = sited.hall;
    const [request, socket] = [sited.site().begin(""), sited.site().begin("")];
    expect(web.facts.open).toBe(2);
    socket.upgraded!();
    expect(web.facts.open).toBe(2);
    request.end();
    request.end();
    expect(web.facts.open).toBe(1);
    socket.end();
    socket.end();
    expect(web.facts.open).toBe(0);
  });
});

describe("while a service starts", () => {
  test("somebody who opens it is told after a moment, and a program waits", async () => {
    await using sited = new Sited({ web: {} }, { command: dev("--deaf", "--say", "compiling"), usualMs: 3000 });
    const program = sited.failure(head("GET", "Accept", "application/json"));
    const began = performance.now();
    const told = await sited.failure(head("GET", "Sec-Fetch-Mode", "navigate"));
    expect(performance.now() - began).toBeGreaterThanOrEqual(690);
    expect([told.code, told.outcome.status]).toEqual(["service-starting", 503]);
    expect(told.message).toBe("web is starting; that usually takes 3 s");
    expect(told.evidence!.refreshSeconds).toBe(1);
    await until(() => sited.hall.web.facts.waiting === 1, "the program waits alone");
    await within(sited.hall.web.stop(), "it stops");
    expect((await program).code).toBe("service-stopped");
  });
});

describe("the hosts of a server", () => {
  const registry = new AgentRegistry({
    ...{ domain: undefined, publicOrigin: undefined, servesOutside: true, isReserved: () => false, visit: () => {} },
    bindable: { allows: () => false, candidates: () => [], open: () => Promise.reject(new Error("no ports")) },
  });

  test("are those of its services, and those that agents have", async () => {
    await using sited = new Sited({ web: {} });
    const directory = new SiteDirectory(sited.sites, registry);
    expect(nameOf(directory.find("web.localhost", { path: "/", exposed: false }))).toBe("web");
    expect(directory.find("web.localhost", { path: "/", exposed: true })).toBeUndefined();
    expect(directory.find("other.localhost", { path: "/", exposed: false })).toBeUndefined();
    expect([directory.isApex("localhost", false), directory.isApex("web.localhost", false)]).toEqual([true, false]);
  });

  test("are no names that somebody made point here", async () => {
    await using sited = new Sited({ web: {} });
    const directory = new SiteDirectory(sited.sites, registry);
    const told = (host: string, exposed: boolean) => {
      const { code, message, outcome } = directory.unknown(host, exposed);
      return [code, message, outcome.status];
    };
    expect(told("rebound.test", false)).toEqual(["wrong-host", "this server is not rebound.test", 421]);
    expect(told("192.0.2.1", false)).toEqual(["wrong-host", "this server is not 192.0.2.1", 421]);
    for (const host of ["other.localhost", "127.0.0.1"])
      expect(told(host, false)).toEqual(["no-such-site", `there is no site ${host} here`, 404]);
    expect(told("rebound.test", true)).toEqual(["no-such-site", "there is no site rebound.test here", 404]);
    sited.host({});
    expect(told("rebound.test", false)).toEqual(["no-such-site", "there is no site rebound.test here", 404]);
  });
});
