/** Lines kept of each launch. */
const LINES = 500;
/** Longer lines are cut. */
const LINE_LENGTH = 2000;

/** What a command printed last, as plain text in lines. */
export class Output {
  readonly #lines: string[] = [];
  readonly #followers = new Set<(line: string) => void>();
  readonly #decoder = new TextDecoder();
  #partial = "";
  /** Lines since the last launch began. */
  #fresh = 0;

  write(chunk: Uint8Array): void {
    const parts = (this.#partial + this.#decoder.decode(chunk, { stream: true })).split("\n");
    this.#partial = parts.pop()!.slice(-LINE_LENGTH * 4);
    for (const part of parts) this.#add(part);
  }

  /** A line of ours between those of the command. */
  note(text: string): void {
    this.#flush();
    this.#add(`# ${text}`);
  }

  /** A launch begins, with this command. */
  begin(command: string): void {
    this.note(`starting: ${command}`);
    this.#fresh = 0;
  }

  /** The last lines of the last launch. */
  latest(count: number): string[] {
    const partial = this.#partial === "" ? 0 : 1;
    const most = Math.min(count, this.#fresh + partial);
    return most === 0 ? [] : this.tail(most);
  }

  /** The last lines, an unfinished one included. */
  tail(count: number): string[] {
    const partial = plainLine(this.#partial);
    return [...this.#lines, ...(partial === "" ? [] : [partial])].slice(-count);
  }

  /** Hears of each further line until the result is called. */
  follow(follower: (line: string) => void): () => void {
    this.#followers.add(follower);
    return () => void this.#followers.delete(follower);
  }

  #flush(): void {
    if (this.#partial !== "") this.#add(this.#partial);
    this.#partial = "";
  }

  #add(text: string): void {
    const line = plainLine(text);
    this.#lines.push(line);
    this.#fresh++;
    if (this.#lines.length > LINES) this.#lines.shift();
    for (const follower of this.#followers) follower(line);
  }
}

/** Without colours and cursor movements; of what was overwritten (CR) the last state. */
function plainLine(text: string): string {
  // oxlint-disable-next-line no-control-regex
  const shown = text.replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g, "");
  const last = shown.replace(/\r+$/, "").split("\r").at(-1)!;
  // oxlint-disable-next-line no-control-regex
  return last.replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "").slice(0, LINE_LENGTH);
}
