/** Lines kept of each launch. */
const LINES = 500;
/** More in one piece are not looked at: whoever prints without end is not to keep everybody waiting. */
const LINES_AT_ONCE = 2000;
/** Longer lines are cut. */
const LINE_LENGTH = 2000;

/** Of an unfinished line so much is kept, escapes included. */
const UNFINISHED = 8 * LINE_LENGTH;

interface Follower {
  readonly line: (line: string) => void;
  readonly over: () => void;
}

interface Source {
  decoder: TextDecoder;
  partial: string;
}

/** What a command printed last, as plain text in lines. */
export class Output {
  readonly #lines: string[] = [];
  readonly #followers = new Set<Follower>();
  readonly #sources = new Set<Source>();
  readonly #sought = new Set<(text: string) => void>();
  /** Lines since the last launch began. */
  #fresh = 0;

  /** One more stream of the command: its lines are its own. */
  source(): (chunk: Uint8Array) => void {
    const source = { decoder: new TextDecoder(), partial: "" };
    this.#sources.add(source);
    return (chunk) => this.#write(source, chunk);
  }

  #write(source: Source, chunk: Uint8Array): void {
    const text = source.partial + source.decoder.decode(chunk, { stream: true });
    for (const seek of this.#sought) seek(text);
    const parts = text.split("\n");
    source.partial = shortened(parts.pop()!);
    const left = parts.length - LINES_AT_ONCE;
    if (left > 0) this.#add(`# ${left} lines are left out`);
    for (const part of left > 0 ? parts.slice(left) : parts) this.#add(part);
  }

  /** Calls `found` once a line holds this text; not any more once the result is called. */
  seek(wanted: string, found: () => void): () => void {
    const seek = (text: string) => {
      if (!Bun.stripANSI(text).includes(wanted)) return;
      this.#sought.delete(seek);
      found();
    };
    this.#sought.add(seek);
    return () => void this.#sought.delete(seek);
  }

  /** A line of ours between those of the command. */
  note(text: string): void {
    // What was not finished, half a character perhaps, stays so.
    for (const { partial } of this.#sources) if (partial !== "") this.#add(partial);
    for (const source of this.#sources) Object.assign(source, { decoder: new TextDecoder(), partial: "" });
    this.#add(`# ${text}`);
  }

  /** A launch begins, with this command. */
  begin(command: string): void {
    this.note(`starting: ${command}`);
    this.#sources.clear();
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
    const lines = whole === 0 ? [] : this.#lines.slice(-whole);
    for (const { partial } of this.#sources) if (plainLine(partial) !== "") lines.push(plainLine(partial));
    return count === 0 ? [] : lines.slice(-count);
  }

  /** Hears of each further line until the result is called, and when there will be none any more. */
  follow(line: (line: string) => void, over: () => void = () => {}): () => void {
    const follower = { line, over };
    this.#followers.add(follower);
    return () => void this.#followers.delete(follower);
  }

  /** There is no more to come. */
  end(): void {
    for (const { over } of this.#followers) over();
    this.#followers.clear();
  }

  #add(text: string): void {
    const line = plainLine(text);
    this.#lines.push(line);
    this.#fresh++;
    if (this.#lines.length > LINES) this.#lines.shift();
    for (const follower of this.#followers) follower.line(line);
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
