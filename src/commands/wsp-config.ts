import * as v from "valibot";
import { usageError } from "../core/errors.ts";
import { fieldValue } from "../wire/fields.ts";
import type { WspRequest } from "../wire/wsp.ts";
import { readOptionFile } from "./reach.ts";

/** wsp's own configuration files (YAML): so that its users change the program and nothing else. */

/** YAML reads some texts as numbers. */
const Text = v.pipe(v.union([v.string(), v.number(), v.boolean()]), v.transform(String));

const Rule = v.object({
  method: v.nullish(Text, ""),
  url: v.nullish(Text, ""),
  headers: v.nullish(v.record(v.string(), Text), {}),
});
const Rules = v.nullish(v.array(Rule), []);
const Milliseconds = v.pipe(v.number(), v.integer(), v.minValue(1));

const ServerShape = v.object({
  host: v.nullish(v.string(), "127.0.0.1"),
  port: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65535)), 8080),
  timeout: v.nullish(Milliseconds, 1000),
  idletimeout: v.nullish(Milliseconds, 60_000),
  secretkey: v.nullish(Text, ""),
  whitelist: Rules,
  blacklist: Rules,
});

const DEFAULT_TARGET = "ws://127.0.0.1:8080/register";
const PoolSize = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1000));
const ClientShape = v.object({
  id: v.optional(Text),
  targets: v.nullish(v.array(v.string()), []),
  poolidlesize: v.nullish(PoolSize, 10),
  poolmaxsize: v.nullish(PoolSize, 100),
  secretkey: v.nullish(Text, ""),
  whitelist: Rules,
  blacklist: Rules,
});

type RuleList = v.InferOutput<typeof Rules>;
export type WspServerConfig = v.InferOutput<typeof ServerShape>;
export type WspClientConfig = v.InferOutput<typeof ClientShape>;

export function readWspServer(path: string | undefined): WspServerConfig {
  return read(ServerShape, path);
}

export function readWspClient(path: string | undefined): WspClientConfig {
  const config = read(ClientShape, path);
  // Its file may leave them out, as wsp's own client lets it.
  const targets = path === undefined || config.targets.length > 0 ? config.targets : [DEFAULT_TARGET];
  return { ...config, targets };
}

function read<S extends v.GenericSchema>(schema: S, path: string | undefined): v.InferOutput<S> {
  const text = path === undefined ? "{}" : readOptionFile(path, "wsp-config");
  const config = lowerKeys(parseYaml(text)) ?? {};
  if (typeof config !== "object" || Array.isArray(config))
    throw usageError("--wsp-config: the file holds no keys", "for example secretkey: SECRET");
  const result = v.safeParse(schema, config);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw usageError(`--wsp-config: ${v.getDotPath(issue) ?? "the file"}: ${issue.message}`);
}

function parseYaml(text: string): unknown {
  try {
    return Bun.YAML.parse(text);
  } catch (cause) {
    throw usageError(`--wsp-config: this is no YAML: ${(cause as Error).message}`);
  }
}

/** wsp's keys are its field names in lower case, which it writes in any. */
function lowerKeys(config: unknown): unknown {
  if (typeof config !== "object" || config === null || Array.isArray(config)) return config;
  return Object.fromEntries(Object.entries(config).map(([key, value]) => [key.toLowerCase(), value]));
}

/** Says why a request is forbidden: first no rule of the blacklist, then one of the whitelist must match, if there are any. */
export function wspRules(config: {
  readonly whitelist: RuleList;
  readonly blacklist: RuleList;
}): (request: WspRequest) => string | undefined {
  const denied = (config.blacklist ?? []).map((rule, index) => matcher(rule, `blacklist.${index}`));
  const allowed = (config.whitelist ?? []).map((rule, index) => matcher(rule, `whitelist.${index}`));
  return (request) => {
    if (denied.some((matches) => matches(request))) return "Destination is forbidden";
    if (allowed.length > 0 && !allowed.some((matches) => matches(request))) return "Destination is not allowed";
    return undefined;
  };
}

function matcher({ method, url, headers }: v.InferOutput<typeof Rule>, key: string): (request: WspRequest) => boolean {
  const methods = pattern(method, `${key}.method`);
  const urls = pattern(url, `${key}.url`);
  const fields = Object.entries(headers ?? {}).map(([name, text]) => ({
    name: name.toLowerCase(),
    value: pattern(text, `${key}.headers.${name}`),
  }));
  return (request) =>
    methods.test(request.method) &&
    urls.test(request.url.replace(/^[a-z]+:/i, (scheme) => scheme.toLowerCase())) &&
    // The first value counts, and of a field that is not there an empty one, as in Go.
    fields.every(({ name, value }) => value.test(fieldValue(request.fields, name) ?? ""));
}

/** What RE2 means by these is something else in JavaScript, which would say nothing and match differently. */
const RE2_ONLY = /(?<!\\)(?:\\\\)*\\[AzQEpPCa]|\[\[:|\(\?[a-zA-Z-]*[U-]/;

/** Unanchored, as in wsp; an empty one matches anything. Written for Go's RE2: what is not the same here is translated or refused. */
function pattern(text: string, key: string): RegExp {
  const [, flags = "", rest = text] = /^\(\?([ims]+)\)(.*)$/s.exec(text) ?? [];
  const anchored = flags.includes("m") ? rest : rest.replace(/^\\A/, "^").replace(/(?<!\\)\\z$/, "$");
  if (RE2_ONLY.test(anchored))
    throw usageError(
      `--wsp-config: ${key}: "${text}" says in RE2 what regular expressions of JavaScript do not`,
      "write it without \\A, \\z, \\Q, \\p and [[:class:]]: ^ $ [A-Za-z] and the like mean the same in both",
    );
  try {
    return new RegExp(anchored, flags);
  } catch (cause) {
    throw usageError(`--wsp-config: ${key}: "${text}" is no regular expression: ${(cause as Error).message}`);
  }
}
