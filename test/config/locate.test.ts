import { describe, expect, test } from "bun:test";
import type { KeyPath } from "../../src/config/key-path.ts";
import { locator } from "../../src/config/locate.ts";

/** `LINE:COLUMN TEXT` of what is meant, the text as it stands there. */
function found(text: string, path: KeyPath, isKey = false): string | undefined {
  const place = locator(text).locate(path, isKey);
  if (place === undefined) return undefined;
  const line = text.split(/\r?\n/)[place.line - 1]!;
  return `${place.line}:${place.column} ${line.slice(place.column - 1, place.column - 1 + place.length)}`;
}

const keyOf = (text: string, path: KeyPath) => found(text, path, true);

describe("a value is found", () => {
  const table: [what: string, text: string, path: KeyPath, expected: string][] = [
    ["in a table", "[a]\nb = 12\n", ["a", "b"], "2:5 12"],
    ["at the top", "b = 12", ["b"], "1:5 12"],
    ["behind blanks", "[a]\n  b   =   'x' # y\n", ["a", "b"], "2:11 'x'"],
    ["behind a tab", "[a]\n\tb\t=\t12\n", ["a", "b"], "2:6 12"],
    ["in the table of a dotted head", "[a.b]\nc = 1\n", ["a", "b", "c"], "2:5 1"],
    ["behind a dotted key", "[a]\nb.c.d = 1\n", ["a", "b", "c", "d"], "2:9 1"],
    ["behind a dotted key with blanks", "a . b = 1\n", ["a", "b"], "1:9 1"],
    ["in an inline table", "a = { b = 1, c = 22 }\n", ["a", "c"], "1:18 22"],
    ["in an inline table of an inline table", "a = { b = { c = 1 } }\n", ["a", "b", "c"], "1:17 1"],
    ["behind a dotted key of an inline table", "a = { b.c = 1 }\n", ["a", "b", "c"], "1:13 1"],
    ["in an inline table of several lines", "a = {\n  b = 1,\n  c = 2,\n}\n", ["a", "c"], "3:7 2"],
    ["in an inline table of a list", "a = [{ b = 1 }, { b = 2 }]\n", ["a", 1, "b"], "1:23 2"],
    ["in a list", "[a]\nb = ['x', 'yy', 'z']\n", ["a", "b", 1], "2:11 'yy'"],
    ["in a list of lists", "a = [[1, 2], [3, 4]]\n", ["a", 1, 0], "1:15 3"],
    ["in a list of several lines", "[a]\nb = [\n  'x', # one\n\n  'yy',\n]\n", ["a", "b", 1], "5:3 'yy'"],
    ["as a whole list", "[a]\nb = ['x', 'y']\n", ["a", "b"], "2:5 ['x', 'y']"],
    ["as a whole inline table", "a = { b = 1 }\n", ["a"], "1:5 { b = 1 }"],
    ["in the second of several tables", "[[a]]\nb = 1\n[[a]]\nb = 2\n", ["a", 1, "b"], "4:5 2"],
    ["in a table of several tables", "[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 2\n", ["a", 1, "b", "c"], "6:5 2"],
    ["behind a quoted key", '[route]\n"*.corp" = "x"\n', ["route", "*.corp"], '2:12 "x"'],
    ["behind a key in single quotes", "[route]\n'a.b' = 'x'\n", ["route", "a.b"], "2:9 'x'"],
    ["behind a key with an escape", '"a\\u0062" = 1\n', ["ab"], "1:13 1"],
    ["in a table with a quoted name", '[token."a b"]\nc = 1\n', ["token", "a b", "c"], "2:5 1"],
    ["in a table that stands twice, dotted", "[a]\nb.c = 1\n[d]\n[a.e]\nf = 2\n", ["a", "e", "f"], "5:5 2"],
    ["behind a text of several lines", 'a = """\nx = 1\n"""\nx = 2\n', ["x"], "4:5 2"],
    ["as a date", "a = 1979-05-27 07:32:00Z\n", ["a"], "1:5 1979-05-27 07:32:00Z"],
    ["where lines end as on Windows", "[a]\r\nb = 1\r\nc = 'x'\r\n", ["a", "c"], "3:5 'x'"],
    ["spelt with underscores", "[a]\nb_c-d = 1\n", ["a", "b-c_d"], "2:9 1"],
  ];
  for (const [what, text, path, expected] of table) {
    test(what, () => expect(found(text, path)).toBe(expected));
  }

  test("by its first mark where it has several lines", () => {
    expect(locator('[a]\nb = """\nx\n"""\n').locate(["a", "b"], false)).toEqual({ line: 2, column: 5, length: 1 });
    expect(locator("[a]\nb = [\n  1,\n]\n").locate(["a", "b"], false)).toEqual({ line: 2, column: 5, length: 1 });
  });

  test("with its length, an empty text included", () => {
    expect(locator("a = ''\n").locate(["a"], false)).toEqual({ line: 1, column: 5, length: 2 });
    expect(locator("a = []\n").locate(["a"], false)).toEqual({ line: 1, column: 5, length: 2 });
  });
});

describe("a key is found", () => {
  const table: [what: string, text: string, path: KeyPath, expected: string][] = [
    ["in a table", "[a]\nbcd = 12\n", ["a", "bcd"], "2:1 bcd"],
    ["as the name of a table", "x = 1\n\n[abc]\n", ["abc"], "3:2 abc"],
    ["as the dotted name of a table", "[token.ci]\n", ["token", "ci"], "1:2 token.ci"],
    ["as the name of one of several tables", "[[abc]]\n[[abc]]\n", ["abc", 1], "2:3 abc"],
    ["as a quoted name of a table", '[token."a b"]\n', ["token", "a b"], '1:2 token."a b"'],
    ["as the first part of a dotted key", "[a]\nbb.cc = 1\n", ["a", "bb"], "2:1 bb"],
    ["as the last part of a dotted key", "[a]\nbb.cc = 1\n", ["a", "bb", "cc"], "2:4 cc"],
    ["in quotes", '[route]\n"*.corp" = "x"\n', ["route", "*.corp"], '2:1 "*.corp"'],
    ["in an inline table", "a = { b = 1, cc = 22 }\n", ["a", "cc"], "1:14 cc"],
    ["spelt with hyphens", "[a]\nb-c = 1\n", ["a", "b_c"], "2:1 b-c"],
  ];
  for (const [what, text, path, expected] of table) {
    test(what, () => expect(keyOf(text, path)).toBe(expected));
  }
});

describe("what is not there", () => {
  test("is found at the table around it", () => {
    expect(keyOf("[a]\nb = 1\n", ["a", "c"])).toBe("1:2 a");
    expect(found("[token.ci]\nb = 1\n", ["token", "ci", "hash"])).toBe("1:2 token.ci");
    expect(keyOf("[a]\nb = { c = 1 }\n", ["a", "b", "d"])).toBe("2:1 b");
    expect(found("[a]\nb = [1]\n", ["a", "b", 7])).toBe("2:1 b");
  });

  test("has no place where there is no table around it either", () => {
    expect(found("[a]\nb = 1\n", ["c", "d"])).toBeUndefined();
    expect(found("", ["a"])).toBeUndefined();
    expect(found("[a]\n", [])).toBeUndefined();
  });
});

describe("the text that is shown", () => {
  const table: [what: string, text: string, shown: string][] = [
    ["is the text where nothing is secret", "[serve]\nlisten = 1\n", "[serve]\nlisten = 1\n"],
    ["has stars for comments", "[serve] # x\nlisten = 1 # was: y\n", "[serve] # *\nlisten = 1 # **** *\n"],
    ["has stars for a secret", '[agent]\ntoken = "s3cret" # mine\n', "[agent]\ntoken = ******** # ****\n"],
    ["has stars for a list of secrets", "[serve]\nauth = ['a:b', 'c']\n", "[serve]\nauth = ******* ****\n"],
    [
      "has stars for a secret of several lines, whose ends stay",
      '[serve]\nagent-token = """\ns3 cret\r\n\tx"""\nwsp = true\n',
      "[serve]\nagent-token = ***\n** ****\r\n\t****\nwsp = true\n",
    ],
    [
      "has stars for a secret in an inline table",
      "agent = { token = 's', qr = true }\n",
      "agent = { token = ***, qr = true }\n",
    ],
    ["has stars for a secret behind a dotted key", "agent.token = 's'\n", "agent.token = ***\n"],
    ["has stars for a secret spelt with underscores", "[serve]\nagent_token = 's'\n", "[serve]\nagent_token = ***\n"],
    ["has stars for a secret that is a number", "[agent]\ntoken = 1234\n", "[agent]\ntoken = ****\n"],
    ["has stars below a secret table", "[service.a.env]\nHOME = 'x'\n", "[service.a.env]\nHOME = ***\n"],
    ["keeps patterns of routes, and no hop", "[route]\n'*.corp' = ['x', 'y']\n", "[route]\n'*.corp' = ***** ****\n"],
    [
      "has its stars in the right place behind what is no ASCII",
      'agent = { name = "é😀漢", token = "s3cret", qr = true }\n',
      'agent = { name = "é😀漢", token = ********, qr = true }\n',
    ],
    [
      "has stars for several secrets",
      "[agent]\nvia = 'x'\nexpose = ['y']\nproxy-auth = 'z'\n",
      "[agent]\nvia = ***\nexpose = *****\nproxy-auth = ***\n",
    ],
  ];
  for (const [what, text, shown] of table) {
    test(what, () => expect(locator(text).shown).toBe(shown));
  }

  test("is as long as the text, line by line", () => {
    const text = '[serve]\nauth = ["ä:😀", """\nb\n"""]\nlisten = 1\n';
    const lengths = (all: string) => all.split("\n").map((line) => line.length);
    const { shown } = locator(text);
    expect(lengths(shown)).toEqual(lengths(text));
    expect(shown).not.toContain("😀");
  });
});
