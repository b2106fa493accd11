/** Lines kept of each launch. */
const LINES = 500;
/** Longer lines are cut. */
const LINE_LENGTH = 2000;

/** Of an unfinished line so much is kept, escapes included. */
const UNFINISHED = 8 * LINE_LENGTH;

/** What a command printed last, as plain text in lines. */
export class Output {
  readonly #lines: string[] = [];
  readonly #followers = new Set<(line: string) => void>();
  #decoder = new TextDecoder();
  #partial = "";
  /** Lines since the last launch began. */
  #fresh = 0;

  write(chunk: Uint8Array): void {
    const parts = (this.#partial + this.#decoder.decode(chunk, { stream: true })).split("\n");
    this.#partial = shortened(parts.pop()!);
    for (const part of parts) this.#add(part);
  }

  /** A line of ours between those of the command. */
  note(text: string): void {
    if (this.#partial !== "") this.#add(this.#partial);
    this.#partial = "";
    // Half a character was the last of it.
    this.#decoder = new TextDecoder();
    this.#add(`# ${text}`);
  }

  /** A launch begins, with this command. */
  begin(command: string): void {
    this.note(`starting: ${command}`);
    this.#fresh = 0;
  }

  /** The last lines of the last launch. */
  latest(count: number): string[] {
    return this.#last(Math.min(count, this.#fresh), count);
  }

  /** The last lines, an unfinished one included. */
  tail(count: number): string[] {
    return this.#last(count, count);
  }

  #last(whole: number, count: number): string[] {
    const partial = plainLine(this.#partial);
    const lines = whole === 0 ? [] : this.#lines.slice(-whole);
    if (partial !== "") lines.push(partial);
    return count === 0 ? [] : lines.slice(-count);
  }

  /** Hears of each further line until the result is called. */
  follow(follower: (line: string) => void): () => void {
    this.#followers.add(follower);
    return () => void this.#followers.delete(follower);
  }

  #add(text: string): void {
    const line = plainLine(text);
    this.#lines.push(line);
    this.#fresh++;
    if (this.#lines.length > LINES) this.#lines.shift();
    for (const follower of this.#followers) follower(line);
  }
}

/** The beginning of a line counts; of one that is overwritten (CR) the last state. */
function shortened(partial: string): string {
  if (partial.length <= UNFINISHED) return partial;
  return partial.slice(partial.lastIndexOf("\r", partial.length - 2) + 1).slice(0, UNFINISHED);
}

/** Without colours and cursor movements; of what was overwritten (CR) the last state. */
function plainLine(text: string): string {
  const last = Bun.stripANSI(text).replace(/\r+$/, "").split("\r").at(-1)!;
  // oxlint-disable-next-line no-control-regex
  return last.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "").slice(0, LINE_LENGTH);
}
