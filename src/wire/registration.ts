import * as v from "valibot";
import { parseIp, parseNetwork } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import { isFieldName, isFieldValue } from "./fields.ts";

/**
 * What an agent and a server tell each other (docs/PROTOCOL.md, "Agents"): JSON
 * in HTTP/1.1 messages, each on a yamux stream of its own.
 */

/** The agent's first request; the answer's body goes on with events. */
export const REGISTER_PATH = "/-/register";
/** How an exposure is, told by the agent whenever it changes. */
export const HEALTH_PATH = "/-/health";
/** Asks the server to come back to the agent through an exposure. */
export const PROBE_PATH = "/-/probe";
export const JSON_TYPE = "application/json";
/** Longest body of a request of these. */
export const CONTROL_BYTES = 1024 * 1024;

const Name = v.pipe(v.string(), v.maxLength(253), v.toLowerCase());
const Port = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65535));
const FieldValue = v.pipe(v.string(), v.maxLength(8000), v.check(isFieldValue, "no value of a field"));
const FieldName = v.pipe(
  v.string(),
  v.maxLength(200),
  v.check((name) => isFieldName(name) && mayEdit(name), "no field that can be changed"),
);
const Field = v.tuple([FieldName, v.nullable(FieldValue)]);
const Network = v.pipe(
  v.string(),
  v.maxLength(100),
  v.check((text) => parseNetwork(text) !== undefined || parseIp(text) !== undefined, "no address and no network"),
);
const UserPass = v.pipe(v.string(), v.maxLength(1000), v.regex(/^[^:]+:/, "expected USER:PASS"));
const HostHeader = v.pipe(v.string(), v.maxLength(300), v.regex(/^[\x21-\x7e]+$/), v.regex(/^[^/?#@,]+$/));

/** Nobody waits longer for a start. */
export const MAX_START_MS = 600_000;

const Exposure = v.object({
  kind: v.picklist(["http", "tcp", "udp", "tls", "private"]),
  /** A DNS label, unique in its agent. */
  name: v.pipe(v.string(), v.regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/)),
  /** `http` and `tls`: a host of its own, instead of one below the server's domain. */
  host: v.optional(Name),
  /** `tcp` and `udp`: the port to open; 0: any that is allowed. */
  port: v.optional(Port),
  /** Visitors must be one of these USER:PASS. */
  auth: v.optional(v.array(UserPass)),
  /** Visitors must come from one of these networks. */
  clients: v.optional(v.array(Network)),
  hostHeader: v.optional(HostHeader),
  /** Set over what comes; null removes. */
  requestFields: v.optional(v.array(Field)),
  responseFields: v.optional(v.array(Field)),
  sticky: v.optional(v.picklist(["cookie", "address"])),
  healthy: v.optional(v.boolean()),
  /** It is started by its first visitor, who may have to wait for so many milliseconds. */
  startMs: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(MAX_START_MS))),
});

/** Fields that frame or route a message are nobody's to change. */
export function mayEdit(name: string): boolean {
  return !/^(content-length|transfer-encoding|connection|upgrade|host|te|trailer)$/i.test(name);
}

const Registration = v.object({
  /** The agent's name. */
  agent: v.pipe(v.string(), v.regex(/^[A-Za-z0-9]([\w.-]{0,98}[A-Za-z0-9])?$/), v.toLowerCase()),
  /** Random, of this process: whoever shows it again is the same agent. */
  key: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{22,64}$/)),
  /** Random, of this connection of the process: one that comes again takes its own place. */
  connection: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{16,64}$/)),
  /** How the agent reaches the server, so that its URLs can be told: `wss://tunnel.example.com`. */
  server: v.pipe(v.string(), v.maxLength(300)),
  exposures: v.pipe(v.array(Exposure), v.maxLength(1000)),
  /** It wants to hear of requests. */
  events: v.optional(v.boolean()),
});

export type ExposureSpec = v.InferOutput<typeof Exposure>;
export type Registration = v.InferOutput<typeof Registration>;

const Health = v.object({ name: v.string(), healthy: v.boolean() });
const Probe = v.object({ name: v.string(), nonce: v.pipe(v.string(), v.regex(/^[a-z0-9]{16,64}$/)) });

/** A command line may be made of these: nothing but names, numbers and what stands between them. */
const Place = v.object({
  name: v.pipe(v.string(), v.regex(/^[a-z0-9-]{1,63}$/)),
  /** `https://web.tunnel.example.com`, `tcp://tunnel.example.com:5432`; none for private ones. */
  url: v.optional(v.pipe(v.string(), v.regex(/^(https?|tcp|udp):\/\/[\w.*:[\]-]{1,300}$/))),
  /** Host and port for programs: `tunnel.example.com:5432`, `db.agent.internal`. */
  address: v.pipe(v.string(), v.regex(/^[\w.*:[\]-]{1,300}$/)),
});

const RegisteredShape = v.object({ exposures: v.array(Place), warnings: v.array(v.string()) });

/** Where an exposure is reached. */
export type ExposedAt = v.InferOutput<typeof Place>;
/** What the server says first. */
export type Registered = v.InferOutput<typeof RegisteredShape>;

/** A visitor's request or connection that is over. */
const RequestEvent = v.object({
  event: v.literal("request"),
  exposure: v.string(),
  peer: v.string(),
  method: v.string(),
  target: v.string(),
  status: v.number(),
  up: v.number(),
  down: v.number(),
  ms: v.number(),
  why: v.optional(v.string()),
});

export type RequestEvent = v.InferOutput<typeof RequestEvent>;

export const parseRegistration = reader(Registration, "registration");
export const parseHealth = reader(Health, "health report");
export const parseProbe = reader(Probe, "probe");
export const parseRegistered = reader(RegisteredShape, "answer to the registration");
export const parseEvent = reader(RequestEvent, "event");

function reader<S extends v.GenericSchema>(schema: S, what: string): (text: string) => v.InferOutput<S> {
  return (text) => {
    const result = v.safeParse(schema, parseJson(text, what));
    if (result.success) return result.output;
    const issue = result.issues[0];
    const path = v.getDotPath(issue);
    throw new SeikanError("bad-request", `malformed ${what}: ${path === null ? "" : `${path}: `}${issue.message}`);
  };
}

function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new SeikanError("bad-request", `malformed ${what}: it is no JSON`, { cause });
  }
}
