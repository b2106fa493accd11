import type { Evidence } from "../core/errors.ts";
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
  readonly evidence?: Evidence | undefined;
}

/** RFC 9457. */
export function problem({ status, reason, code, message, hints, evidence }: ErrorText): string {
  const { facts, output } = evidence ?? {};
  return JSON.stringify({ type: "about:blank", title: reason, status, detail: message, code, hints, ...facts, output });
}

/** For terminals. */
export function errorLines({ message, hints, evidence }: ErrorText): string {
  const facts = Object.entries(evidence?.facts ?? {}).map(([name, value]) => `${inWords(name)}: ${value}`);
  const output = (evidence?.output ?? []).map((line) => `  | ${line}`);
  return [`seikan: ${message}`, ...facts, ...output, ...hints.map((hint) => `hint: ${hint}`)].join("\n");
}

/** `exitCode` is an exit code. */
function inWords(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

/** A page that stands by itself: no script, nothing fetched. It asks again where it is worth it. */
export function errorPage({ status, reason, code, message, hints, evidence }: ErrorText): string {
  const advice = hints.map((hint) => `<p class="hint">${escapeHtml(hint)}</p>`).join("");
  const { refreshSeconds } = evidence ?? {};
  const refresh = refreshSeconds === undefined ? "" : `<meta http-equiv="refresh" content="${refreshSeconds}">`;
  const isStarting = code === "service-starting";
  const title = isStarting ? "Starting" : `${status} ${escapeHtml(reason)}`;
  const heading = isStarting
    ? '<h1>Starting<span class="dots">\u2026</span></h1>'
    : `<h1>${status} <span>${escapeHtml(reason)}</span></h1>`;
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">${refresh}
<title>${title}</title><style>${STYLE}</style>
<main>${heading}<p role="status">${escapeHtml(message)}</p>${advice}${evidenceHtml(evidence)}<footer>seikan</footer></main></html>`;
}

function evidenceHtml(evidence: Evidence | undefined): string {
  if (evidence === undefined || Object.keys(evidence.facts).length === 0) return "";
  const rows = Object.entries(evidence.facts).map(
    ([name, value]) => `<dt>${escapeHtml(inWords(name))}</dt><dd>${escapeHtml(String(value))}</dd>`,
  );
  const output = evidence.output.join("\n");
  const said =
    output === ""
      ? '<p class="quiet">It has printed nothing yet.</p>'
      : `<pre tabindex="0">${escapeHtml(output)}</pre>`;
  return `<dl>${rows.join("")}</dl>${said}`;
}

/** Sent with pages of ours: they need nothing but their own style. */
export const PAGE_FIELDS: readonly string[] = [
  ...["Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"],
  ...["X-Content-Type-Options", "nosniff", "Cache-Control", "no-store"],
];

const STYLE = `:root{color-scheme:light dark}body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.5 system-ui,sans-serif;
background:light-dark(#f6f7f9,#14171c);color:light-dark(#1c232b,#e4e8ee)}main{box-sizing:border-box;width:min(46rem,100vw);padding:2rem}
h1{font-size:2.25rem;margin:0 0 .5rem}h1 span{font-weight:400;color:light-dark(#596675,#9aa7b6)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem .9rem;margin:1.25rem 0;font-size:.9rem}dt{color:light-dark(#596675,#9aa7b6)}dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,monospace}
pre{max-height:22rem;overflow:auto;padding:.75rem 1rem;border-radius:.4rem;background:light-dark(#e9edf2,#0c0f13);font:13px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}.quiet{color:light-dark(#596675,#9aa7b6)}
@media (prefers-reduced-motion:no-preference){.dots{animation:pulse 1.4s ease-in-out infinite}@keyframes pulse{50%{opacity:.25}}}
.hint{padding-left:.75rem;border-left:3px solid light-dark(#2c6bed,#7aa5ff)}footer{margin-top:2rem;color:light-dark(#596675,#9aa7b6);font-size:.85rem}`;
