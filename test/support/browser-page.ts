import { inflateSync } from "node:zlib";
import { Process, TempFolder } from "./process.ts";
import { program } from "./programs.ts";
import { until, within } from "./wait.ts";

type Json = Readonly<Record<string, unknown>>;

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Json;
  readonly result?: Json;
  readonly error?: { readonly message: string };
}

const KEYS = {
  Tab: { key: "Tab", code: "Tab", windowsVirtualKeyCode: 9 },
  Enter: { key: "Enter", code: "Enter", windowsVirtualKeyCode: 13, text: "\r" },
  Space: { key: " ", code: "Space", windowsVirtualKeyCode: 32, text: " " },
} as const;

export type Scheme = "light" | "dark";

/** One page of a headless Chromium, used as a person would: by keys and eyes. */
export class BrowserPage implements AsyncDisposable {
  readonly #process: Process;
  readonly #folder: TempFolder;
  readonly #socket: WebSocket;
  readonly #answers = new Map<number, PromiseWithResolvers<Json>>();
  #session: string | undefined;
  #lastId = 0;
  #loads = 0;
  /** URLs that were asked for until now. */
  readonly requests: string[] = [];
  /** What the console said, and what was thrown. */
  readonly complaints: string[] = [];

  private constructor(process: Process, folder: TempFolder, socket: WebSocket) {
    this.#process = process;
    this.#folder = folder;
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(String(data)) as Message);
  }

  static async start(): Promise<BrowserPage> {
    const folder = new TempFolder();
    const process = new Process(
      [
        ...[program("chromium")!, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
        ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
        ...["--disable-dev-shm-usage", "--disable-extensions", "--window-size=1000,800"],
        ...[`--user-data-dir=${folder.path}`, "--remote-debugging-port=0", "about:blank"],
      ],
      { env: { HOME: folder.path } },
    );
    try {
      await process.says("DevTools listening on ws://", 30_000);
      const socket = new WebSocket(/DevTools listening on (ws:\S+)/.exec(process.stderr)![1]!);
      const open = Promise.withResolvers<void>();
      socket.onopen = () => open.resolve();
      socket.onerror = () => open.reject(new Error("no DevTools"));
      await within(open.promise, "the DevTools connection");
      const page = new BrowserPage(process, folder, socket);
      const { targetId } = await page.#ask("Target.createTarget", { url: "about:blank" });
      const { sessionId } = await page.#ask("Target.attachToTarget", { targetId, flatten: true });
      page.#session = sessionId as string;
      for (const domain of ["Page", "Runtime", "Network", "Log"]) await page.#ask(`${domain}.enable`, {});
      return page;
    } catch (error) {
      await process[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
      throw error;
    }
  }

  /** Opens an address, and waits until the page has loaded; one that differs in its fragment alone loads nothing. */
  async open(url: string, loads = true): Promise<void> {
    const before = this.#loads;
    const { errorText } = await this.#ask("Page.navigate", { url });
    if (errorText !== undefined) throw new Error(`chromium: ${String(errorText)} at ${url}`);
    if (loads) await until(() => this.#loads > before, `${url} has loaded`, 20_000);
  }

  /** The value of an expression in the page. */
  async value<T>(expression: string): Promise<T> {
    const params = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.#ask("Runtime.evaluate", params);
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return (result as { value: T }).value;
  }

  /** Waits until an expression is true in the page. */
  async shows(expression: string, ms = 10_000): Promise<void> {
    const end = performance.now() + ms;
    // The page may just be replaced by the next one.
    while (!(await this.value<boolean>(`Boolean(${expression})`).catch(() => false))) {
      if (performance.now() > end) {
        const text = await this.value<string>("document.body?.innerText ?? ''").catch(String);
        throw new Error(`waited ${ms} ms in vain until ${expression}: ${text.slice(0, 1000)}`);
      }
    }
  }

  async press(name: keyof typeof KEYS): Promise<void> {
    const key = KEYS[name];
    await this.#ask("Input.dispatchKeyEvent", { type: "keyDown", ...key });
    await this.#ask("Input.dispatchKeyEvent", { type: "keyUp", ...key });
  }

  async type(text: string): Promise<void> {
    await this.#ask("Input.insertText", { text });
  }

  /** Presses Tab until this is where the keys go; fails after a round through the page. */
  async tabTo(label: string): Promise<void> {
    for (let presses = 0; presses < 60; presses++) {
      if ((await this.value<string>("nameOf(document.activeElement)")) === label) return;
      await this.press("Tab");
    }
    throw new Error(`Tab does not lead to ${label}`);
  }

  /** What a person has chosen for all pages. */
  async prefers(scheme: Scheme): Promise<void> {
    await this.#ask("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  }

  async resize(width: number, height: number): Promise<void> {
    await this.#ask("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
  }

  /** Addresses that the Back button could lead to. */
  async history(): Promise<string[]> {
    const { entries } = await this.#ask("Page.getNavigationHistory", {});
    return (entries as { url: string }[]).map(({ url }) => url);
  }

  /** Runs before the scripts of each page to come. */
  async prepare(source: string): Promise<void> {
    await this.#ask("Page.addScriptToEvaluateOnNewDocument", { source });
  }

  async screenshot(): Promise<Picture> {
    const { data } = await this.#ask("Page.captureScreenshot", { format: "png" });
    return new Picture(Buffer.from(data as string, "base64"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.hasExited) return;
    this.#session = undefined;
    await this.#ask("Browser.close", {}).catch(() => {});
    this.#socket.close();
    await this.#process.exited(5000).catch(() => {});
    await this.#process[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }

  #ask(method: string, params: Json): Promise<Json> {
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<Json>();
    this.#answers.set(id, answer);
    const session = this.#session === undefined ? {} : { sessionId: this.#session };
    this.#socket.send(JSON.stringify({ id, method, params, ...session }));
    return within(answer.promise, `chromium's answer to ${method}`, 20_000);
  }

  #take({ id, method, params, result, error }: Message): void {
    if (method === "Page.loadEventFired") this.#loads++;
    if (method === "Network.requestWillBeSent")
      this.requests.push((params as { request: { url: string } }).request.url);
    if (method === "Runtime.exceptionThrown") this.complaints.push(JSON.stringify(params));
    if (method === "Log.entryAdded") this.complaints.push((params as { entry: { text: string } }).entry.text);
    const answer = id === undefined ? undefined : this.#answers.get(id);
    if (id !== undefined) this.#answers.delete(id);
    if (error === undefined) answer?.resolve(result ?? {});
    else answer?.reject(new Error(`chromium: ${error.message}`));
  }
}

export type Rgb = readonly [red: number, green: number, blue: number];

/** A PNG of 8 bits a channel, not interlaced: what Chromium makes. */
export class Picture {
  readonly width: number;
  readonly height: number;
  readonly #pixels: Uint8Array;
  readonly #channels: number;

  constructor(png: Buffer) {
    this.width = png.readUInt32BE(16);
    this.height = png.readUInt32BE(20);
    this.#channels = png[25] === 6 ? 4 : 3;
    const parts: Buffer[] = [];
    for (let at = 8; at < png.length;) {
      const length = png.readUInt32BE(at);
      if (png.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(png.subarray(at + 8, at + 8 + length));
      at += 12 + length;
    }
    this.#pixels = this.#unfiltered(inflateSync(Buffer.concat(parts)));
  }

  at(x: number, y: number): Rgb {
    const from = (Math.round(y) * this.width + Math.round(x)) * this.#channels;
    return [this.#pixels[from]!, this.#pixels[from + 1]!, this.#pixels[from + 2]!];
  }

  /** A pixel of this colour is in this place. */
  has(color: Rgb, { x, y, width, height }: { x: number; y: number; width: number; height: number }): boolean {
    for (let row = Math.max(0, Math.floor(y)); row < Math.min(this.height, y + height); row++)
      for (let column = Math.max(0, Math.floor(x)); column < Math.min(this.width, x + width); column++)
        if (this.at(column, row).every((channel, index) => Math.abs(channel - color[index]!) <= 3)) return true;
    return false;
  }

  /** RFC 2083, section 6. */
  #unfiltered(raw: Buffer): Uint8Array {
    const size = this.#channels;
    const stride = this.width * size;
    const out = new Uint8Array(stride * this.height);
    for (let row = 0; row < this.height; row++) {
      const filter = raw[row * (stride + 1)]!;
      for (let i = 0; i < stride; i++) {
        const left = i < size ? 0 : out[row * stride + i - size]!;
        const up = row === 0 ? 0 : out[(row - 1) * stride + i]!;
        const corner = row === 0 || i < size ? 0 : out[(row - 1) * stride + i - size]!;
        const predicted = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter]!;
        out[row * stride + i] = raw[row * (stride + 1) + 1 + i]! + predicted;
      }
    }
    return out;
  }
}

function paeth(left: number, up: number, corner: number): number {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/** `rgb(1, 2, 3)`, as getComputedStyle says it. */
export function rgb(text: string): Rgb {
  const match = /^rgba?\((\d+), (\d+), (\d+)(?:, 1)?\)$/.exec(text);
  if (match === null) throw new Error(`${text} is no opaque rgb()`);
  return [Number(match[1]), Number(match[2]), Number(match[3])];
}

/** WCAG 2.2: relative luminance, and the contrast of two colours. */
export function contrast(one: Rgb, other: Rgb): number {
  const luminance = (color: Rgb) => {
    const [red, green, blue] = color.map((channel) => {
      const part = channel / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    }) as [number, number, number];
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [low, high] = [luminance(one), luminance(other)].toSorted((a, b) => a - b) as [number, number];
  return (high + 0.05) / (low + 0.05);
}

/** Functions that tests call in each page. */
export const IN_PAGE = `
  function nameOf(element) {
    return element?.getAttribute("aria-label") ?? element?.innerText ?? "";
  }
  /** Colour of the text, and of what is behind it. */
  function coloursOf(element) {
    let behind = element;
    while (behind !== null && /^rgba\\(.*, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const root = getComputedStyle(behind ?? document.documentElement).backgroundColor;
    const { x, y, width, height } = element.getBoundingClientRect();
    return { what: element.id || element.className || element.localName, text: getComputedStyle(element).color, behind: root, opacity: getComputedStyle(element).opacity, box: { x, y, width, height } };
  }
`;
