import { escapeHtml } from "../core/html.ts";

/** The forms an error is told in; what a client asked for decides (RFC 9110 section 12.5.1). */
export type ErrorForm = "text" | "html" | "problem";

const FORMS: ReadonlyMap<string, ErrorForm> = new Map([
  ["text/html", "html"],
  ["application/xhtml+xml", "html"],
  ["application/problem+json", "problem"],
  ["application/json", "problem"],
  ["text/plain", "text"],
]);

export const CONTENT_TYPES: Readonly<Record<ErrorForm, string>> = {
  text: "text/plain; charset=utf-8",
  html: "text/html; charset=utf-8",
  problem: "application/problem+json",
};

/** The first form with the highest weight; plain text where nothing fits. */
export function errorForm(accept: string): ErrorForm {
  let best: ErrorForm = "text";
  let weight = 0;
  for (const range of accept.split(",")) {
    const [type, ...params] = range.split(";").map((part) => part.trim().toLowerCase());
    const form = FORMS.get(type!);
    const given = params.find((param) => param.startsWith("q="));
    const quality = given === undefined ? 1 : Number(given.slice(2)) || 0;
    if (form === undefined || quality <= weight) continue;
    best = form;
    weight = quality;
  }
  return best;
}

export interface ErrorText {
  readonly status: number;
  /** `Bad Gateway` */
  readonly reason: string;
  /** For programs: `connect-refused`. */
  readonly code: string;
  readonly message: string;
  readonly hints: readonly string[];
}

/** RFC 9457. */
export function problem({ status, reason, code, message, hints }: ErrorText): string {
  return JSON.stringify({ type: "about:blank", title: reason, status, detail: message, code, hints });
}

/** A page that stands by itself: no script, nothing fetched. */
export function errorPage({ status, reason, message, hints }: ErrorText): string {
  const advice = hints.map((hint) => `<p class="hint">${escapeHtml(hint)}</p>`).join("");
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${status} ${escapeHtml(reason)}</title><style>${STYLE}</style>
<main><h1>${status} <span>${escapeHtml(reason)}</span></h1><p>${escapeHtml(message)}</p>${advice}<footer>seikan</footer></main></html>`;
}

/** Sent with pages of ours: they need nothing but their own style. */
export const PAGE_FIELDS: readonly string[] = [
  ...["Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"],
  ...["X-Content-Type-Options", "nosniff", "Cache-Control", "no-store"],
];

const STYLE = `:root{color-scheme:light dark}body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.5 system-ui,sans-serif;
background:light-dark(#f6f7f9,#14171c);color:light-dark(#1c232b,#e4e8ee)}main{max-width:34rem;padding:2rem}
h1{font-size:2.25rem;margin:0 0 .5rem}h1 span{font-weight:400;color:light-dark(#596675,#9aa7b6)}
.hint{padding-left:.75rem;border-left:3px solid light-dark(#2c6bed,#7aa5ff)}footer{margin-top:2rem;color:light-dark(#596675,#9aa7b6);font-size:.85rem}`;
