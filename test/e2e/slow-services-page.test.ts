import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { BrowserPage, contrast, IN_PAGE, rgb, type Rgb, type Scheme } from "../support/browser-page.ts";
import { program } from "../support/programs.ts";
import type { Running } from "../support/seikan.ts";
import { at, dev, devLine, pidAt, Project } from "../support/services.ts";
import { within } from "../support/wait.ts";

setDefaultTimeout(90_000);

// What a person sees and does: the status page of services, and the pages while one starts or fails.

const HTML = '<img src=x onerror="document.title=1"><b>bold</b>';

interface Colours {
  readonly what: string;
  readonly text: string;
  readonly behind: string;
  readonly opacity: string;
  readonly box: { readonly x: number; readonly y: number; readonly width: number; readonly height: number };
}

describe.skipIf(program("chromium") === undefined)("in Chromium", () => {
  let page: BrowserPage;
  let project: Project;
  let server: Running;
  let token: string;
  let origin: string;
  beforeAll(async () => {
    page = await BrowserPage.start();
    await page.prepare(IN_PAGE);
  });
  afterAll(() => page[Symbol.asyncDispose]());
  beforeEach(async () => {
    project = new Project();
    server = await project.serve({
      web: { command: dev("--say", "hello") },
      odd: { command: `echo '${HTML}'; exec ${devLine()} # ${HTML}` },
      bad: { command: `echo '<i>last</i> words'; exit 7 # ${HTML}` },
      slow: { command: dev("--say", "<u>almost</u> there", "--gate", project.gate("slow")), delay: 3 },
      plain: { port: 1 },
    });
    origin = `http://localhost:${server.port}`;
    token = readFileSync(project.file(`run/seikan/serve-${server.pid}.token`), "utf8").trim();
    page.requests.length = 0;
    page.complaints.length = 0;
  });
  afterEach(() => project[Symbol.asyncDispose]());

  /** The page with its list. */
  async function openPage(): Promise<void> {
    await page.open(`${origin}/-/services#${token}`);
    await page.shows("document.querySelectorAll('#list li').length === 5");
  }

  const row = (name: string) =>
    `[...document.querySelectorAll("#list li")].find((item) => item.querySelector("a").textContent === "${name}")`;
  const state = (name: string) => `${row(name)}.querySelector(".state").textContent`;
  const isState = (name: string, text: string) => page.shows(`${state(name)} === "${text}"`);

  test("the list shows each service, its state and its address, and the token leaves the address bar", async () => {
    await openPage();
    const rows = await page.value<string[][]>(
      `[...document.querySelectorAll("#list li")].map((item) => [item.querySelector("a").textContent, item.querySelector("a").href, item.querySelector(".state").textContent, item.querySelector("small").textContent])`,
    );
    const url = (name: string) => `http://${name}.localhost:${server.port}/`;
    expect(rows).toEqual([
      ["web", url("web"), "stopped", dev("--say", "hello").join(" ")],
      ["odd", url("odd"), "stopped", `echo '${HTML}'; exec ${devLine()} # ${HTML}`],
      ["bad", url("bad"), "stopped", `echo '<i>last</i> words'; exit 7 # ${HTML}`],
      ["slow", url("slow"), "stopped", dev("--say", "<u>almost</u> there", "--gate", project.gate("slow")).join(" ")],
      ["plain", url("plain"), "down", ""],
    ]);
    expect(await page.value<string>("location.href")).toBe(`${origin}/-/services`);
    // Hidden is not shown, whatever its layout.
    expect(await page.value<string>("getComputedStyle(document.getElementById('login')).display")).toBe("none");
    expect((await page.history()).filter((entry) => entry.includes(token))).toEqual([]);
    // It changes by itself.
    const pid = await pidAt(server, "web");
    await isState("web", "ready");
    await page.shows(`${row("web")}.querySelector(".facts").textContent.includes("pid ${pid}")`);
    // It stays known to the page, and only there.
    await page.open(`${origin}/-/services`);
    await isState("web", "ready");
    expect(await page.value<string>("document.cookie")).toBe("");
    expect(page.complaints).toEqual([]);
  });

  test("everything is done by keys alone", async () => {
    await openPage();
    await page.tabTo("Start web");
    await page.press("Enter");
    await isState("web", "ready");
    await page.shows(`document.getElementById("note").textContent === "web: start is done"`);
    const first = await pidAt(server, "web");
    // The keys go on from where they were, although that button cannot be used now.
    await page.press("Tab");
    expect(await page.value<string>("nameOf(document.activeElement)")).toBe("Stop web");
    const outline = await page.value<string>("getComputedStyle(document.activeElement).outline");
    expect(outline).toMatch(/solid 3px/);
    await page.tabTo("Restart web");
    await page.press("Space");
    await page.shows(`document.getElementById("note").textContent === "web: restart is done"`);
    const second = await pidAt(server, "web");
    expect(second).not.toBe(first);
    await page.shows(`${row("web")}.querySelector(".facts").textContent.includes("pid ${second}")`);
    await page.tabTo("Stop web");
    await page.press("Enter");
    await isState("web", "stopped by hand");
    expect((await at(server, "web")).status).toBe(503);
    await page.tabTo("Start web");
    await page.press("Enter");
    await isState("web", "ready");
    await page.tabTo("Start bad");
    await page.press("Enter");
    await isState("bad", "failed");
    await page.shows(`document.getElementById("note").className === "bad"`);
    expect(await page.value<string>(`document.getElementById("note").textContent`)).toContain(
      "bad ended before it was ready: exit code 7",
    );
    expect(await page.value<string>(`${row("bad")}.querySelector(".why").textContent`)).toBe(
      "bad ended before it was ready: exit code 7",
    );
    const disabled = await page.value<string[]>(
      `[...${row("plain")}.querySelectorAll("button")].filter((one) => !one.disabled).map(nameOf)`,
    );
    expect(disabled).toEqual([]);
  });

  test("the log shows lines as they come, and goes again", async () => {
    await pidAt(server, "web");
    await openPage();
    await page.tabTo("Log of web");
    await page.press("Enter");
    const log = `${row("web")}.querySelector("pre")`;
    await page.shows(`${log}.textContent.endsWith("\\nhello\\n")`);
    expect(await page.value<string>("document.activeElement.getAttribute('aria-expanded')")).toBe("true");
    await at(server, "web", "/say?text=live+line");
    await page.shows(`${log}.textContent.endsWith("\\nhello\\nlive line\\n")`);
    await page.press("Enter");
    await page.shows(`${log}.hidden`);
    expect(await page.value<string>("document.activeElement.getAttribute('aria-expanded')")).toBe("false");
    await at(server, "web", "/say?text=unseen");
    await page.press("Enter");
    await page.shows(`${log}.textContent.endsWith("\\nlive line\\nunseen\\n")`);
  });

  test("what a command says is text, whatever it looks like", async () => {
    await pidAt(server, "odd");
    await openPage();
    await page.tabTo("Log of odd");
    await page.press("Enter");
    await at(
      server,
      "odd",
      `/say?text=${encodeURIComponent("<script>document.title = 2</script><svg onload=document.title=3>")}`,
    );
    const log = `${row("odd")}.querySelector("pre")`;
    await page.shows(`${log}.textContent.includes("<svg onload")`);
    expect(await page.value<string>(`${log}.textContent`)).toContain(`\n${HTML}\n`);
    expect(await page.value<number>("document.querySelectorAll('img, b, svg, i, u, main script').length")).toBe(0);
    expect(await page.value<string>("document.title")).toBe("Services · seikan");
  });

  test("a wrong token asks for the right one", async () => {
    await page.open(`${origin}/-/services#wrong`);
    await page.shows("!document.getElementById('login').hidden");
    expect(await page.value<boolean>("document.getElementById('list').hidden")).toBe(true);
    expect(await page.value<string>("document.getElementById('list').textContent")).toBe("");
    await page.value("document.activeElement.blur()");
    await page.press("Tab");
    expect(await page.value<string>("document.activeElement.id")).toBe("token");
    await page.type(token);
    await page.press("Enter");
    await page.shows("document.querySelectorAll('#list li').length === 5");
    expect(await page.value<boolean>("document.getElementById('login').hidden")).toBe(true);
    expect(await page.value<string>("location.href")).toBe(`${origin}/-/services`);
  });

  test("without any token it asks for one", async () => {
    await page.open(`${origin}/-/services`);
    await page.shows("!document.getElementById('login').hidden");
    expect(await page.value<string>("document.getElementById('login').innerText")).toContain("seikan services");
  });

  test("a token that comes to a page that is open counts, and leaves the address bar", async () => {
    await page.open(`${origin}/-/services#wrong`);
    await page.shows("!document.getElementById('login').hidden");
    // What `seikan services` prints, opened where the page is open already.
    await page.open(`${origin}/-/services#${token}`, false);
    await page.shows("document.querySelectorAll('#list li').length === 5", 4000);
    expect(await page.value<string>("location.href")).toBe(`${origin}/-/services`);
  });

  test("a fragment that is badly encoded asks for the token", async () => {
    await page.open(`${origin}/-/services#%`);
    await page.shows("!document.getElementById('login').hidden", 4000);
  });

  test("that the server has gone is said", async () => {
    await pidAt(server, "web");
    await openPage();
    await page.tabTo("Log of web");
    await page.press("Enter");
    await page.shows(`${row("web")}.querySelector("pre").textContent.includes("hello")`);
    server.kill("SIGTERM");
    await page.shows(`document.getElementById("note").textContent === "The server does not answer."`);
    expect(await page.value<string>("document.getElementById('note').className")).toBe("bad");
    // The page does not keep the server from ending.
    expect(await within(server.exited, "the server's end")).toBe(0);
  });

  const ELEMENTS =
    "h1, h1 span, a, .name small, .state, .facts, button:not(:disabled), .why, pre, #note, p, dt, dd, footer, .hint, .quiet, input, label:not([hidden])";

  /** Every text can be read: WCAG 2.2, 1.4.3. */
  async function readable(): Promise<Colours[]> {
    const seen = await page.value<Colours[]>(
      `[...document.querySelectorAll(${JSON.stringify(ELEMENTS)})].filter((one) => one.textContent.trim() !== "" && one.checkVisibility()).map(coloursOf)`,
    );
    for (const { what, text, behind } of seen) {
      const ratio = contrast(rgb(text), rgb(behind));
      expect(ratio >= 4.5 ? "readable" : `${what}: ${text} on ${behind} is ${ratio.toFixed(2)}`).toBe("readable");
    }
    return seen;
  }

  /** The picture has the colours that the styles say; resolves to that of the page and that of its heading. */
  async function pictured(): Promise<{ paper: Rgb; ink: Rgb }> {
    await page.value("scrollTo(0, 0)");
    const picture = await page.screenshot();
    const paper = rgb(await page.value<string>("getComputedStyle(document.body).backgroundColor"));
    const heading = await page.value<Colours>("coloursOf(document.querySelector('h1'))");
    const ink = rgb(heading.text);
    expect(picture.at(3, picture.height - 3)).toEqual(paper);
    expect(picture.at(picture.width - 20, 3)).toEqual(paper);
    expect(picture.has(ink, heading.box)).toBe(true);
    expect(picture.has(paper, heading.box)).toBe(true);
    return { paper, ink };
  }

  const brightness = (color: Rgb) => color.reduce((sum, channel) => sum + channel, 0) / 3;

  /** The page before us, in both schemes. */
  async function inBothSchemes(mustHave: readonly string[]): Promise<void> {
    const shown: Partial<Record<Scheme, { paper: Rgb; ink: Rgb }>> = {};
    for (const scheme of ["light", "dark"] as const) {
      await page.prefers(scheme);
      const seen = await readable();
      for (const what of mustHave)
        expect([scheme, what, seen.some((one) => one.what === what)]).toEqual([scheme, what, true]);
      shown[scheme] = await pictured();
    }
    const { light, dark } = shown as Record<Scheme, { paper: Rgb; ink: Rgb }>;
    expect(brightness(light.paper)).toBeGreaterThan(200);
    expect(brightness(light.ink)).toBeLessThan(80);
    expect(brightness(dark.paper)).toBeLessThan(60);
    expect(brightness(dark.ink)).toBeGreaterThan(180);
  }

  test("the status page can be read in light and dark, in every state", async () => {
    await pidAt(server, "web");
    await openPage();
    await page.tabTo("Log of web");
    await page.press("Enter");
    await page.shows(`${row("web")}.querySelector("pre").textContent.includes("hello")`);
    await page.tabTo("Stop odd");
    await page.press("Enter");
    await isState("odd", "stopped by hand");
    await page.tabTo("Start slow");
    await page.press("Enter");
    await isState("slow", "starting");
    await page.tabTo("Start bad");
    await page.press("Enter");
    await isState("bad", "failed");
    const states = await page.value<string[]>("[...document.querySelectorAll('.state')].map((one) => one.dataset.is)");
    expect(states).toEqual(["ready", "held", "failed", "starting", "down"]);
    await inBothSchemes(["h1", "state", "facts", "button", "why", "pre", "small", "a", "note"]);
    // A state is not told by its colour alone.
    const words = await page.value<string[]>("[...document.querySelectorAll('.state')].map((one) => one.textContent)");
    expect(new Set(words).size).toBe(5);
  });

  test("so can the form that asks for the token", async () => {
    await page.open(`${origin}/-/services#wrong`);
    await page.shows("!document.getElementById('login').hidden");
    await inBothSchemes(["h1", "p", "button"]);
  });

  test("the page while a service starts can be read, shows what was said, and gives way to the service", async () => {
    await page.open(`http://slow.localhost:${server.port}/who`);
    await page.shows("document.title === 'Starting'");
    expect(await page.value<string>("document.querySelector('[role=status]').textContent")).toBe(
      "slow is starting; that usually takes 3 s",
    );
    expect(await page.value<string>("document.querySelector('pre').textContent")).toBe("<u>almost</u> there");
    expect(await page.value<number>("document.querySelectorAll('u, script').length")).toBe(0);
    await inBothSchemes(["h1", "p", "dt", "dd", "pre", "footer"]);
    project.open("slow");
    await page.shows(`document.body.innerText === "slow ${project.pids("slow")[0]}"`);
    expect(project.pids("slow")).toHaveLength(1);
  });

  test("the page of a service that failed can be read, and shows what was said as text", async () => {
    await page.open(`http://bad.localhost:${server.port}/`);
    await page.shows("document.title === '502 Bad Gateway'");
    const text = await page.value<string>("document.body.innerText");
    expect(text).toContain("bad ended before it was ready: exit code 7");
    expect(text).toContain(project.path);
    expect(await page.value<string>("document.querySelector('pre').textContent")).toBe("<i>last</i> words");
    expect(text).toContain(HTML);
    expect(await page.value<number>("document.querySelectorAll('img, b, i, script').length")).toBe(0);
    await inBothSchemes(["h1", "p", "dt", "dd", "pre", "footer"]);
    // Asked again in the pause: when it is tried again.
    let isPausing = false;
    // Each failure makes a longer pause.
    for (let visits = 0; visits < 5 && !isPausing; visits++) {
      await page.open(`http://bad.localhost:${server.port}/`);
      isPausing = await page.value("document.querySelector('.hint') !== null");
    }
    expect(isPausing).toBe(true);
    await inBothSchemes(["h1", "hint"]);
  });

  test("nothing is asked of anybody else", async () => {
    await pidAt(server, "web");
    await openPage();
    await page.tabTo("Log of web");
    await page.press("Enter");
    await page.shows(`${row("web")}.querySelector("pre").textContent.includes("hello")`);
    await page.open(`http://bad.localhost:${server.port}/`);
    await page.open(`${origin}/-/services`);
    await page.shows("document.querySelectorAll('#list li').length === 5");
    const own = [`${origin}/-/services`, `${origin}/favicon.ico`, `http://bad.localhost:${server.port}/`];
    expect(page.requests.filter((url) => !own.some((start) => url.startsWith(start)))).toEqual([]);
    expect(page.requests.filter((url) => url.startsWith(`${origin}/-/services/`)).length).toBeGreaterThan(2);
    expect(page.requests.filter((url) => url.replace(/#.*/s, "").includes(token))).toEqual([]);
  });

  test("a narrow window hides nothing", async () => {
    await openPage();
    await page.resize(360, 700);
    try {
      expect(await page.value<boolean>("document.documentElement.scrollWidth <= innerWidth")).toBe(true);
      const outside = await page.value<string[]>(
        `[...document.querySelectorAll("button, a, .state")].filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth).map(nameOf)`,
      );
      expect(outside).toEqual([]);
    } finally {
      await page.resize(1000, 800);
    }
  });
});
