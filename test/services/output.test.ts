import { describe, expect, test } from "bun:test";
import { Output } from "../../src/services/output.ts";
import { byteByByte, cutAtRandom, randomNumbers, splits } from "../support/random.ts";

/** What a command printed to one stream. */
class Written extends Output {
  #take = this.source();

  write(chunk: Uint8Array): void {
    this.#take(chunk);
  }

  override begin(command: string): void {
    super.begin(command);
    this.#take = this.source();
  }
}

/** What is kept of these chunks, more than that many lines at most. */
function kept(chunks: Iterable<string | Uint8Array>, count = 1000): string[] {
  const output = new Written();
  for (const chunk of chunks) output.write(Buffer.from(chunk as string));
  return output.tail(count);
}

/** Texts as commands print them, and what is shown of them. */
const SHOWN: readonly [printed: string, shown: string][] = [
  ["plain", "plain"],
  ["", ""],
  ["  two blanks, and a\ttab  ", "  two blanks, and a\ttab  "],
  ["gr\u00fc\u00df dich \u4e16\u754c \ud83d\ude80", "gr\u00fc\u00df dich \u4e16\u754c \ud83d\ude80"],
  ["\x1b[31mred\x1b[0m", "red"],
  ["\x1b[1;38;5;208mbold\x1b[22;39m and not", "bold and not"],
  ["\x1b[38:2::255:128:0mcolon colours\x1b[m", "colon colours"],
  ["\x1b[2K\x1b[1Gat the beginning", "at the beginning"],
  ["\x1b[?25lno cursor\x1b[?25h", "no cursor"],
  ["\x1b[>4;2mmodes\x1b[!p", "modes"],
  ["\x1b[2 qcursor shape", "cursor shape"],
  ["\x1b]0;a title\x07text", "text"],
  ["\x1b]0;a title \u4e16\u754c\x1b\\text", "text"],
  ["\x1b]8;;http://localhost:5173/\x1b\\a link\x1b]8;;\x1b\\ ends", "a link ends"],
  ["\x1bMone up\x1bE", "one up"],
  ["10%\r50%\r100%", "100%"],
  ["10%\r50%\r100%\r", "100%"],
  ["text\r", "text"],
  ["text\r\r\r", "text"],
  ["\r\x1b[K\u2839 building\r\x1b[K\u2713 built", "\u2713 built"],
  ["bell\x07, null\x00, back\x08, delete\x7f, feed\x0c", "bell, null, back, delete, feed"],
];

describe("lines of a command", () => {
  for (const [printed, shown] of SHOWN) {
    test(`${JSON.stringify(printed)} is shown as ${JSON.stringify(shown)}`, () => {
      expect(kept([`${printed}\n`])).toEqual([shown]);
      expect(kept([`before\n${printed}\r\nbehind\n`])).toEqual(["before", shown, "behind"]);
    });

    test(`${JSON.stringify(printed)} is the same in parts`, () => {
      const bytes = Buffer.from(`${printed}\n`);
      for (const [first, second] of splits(bytes)) expect(kept([first, second])).toEqual([shown]);
      expect(kept(byteByByte(bytes))).toEqual([shown]);
    });
  }

  test("are the same wherever the chunks are cut", () => {
    const random = randomNumbers();
    for (let round = 0; round < 300; round++) {
      const lines = Array.from({ length: 1 + random(12) }, () => SHOWN[random(SHOWN.length)]!);
      const ends = lines.map(() => (random(2) === 0 ? "\n" : "\r\n"));
      const bytes = Buffer.from(lines.map(([printed], index) => printed + ends[index]!).join(""));
      const output = new Written();
      const heard: string[] = [];
      output.follow((line) => void heard.push(line));
      for (const chunk of cutAtRandom(bytes, random)) output.write(chunk);
      const expected = lines.map(([, shown]) => shown);
      expect(output.tail(1000)).toEqual(expected);
      expect(heard).toEqual(expected);
    }
  });

  // Escapes that are neither CSI nor OSC; the first is in every `tput sgr0`.
  for (const [what, printed] of [
    ["a character set", "\x1b(B\x1b[mtext\x1b)0"],
    ["a saved cursor", "\x1b7te\x1b8xt"],
    ["a keypad", "\x1b=text\x1b>"],
    ["a reset", "\x1bctext"],
    ["an 8-bit control sequence", "\u009b31mtext\u009b0m"],
  ] as const) {
    test(`are shown without ${what}`, () => {
      expect(kept([`${printed}\n`])).toEqual(["text"]);
    });
  }

  test("that are no UTF-8 are shown with a mark in the place", () => {
    expect(kept([Uint8Array.of(0x61, 0xff, 0x62, 0x0a)])).toEqual(["a\ufffdb"]);
  });
});

describe("of what a command printed", () => {
  const numbered = (count: number) => Array.from({ length: count }, (_, index) => `line ${index}`);

  test("500 lines are kept", () => {
    expect(kept([numbered(1200).join("\n"), "\n"], 10_000)).toEqual(numbered(1200).slice(700));
  });

  test("lines are cut after 2000 characters", () => {
    const long = `${"a".repeat(1999)}bc`;
    expect(kept([`${long}\nnext\n`])).toEqual([long.slice(0, 2000), "next"]);
    expect(kept([long.slice(0, 1000), long.slice(1000), "\n"])).toEqual([long.slice(0, 2000)]);
  });

  test("the same of a line is kept however long it is, in one chunk", () => {
    const long = Array.from({ length: 5000 }, (_, index) => `${index} `).join("");
    expect(kept([`${long}\n`])).toEqual([long.slice(0, 2000)]);
  });

  test("the same of a line is kept however long it is, in many chunks", () => {
    const long = Array.from({ length: 5000 }, (_, index) => `${index} `).join("");
    const chunks = Array.from({ length: Math.ceil(long.length / 1000) }, (_, at) =>
      long.slice(at * 1000, at * 1000 + 1000),
    );
    expect(kept([...chunks, "\n"])).toEqual([long.slice(0, 2000)]);
  });

  test("of a line that never ends its characters are told as far as the limit", () => {
    const output = new Written();
    const chunk = Buffer.alloc(100_000, "x");
    for (let i = 0; i < 100; i++) output.write(chunk);
    expect(output.tail(10)).toEqual(["x".repeat(2000)]);
  });

  test("a progress bar without end shows its last state", () => {
    const output = new Written();
    for (let i = 0; i <= 20_000; i++) output.write(Buffer.from(`\r${i} of 20000`));
    expect(output.tail(10)).toEqual(["20000 of 20000"]);
  });

  test("the last lines are told, the unfinished one included", () => {
    const chunks = ["one\ntwo\nthree\nfo"];
    expect([kept(chunks), kept(chunks, 3), kept(chunks, 2), kept(chunks, 1)]).toEqual([
      ["one", "two", "three", "fo"],
      ["two", "three", "fo"],
      ["three", "fo"],
      ["fo"],
    ]);
    expect(kept(["one\ntwo\n"], 1)).toEqual(["two"]);
    expect(kept([])).toEqual([]);
  });

  test("an unfinished line is told once, and goes on", () => {
    const output = new Written();
    output.write(Buffer.from("10%\r20"));
    expect([output.tail(5), output.tail(5)]).toEqual([["20"], ["20"]]);
    output.write(Buffer.from("%\nnext"));
    expect(output.tail(5)).toEqual(["20%", "next"]);
  });

  test("an unfinished line of which nothing is to be seen is none", () => {
    expect(kept(["one\n\x1b[0m"])).toEqual(["one"]);
  });

  test("no line is told where none is asked for", () => {
    expect(kept(["one\ntwo\n"], 0)).toEqual([]);
  });
});

describe("a note", () => {
  test("stands between the lines, behind the unfinished one", () => {
    const output = new Written();
    output.write(Buffer.from("one\ntw"));
    output.note("exit code 1");
    output.write(Buffer.from("o\n"));
    expect(output.tail(10)).toEqual(["one", "tw", "# exit code 1", "o"]);
  });

  test("is plain text, too", () => {
    const output = new Written();
    output.note("starting: printf '\x1b[31m'");
    expect(output.tail(10)).toEqual(["# starting: printf ''"]);
  });

  test("ends a character that was never finished", () => {
    const output = new Written();
    output.write(Uint8Array.of(0xe4, 0xb8));
    output.note("SIGKILL");
    output.write(Buffer.from("next\n"));
    expect(output.tail(1)).toEqual(["next"]);
  });
});

describe("what the last launch printed", () => {
  /** A launch that printed this, after another one. */
  function second(...printed: string[]): Written {
    const output = new Written();
    output.begin("first");
    output.write(Buffer.from("of the first\n"));
    output.note("exit code 1");
    output.begin("second");
    for (const one of printed) output.write(Buffer.from(one));
    return output;
  }

  test("is told without what the one before it said", () => {
    expect(second("one\n", "two\n", "thr").latest(30)).toEqual(["one", "two", "thr"]);
    expect(second("one\n", "two\n", "thr").latest(2)).toEqual(["two", "thr"]);
    expect(second("one\n").latest(1)).toEqual(["one"]);
  });

  test("is nothing where it said nothing", () => {
    expect(second().latest(30)).toEqual([]);
  });

  test("is among all lines, with the commands", () => {
    expect(second("one\n").tail(30)).toEqual([
      ...["# starting: first", "of the first", "# exit code 1", "# starting: second", "one"],
    ]);
  });

  test("is bounded like everything", () => {
    const output = second(...Array.from({ length: 700 }, (_, index) => `${index}\n`));
    expect(output.latest(1000)).toEqual(Array.from({ length: 500 }, (_, index) => String(index + 200)));
  });

  test("is nothing where there is nothing to be seen of it", () => {
    expect(second("\x1b[?25l").latest(30)).toEqual([]);
  });
});

describe("followers", () => {
  test("hear of each line that is whole, and of notes", () => {
    const output = new Written();
    output.write(Buffer.from("before\n"));
    const heard: string[] = [];
    output.follow((line) => void heard.push(line));
    output.write(Buffer.from("\x1b[32mone\x1b[0m\ntw"));
    expect(heard).toEqual(["one"]);
    output.write(Buffer.from("o\nthr"));
    output.note("SIGTERM");
    expect(heard).toEqual(["one", "two", "thr", "# SIGTERM"]);
  });

  test("hear of nothing once they left, each for itself", () => {
    const output = new Written();
    const [a, b]: [string[], string[]] = [[], []];
    const leaveA = output.follow((line) => void a.push(line));
    output.follow((line) => void b.push(line));
    output.write(Buffer.from("one\n"));
    leaveA();
    leaveA();
    output.write(Buffer.from("two\n"));
    expect([a, b]).toEqual([["one"], ["one", "two"]]);
  });

  test("may leave while they are told", () => {
    const output = new Written();
    const [once, all]: [string[], string[]] = [[], []];
    const leave = output.follow((line) => {
      once.push(line);
      leave();
    });
    output.follow((line) => void all.push(line));
    output.write(Buffer.from("one\ntwo\n"));
    expect([once, all]).toEqual([["one"], ["one", "two"]]);
  });

  test("hear also of lines that are not kept any more", () => {
    const output = new Written();
    let count = 0;
    output.follow(() => void count++);
    output.write(Buffer.from("x\n".repeat(2000)));
    expect(count).toBe(2000);
  });
});
