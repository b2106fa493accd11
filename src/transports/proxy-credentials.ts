import { SeikanError } from "../core/errors.ts";
import { basic, digest, digestHash, parseChallenges, type Challenge } from "../wire/proxy-auth.ts";

/** What a person gave to authenticate at a proxy. */
export type ProxySecret =
  | { readonly kind: "password"; readonly user: string; readonly password: string }
  /** A whole `Proxy-Authorization` value: `Bearer …`. */
  | { readonly kind: "value"; readonly value: string }
  /** Asked for a value at each challenge, for schemes we do not speak (NTLM, Negotiate). */
  | { readonly kind: "command"; readonly run: (challenges: readonly string[]) => Promise<string> };

/** NTLM takes three messages; more rounds than this go nowhere. */
const COMMAND_ROUNDS = 3;

/**
 * Authenticates the requests to one proxy. Remembers what the proxy asked for,
 * so that only the first request pays a round trip.
 */
export class ProxyCredentials {
  readonly #secret: ProxySecret | undefined;
  #challenge: Challenge | undefined;
  #uses = 0;

  constructor(secret: ProxySecret | undefined) {
    this.#secret = secret;
  }

  /** The credentials of one request and its answers to challenges. */
  attempt(method: string, uri: string): CredentialAttempt {
    return new CredentialAttempt(this, method, uri);
  }

  /** What to send unasked; undefined when nothing is known that would help. */
  first(method: string, uri: string): string | undefined {
    const secret = this.#secret;
    if (secret?.kind === "value") return secret.value;
    if (secret?.kind !== "password") return undefined;
    if (this.#challenge !== undefined) return this.#digest(secret, method, uri);
    return basic(secret.user, secret.password);
  }

  /** The next thing to try after a 407, or undefined when nothing is left. */
  async answer(lines: readonly string[], method: string, uri: string, round: number): Promise<string | undefined> {
    const secret = this.#secret;
    if (secret?.kind === "command") return round < COMMAND_ROUNDS ? secret.run(lines) : undefined;
    if (secret?.kind !== "password") return undefined;
    const challenge = strongestDigest(parseChallenges(lines));
    if (challenge === undefined) return undefined;
    // The same challenge again means the password is wrong, unless the nonce was only stale.
    const isStale = challenge.params.get("stale")?.toLowerCase() === "true";
    const answered = this.#challenge !== undefined && round > 0;
    if ((answered && !isStale) || round > 1) return undefined;
    this.#challenge = challenge;
    this.#uses = 0;
    return this.#digest(secret, method, uri);
  }

  #digest(secret: { user: string; password: string }, method: string, uri: string): string {
    this.#uses++;
    const cnonce = Buffer.from(crypto.getRandomValues(new Uint8Array(12))).toString("hex");
    return digest(this.#challenge!, {
      user: secret.user,
      password: secret.password,
      method,
      uri,
      count: this.#uses,
      cnonce,
    });
  }
}

/** One request's way through a proxy's challenges. */
export class CredentialAttempt {
  readonly #credentials: ProxyCredentials;
  readonly #method: string;
  readonly #uri: string;
  #round = 0;
  value: string | undefined;

  constructor(credentials: ProxyCredentials, method: string, uri: string) {
    this.#credentials = credentials;
    this.#method = method;
    this.#uri = uri;
    this.value = credentials.first(method, uri);
  }

  /** Prepares the next try after a 407 or 401; throws when the challenge cannot be met. */
  async challenged(lines: readonly string[], hop: string, status: 407 | 401 = 407): Promise<void> {
    const sent = this.value;
    this.value = await this.#credentials.answer(lines, this.#method, this.#uri, this.#round++);
    if (this.value === undefined) throw unmet(lines, hop, status, sent);
  }
}

function strongestDigest(challenges: Challenge[]): Challenge | undefined {
  const usable = challenges.filter((challenge) => digestHash(challenge) !== undefined);
  return usable.find((challenge) => digestHash(challenge) === "sha256") ?? usable[0];
}

function unmet(lines: readonly string[], hop: string, status: 407 | 401, sent: string | undefined): SeikanError {
  if (sent?.startsWith("Bearer ") === true && status === 401) {
    return new SeikanError("hop-auth", `${hop} refused our token (${status})`, {
      hints: ["is the token right, and known to that server? its log says why"],
      hopStatus: status,
    });
  }
  const schemes = [...new Set(parseChallenges(lines).map((challenge) => challenge.scheme))];
  const offered = schemes.length === 0 ? "no scheme at all" : schemes.join(", ");
  const speaksOurs = schemes.some((scheme) => ["basic", "digest", "bearer"].includes(scheme));
  const message =
    sent !== undefined
      ? `${hop} ${speaksOurs ? "refused our credentials" : "takes no such credentials"} (${status}); it offers ${offered}`
      : `${hop} wants credentials (${status}); it offers ${offered}`;
  const hints = speaksOurs
    ? [
        sent !== undefined
          ? "are user and password right?"
          : "write them into the URL (SCHEME://USER:PASS@HOST:PORT) or into --proxy-auth-file",
      ]
    : ["--proxy-auth-command can supply credentials for schemes seikan does not speak"];
  return new SeikanError("hop-auth", message, { hints, hopStatus: status });
}
