import { describe, expect, test } from "bun:test";
import { codeFrame, configError, syntaxError, type Finding } from "../../src/config/mistakes.ts";

describe("a code frame", () => {
  const LINES = "one\ntwo\nthree\nfour";

  test("has the line, its neighbours, and a mark below what is meant", () => {
    expect(codeFrame(LINES, { line: 2, column: 2, length: 2 })).toEqual([
      "  1 | one",
      "> 2 | two",
      "    |  ^^",
      "  3 | three",
    ]);
  });

  test("has nothing before the first line", () => {
    expect(codeFrame(LINES, { line: 1, column: 1, length: 3 })).toEqual(["> 1 | one", "    | ^^^", "  2 | two"]);
  });

  test("has nothing behind the last line", () => {
    expect(codeFrame(LINES, { line: 4, column: 4, length: 1 })).toEqual(["  3 | three", "> 4 | four", "    |    ^"]);
  });

  test("is one line where there is no other", () => {
    expect(codeFrame("one", { line: 1, column: 1, length: 1 })).toEqual(["> 1 | one", "    | ^"]);
  });

  test("has its numbers below each other", () => {
    const text = Array.from({ length: 101 }, (_, index) => `line ${index + 1}`).join("\n");
    expect(codeFrame(text, { line: 9, column: 1, length: 4 })).toEqual([
      "   8 | line 8",
      ">  9 | line 9",
      "     | ^^^^",
      "  10 | line 10",
    ]);
    expect(codeFrame(text, { line: 100, column: 6, length: 3 })).toEqual([
      "   99 | line 99",
      "> 100 | line 100",
      "      |      ^^^",
      "  101 | line 101",
    ]);
  });

  test("has an empty line without blanks behind it", () => {
    expect(codeFrame("\none\n\n", { line: 2, column: 1, length: 3 })).toEqual([
      "  1 |",
      "> 2 | one",
      "    | ^^^",
      "  3 |",
    ]);
  });

  test("has no carriage returns", () => {
    expect(codeFrame("one\r\ntwo\r\nthree\r\n", { line: 2, column: 1, length: 3 })).toEqual([
      "  1 | one",
      "> 2 | two",
      "    | ^^^",
      "  3 | three",
    ]);
  });

  test("marks one place at least, and nothing behind the end of the line", () => {
    expect(codeFrame("a =\nb", { line: 1, column: 4, length: 5 })).toEqual(["> 1 | a =", "    |    ^", "  2 | b"]);
    expect(codeFrame("a = [\n1]", { line: 1, column: 5, length: 99 })).toEqual([
      "> 1 | a = [",
      "    |     ^",
      "  2 | 1]",
    ]);
    expect(codeFrame("a = [\r\n1]", { line: 1, column: 5, length: 99 })[1]).toBe("    |     ^");
    expect(codeFrame("", { line: 1, column: 1, length: 1 })).toEqual(["> 1 |", "    | ^"]);
  });

  test("has a long line whole, the mark where it belongs", () => {
    const long = "x".repeat(500);
    expect(codeFrame(`${long} = 1`, { line: 1, column: 504, length: 1 })).toEqual([
      `> 1 | ${long} = 1`,
      `    | ${" ".repeat(503)}^`,
    ]);
  });

  test("has its mark below what is meant behind a tab", () => {
    const [line, mark] = codeFrame("\tlisen = 1", { line: 1, column: 2, length: 5 });
    expect(mark!.indexOf("^^^^^")).toBe(line!.indexOf("lisen"));
  });
});

describe("what is wrong in a file", () => {
  const finding = (path: Finding["path"], message: string, isKey = false, hint?: string): Finding => ({
    path,
    message,
    isKey,
    ...(hint !== undefined && { hint }),
  });

  test("is one usage error, each mistake with its place, in the order of the file", async () => {
    const text = '[serve]\nlisen = 1\nquiet = 2\n[agent]\nname = ""\n';
    const error = await configError("/x/seikan.toml", text, [
      finding(["agent", "name"], "name: third"),
      finding(["serve", "quiet"], "quiet: second"),
      finding(["serve", "lisen"], "first", true, "did you mean `listen`?"),
    ]);
    expect(error.code).toBe("usage");
    expect(error.outcome.exit).toBe(2);
    expect(error.message).toBe("/x/seikan.toml has 3 mistakes");
    expect(error.hints).toEqual([]);
    expect(error.mistakes).toEqual([
      {
        message: "first",
        hint: "did you mean `listen`?",
        line: 2,
        column: 1,
        frame: ["  1 | [serve]", "> 2 | lisen = 1", "    | ^^^^^", "  3 | quiet = 2"],
      },
      {
        message: "quiet: second",
        hint: undefined,
        line: 3,
        column: 9,
        frame: ["  2 | lisen = 1", "> 3 | quiet = 2", "    |         ^", "  4 | [agent]"],
      },
      {
        message: "name: third",
        hint: undefined,
        line: 5,
        column: 8,
        frame: ["  4 | [agent]", '> 5 | name = ""', "    |        ^^", "  6 |"],
      },
    ]);
  });

  test("is in the order of the columns within a line", async () => {
    const error = await configError("f", "a = { b = 1, c = 2 }\n", [
      finding(["a", "c"], "c"),
      finding(["a", "b"], "b"),
    ]);
    expect(error.mistakes.map(({ message, line, column }) => [message, line, column])).toEqual([
      ["b", 1, 11],
      ["c", 1, 18],
    ]);
  });

  test("is a mistake where it is one", async () => {
    const error = await configError("seikan.toml", "a = 1\n", [finding(["a"], "no", true)]);
    expect(error.message).toBe("seikan.toml has a mistake");
  });

  test("comes without a frame where it has no place", async () => {
    const error = await configError("f", "a = 1\n", [finding(["b"], "b is missing", true)]);
    expect(error.mistakes).toEqual([
      { message: "b is missing", hint: undefined, line: undefined, column: undefined, frame: [] },
    ]);
  });

  test("is shown without the secrets of its line and of its neighbours", async () => {
    const text = '[serve]\nauth = ["ann:s3cret"]\nlisen = 1\nagent-token = "s3cret"\n';
    const error = await configError("f", text, [finding(["serve", "lisen"], "no", true)]);
    expect(error.mistakes[0]!.frame).toEqual([
      "  2 | auth = **************",
      "> 3 | lisen = 1",
      "    | ^^^^^",
      "  4 | agent-token = ********",
    ]);
    const inner = await configError("f", text, [finding(["serve", "auth", 0], "no")]);
    expect(inner.mistakes[0]!.frame).toEqual([
      "  1 | [serve]",
      "> 2 | auth = **************",
      "    |         ^^^^^^^^^^^^",
      "  3 | lisen = 1",
    ]);
  });
});

describe("a text that is no TOML", () => {
  test("is one mistake with its place", () => {
    const error = syntaxError("/x/seikan.toml", "[serve]\nlisten 1\nquiet = true\n", 2, 8, "no");
    expect(error.code).toBe("usage");
    expect(error.message).toBe("/x/seikan.toml has a mistake");
    expect(error.mistakes).toEqual([
      {
        message: "no",
        hint: undefined,
        line: 2,
        column: 8,
        frame: ["  1 | [serve]", "> 2 | ****** *", "    |        ^", "  3 | ***** * ****"],
      },
    ]);
  });

  test("is shown with stars for what stands behind keys", () => {
    const text = 'via = \'http://ann:s3cret@h\'\nauth = ["ann:s3cret"] x\nagent-token = "s3cret\n';
    expect(syntaxError("f", text, 2, 23, "no").mistakes[0]!.frame).toEqual([
      "  1 | *** * *********************",
      "> 2 | auth = ************** *",
      "    |                       ^",
      "  3 | *********** * *******",
    ]);
  });

  test("is shown with stars for what is in quotes of the other kind, or escaped", () => {
    const [line] = syntaxError("f", `token = "s3'cret\\"s3cret"`, 1, 1, "no").mistakes[0]!.frame;
    expect(line).not.toContain("cret");
    expect(line!.length).toBe(`> 1 | token = "s3'cret\\"s3cret"`.length);
  });
});
