import { usageError } from "../core/errors.ts";
import { flag, integer, list, text, value, type OptionSpecs } from "../core/options.ts";
import { REACH_OPTIONS, userPass, type Invocation } from "./command.ts";

export const CONNECT_OPTIONS = {
  listen: list({
    group: "Listen",
    short: "L",
    metavar: "SPEC",
    parse: text,
    help: "Listen here instead of using stdin and stdout: PORT, ADDR:PORT or unix:/path for TARGET; LOCAL=HOST:PORT; PORT:HOST:PORT as in ssh; udp: in front of these for UDP; socks5://, http:// or mixed://ADDR:PORT to choose the target per connection",
  }),
  once: flag({ group: "Listen", help: "Serve one local connection, then exit" }),
  auth: list({
    group: "Listen",
    metavar: "USER:PASS",
    separator: " ",
    secret: true,
    parse: userPass,
    help: "Who may use a socks5, http or mixed listener",
  }),
  "no-auth": flag({ group: "Listen", help: "Let everybody use it, also from other machines" }),
  ...REACH_OPTIONS,
  "proxy-auth-command": value({
    group: "Proxy",
    metavar: "CMD",
    parse: text,
    help: "Run by the shell when a proxy asks for credentials; prints the Proxy-Authorization value; the challenges are in $SEIKAN_CHALLENGE",
  }),
  tls: flag({ group: "TLS to the target", help: "Speak TLS to the target, inside the tunnel" }),
  sni: value({
    group: "TLS to the target",
    metavar: "NAME",
    parse: text,
    help: "The name to ask for and to check instead of the target's",
  }),
  alpn: value({
    group: "TLS to the target",
    metavar: "LIST",
    parse: text,
    help: "Protocols to offer, with commas: h2,http/1.1",
  }),
  cacert: value({
    group: "TLS to the target",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Also trust these authorities (PEM)",
  }),
  cert: value({
    group: "TLS to the target",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Client certificate (PEM)",
  }),
  key: value({ group: "TLS to the target", metavar: "FILE", isPath: true, parse: text, help: "Its key" }),
  insecure: flag({ group: "TLS to the target", help: "Accept any certificate" }),
  "pin-sha256": list({
    group: "TLS to the target",
    metavar: "BASE64",
    parse: pin,
    help: "Accept only a certificate with this public key (SHA-256 of its SPKI)",
  }),
  retry: value({
    group: "Limits",
    metavar: "N",
    parse: integer(0, 1_000_000),
    default: "0",
    help: "Try this many times more, with growing pauses, until the first connection succeeds",
  }),
  check: flag({
    group: "General",
    help: "Make the connection step by step, say what each hop answered and where it fails, and exit",
  }),
  "dry-run": flag({ group: "General", help: "Print the way to TARGET and what chose it, and exit" }),
} as const satisfies OptionSpecs;

export type ConnectInvocation = Invocation<typeof CONNECT_OPTIONS>;
export type ConnectValues = ConnectInvocation["values"];

function pin(input: string): string {
  const hash = input.replace(/^sha256\/\//, "");
  // 32 bytes.
  if (!/^[A-Za-z0-9+/]{43}=$/.test(hash))
    throw usageError("expected a SHA-256 in base64: 44 characters, the last one =");
  return hash;
}
