import { Process, TempFolder } from "./process.ts";
import { program } from "./programs.ts";
import { until, within } from "./wait.ts";

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Record<string, unknown>;
  readonly result?: Record<string, unknown>;
  readonly error?: { message: string };
}

/** A headless Chromium, spoken to by its DevTools protocol. */
export class Chromium implements AsyncDisposable {
  readonly #process: Process;
  readonly #folder: TempFolder;
  readonly #socket: WebSocket;
  readonly #answers = new Map<number, PromiseWithResolvers<Record<string, unknown>>>();
  readonly #reports: string[] = [];
  /** By request: every WebSocket, and whether it was opened. */
  readonly #webSockets = new Map<unknown, { readonly url: string; isOpen: boolean }>();
  #lastId = 0;

  private constructor(process: Process, folder: TempFolder, socket: WebSocket) {
    this.#process = process;
    this.#folder = folder;
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(String(data)) as Message);
  }

  static async start(...flags: string[]): Promise<Chromium> {
    const folder = new TempFolder();
    const process = new Process(
      [
        ...[program("chromium")!, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
        ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
        ...["--disable-dev-shm-usage", "--disable-extensions", "--ignore-certificate-errors"],
        ...[`--user-data-dir=${folder.path}`, "--remote-debugging-port=0", ...flags, "about:blank"],
      ],
      { env: { HOME: folder.path } },
    );
    try {
      await process.says("DevTools listening on ws://", 30_000);
      const url = /DevTools listening on (ws:\S+)/.exec(process.stderr)![1]!;
      const socket = new WebSocket(url);
      const open = Promise.withResolvers<void>();
      socket.onopen = () => open.resolve();
      socket.onerror = () => open.reject(new Error(`no DevTools at ${url}`));
      await within(open.promise, "the DevTools connection");
      return new Chromium(process, folder, socket);
    } catch (error) {
      await process[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
      throw error;
    }
  }

  /** What scripts of pages have reported until now. */
  get reports(): readonly string[] {
    return this.#reports;
  }

  /** URLs of WebSockets that were opened until now. */
  get webSockets(): string[] {
    return [...this.#webSockets.values()].filter(({ isOpen }) => isOpen).map(({ url }) => url);
  }

  /** Opens a page and waits until its scripts call `report(text)`. */
  async visit(url: string): Promise<string> {
    const { targetId } = await this.#ask("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.#ask("Target.attachToTarget", { targetId, flatten: true });
    await this.#ask("Runtime.enable", {}, sessionId as string);
    await this.#ask("Network.enable", {}, sessionId as string);
    await this.#ask("Runtime.addBinding", { name: "report" }, sessionId as string);
    const before = this.#reports.length;
    const { errorText } = await this.#ask("Page.navigate", { url }, sessionId as string);
    if (errorText !== undefined) throw new Error(`chromium: ${String(errorText)} at ${url}`);
    await until(() => this.#reports.length > before, `${url} reports`, 20_000);
    return this.#reports[before]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.hasExited) return;
    await this.#ask("Browser.close", {}).catch(() => {});
    this.#socket.close();
    // Its own end takes its helpers with it; a kill would leave them.
    await this.#process.exited(5000).catch(() => {});
    await this.#process[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }

  #ask(method: string, params: Record<string, unknown>, sessionId?: string): Promise<Record<string, unknown>> {
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<Record<string, unknown>>();
    this.#answers.set(id, answer);
    this.#socket.send(JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) }));
    return within(answer.promise, `chromium's answer to ${method}`, 20_000);
  }

  #take(message: Message): void {
    const { requestId, url, payload } = message.params ?? {};
    const socket = this.#webSockets.get(requestId);
    if (message.method === "Runtime.bindingCalled") this.#reports.push(String(payload));
    if (message.method === "Network.webSocketCreated")
      this.#webSockets.set(requestId, { url: String(url), isOpen: false });
    if (message.method === "Network.webSocketHandshakeResponseReceived" && socket !== undefined) socket.isOpen = true;
    if (message.id === undefined) return;
    const answer = this.#answers.get(message.id);
    this.#answers.delete(message.id);
    if (message.error === undefined) answer?.resolve(message.result ?? {});
    else answer?.reject(new Error(`chromium: ${message.error.message}`));
  }
}
