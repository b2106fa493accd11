import { describe, expect, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import { errorAnswer } from "../../src/routes/answers.ts";
import { errorForm, errorPage, problem, type ErrorForm, type ErrorText } from "../../src/routes/error-page.ts";

const BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

describe("the form of an error", () => {
  const table: [accept: string, form: ErrorForm][] = [
    ["", "text"],
    ["*/*", "text"],
    ["image/png", "text"],
    ["text/plain", "text"],
    ["text/html", "html"],
    ["TEXT/HTML", "html"],
    [" text/html ", "html"],
    ["text/html;charset=utf-8", "html"],
    ["application/xhtml+xml", "html"],
    [BROWSER, "html"],
    ["application/json", "problem"],
    ["application/problem+json", "problem"],
    ["application/json, text/plain, */*", "problem"],
    // The first one where several are as good.
    ["text/html, application/json", "html"],
    ["application/json, text/html", "problem"],
    ["text/plain, text/html", "text"],
    ["text/html;q=0.5, text/plain;q=0.5", "html"],
    // The highest weight.
    ["text/html;q=0.8, application/json;q=0.9", "problem"],
    ["application/json;q=0.9, text/html", "html"],
    ["text/html;q=0.001", "html"],
    ["text/html ; q=0.2 , text/plain ; q=0.3", "text"],
    ["text/html;Q=0.1,application/json;q=0.2", "problem"],
    ["text/html;level=1;q=0.3, application/json;q=0.4", "problem"],
    ["text/html;q=1.000, application/json;q=0.999", "html"],
    // Nothing of what is not wanted.
    ["text/html;q=0", "text"],
    ["text/html;q=0.000, application/json;q=0.1", "problem"],
    ["text/html;q=0, */*", "text"],
    // Weights that are none.
    ["text/html;q=, application/json;q=0.1", "problem"],
    ["text/html;q=high", "text"],
    ["text/html;q=-1", "text"],
    // No types at all.
    [",,;q=1,", "text"],
    ["html", "text"],
    ["text/html/x", "text"],
  ];
  for (const [accept, form] of table) {
    test(`is ${form} for ${JSON.stringify(accept)}`, () => {
      expect(errorForm(accept)).toBe(form);
    });
  }

  // Names that every object has are looked up like types.
  for (const accept of ["constructor", "__proto__"]) {
    test(`is text for ${accept}`, () => {
      expect(errorForm(accept)).toBe("text");
    });
  }
});

const EVIL = `<script>alert("1")</script>'&amp;\u2028<img src=x onerror=alert(1)>`;
const ERROR: ErrorText = {
  status: 502,
  reason: "Bad Gateway",
  code: "connect-refused",
  message: "it is away",
  hints: [],
};

/** Everything between tags, with its escapes undone; throws where there are tags that are none of ours. */
function textOf(html: string): string {
  const ours =
    /<(\/?(?:html|meta|title|main|h1|span|p|footer)(?: [a-z-]+="[^"<>]*")*|style>[^<]*<\/style|!doctype html)>/g;
  const left = html.replaceAll(ours, "\0");
  expect(left).not.toMatch(/[<>]/);
  return left.replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)));
}

describe("the page of an error", () => {
  test("says the status, the reason, the sentence and the hints", () => {
    const text = textOf(errorPage({ ...ERROR, hints: ["try again", "or wait"] }));
    for (const part of ["502 Bad Gateway", "it is away", "try again", "or wait"]) expect(text).toContain(part);
  });

  test("escapes everything that it reflects", () => {
    const html = errorPage({ ...ERROR, reason: `r${EVIL}`, message: `m${EVIL}`, hints: [`h${EVIL}`, `i${EVIL}`] });
    expect(html).not.toContain("<script");
    expect(html).not.toContain("<img");
    expect(html).not.toContain('"1"');
    const text = textOf(html);
    for (const part of ["r", "m", "h", "i"]) expect(text).toContain(part + EVIL);
  });

  test("fetches nothing and runs nothing", () => {
    const html = errorPage({ ...ERROR, hints: ["a"] });
    expect(html).not.toMatch(/<script|<link|<img|<iframe|\bsrc=|\bhref=|\bon[a-z]+=|url\(|@import/i);
  });
});

describe("the problem document of an error", () => {
  test("is one of RFC 9457", () => {
    const text = problem({ ...ERROR, message: EVIL, hints: ["a"] });
    expect(JSON.parse(text)).toEqual({
      ...{ type: "about:blank", title: "Bad Gateway", status: 502, detail: EVIL },
      ...{ code: "connect-refused", hints: ["a"] },
    });
  });
});

describe("the answer of a site that fails", () => {
  const error = new SeikanError("site-away", "it is away", { hints: ["try again"] });
  const answered = (accept: string, headOnly = false) => {
    const [head = "", body] = errorAnswer(error, "seikan", { asOrigin: true, accept, headOnly })
      .toString()
      .split("\r\n\r\n");
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, "im").exec(head)?.[1]?.trim();
    return { head, body, field };
  };

  test("is a page for a browser, which may load nothing", () => {
    const { head, body, field } = answered(BROWSER);
    expect(head).toStartWith("HTTP/1.1 503 ");
    expect(field("Content-Type")).toBe("text/html; charset=utf-8");
    expect(field("Content-Security-Policy")).toStartWith("default-src 'none'");
    expect(field("X-Content-Type-Options")).toBe("nosniff");
    expect(body).toStartWith("<!doctype html>");
    expect(Number(field("Content-Length"))).toBe(Buffer.byteLength(body!));
  });

  test("is a problem document for a program that asks for JSON", () => {
    const { body, field } = answered("application/json");
    expect(field("Content-Type")).toBe("application/problem+json");
    expect(JSON.parse(body!)).toMatchObject({ status: 503, code: "site-away", detail: "it is away" });
  });

  test("is plain text for everybody else", () => {
    const { body, field } = answered("*/*");
    expect(field("Content-Type")).toBe("text/plain; charset=utf-8");
    expect(body).toBe("seikan: it is away\nhint: try again\n");
  });

  test("to HEAD has no body, and its length", () => {
    const { body, field } = answered(BROWSER, true);
    expect(body).toBe("");
    expect(Number(field("Content-Length"))).toBeGreaterThan(500);
  });

  test("asks for a password as a site does", () => {
    const text = errorAnswer(new SeikanError("auth-required", "x"), "seikan", { asOrigin: true }).toString();
    expect(text).toStartWith("HTTP/1.1 401 ");
    expect(text).toContain("\r\nWWW-Authenticate: Basic ");
    expect(text).not.toContain("Proxy-Authenticate");
  });
});
