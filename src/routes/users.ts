import { timingSafeEqual } from "node:crypto";
import { now } from "../core/clock.ts";
import { SeikanError, usageError } from "../core/errors.ts";
import { Throttle } from "./throttle.ts";

/** Credentials a peer showed. */
export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/** A token stands for its user: it is the password of an entry that is not hashed. */
export interface Token {
  readonly token: string;
}

/** How long a verified password is believed without hashing it again. */
const CACHE_MS = 60_000;
const CACHE_ENTRIES = 1000;
/** Password hashes computed at once; more wait their turn. */
const HASHES_AT_ONCE = 2;
const HASHES_WAITING = 64;

type Verifier =
  { readonly kind: "plain"; readonly digest: Uint8Array } | { readonly kind: "hash"; readonly hash: string };

/**
 * The users of a server. Verifying takes as long for an unknown user as for a
 * wrong password, good results are remembered for a minute so that slow hashes
 * are no denial of service, and failures slow their address down.
 */
export class Users {
  #verifiers: ReadonlyMap<string, Verifier>;
  /** Users by the keyed digest of their password, for tokens. */
  #byToken: ReadonlyMap<string, string>;
  readonly #secret = crypto.getRandomValues(new Uint8Array(32));
  readonly #verified = new Map<string, number>();
  readonly #throttle = new Throttle();
  #hashing = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(plain: readonly string[], htpasswd = "") {
    this.#verifiers = this.#read(plain, htpasswd);
    this.#byToken = this.#tokens();
  }

  /** Takes the users anew; on an error the old ones stay. */
  replace(plain: readonly string[], htpasswd: string): void {
    this.#verifiers = this.#read(plain, htpasswd);
    this.#byToken = this.#tokens();
    this.#verified.clear();
  }

  #tokens(): Map<string, string> {
    const plain = [...this.#verifiers].flatMap(([user, verifier]): [string, string][] =>
      verifier.kind === "plain" ? [[verifier.digest.toString(), user]] : [],
    );
    return new Map(plain);
  }

  /** Whose credentials these are, or undefined; after a failure it answers late. */
  async identify(shown: Credentials | Token, address: string): Promise<string | undefined> {
    if ("user" in shown) return (await this.verify(shown, address)) ? shown.user : undefined;
    // Looked up by a digest under a secret of this process: its timing says nothing about the token.
    const user = this.#byToken.get(this.#digest(shown.token).toString());
    if (user !== undefined) {
      this.#throttle.forgive(address);
      return user;
    }
    await this.#throttle.punish(address);
    return undefined;
  }

  /** True when these are a user's; after a failure it answers late. */
  async verify(credentials: Credentials, address: string): Promise<boolean> {
    const key = this.#digest(`${credentials.user}\0${credentials.password}`).toString();
    const until = this.#verified.get(key);
    if (until !== undefined && until > now()) return true;
    const asked = this.#verifiers;
    const accepted = await this.#check(credentials);
    // Users that were replaced meanwhile vouch for nobody.
    if (accepted && asked === this.#verifiers) {
      if (this.#verified.size >= CACHE_ENTRIES) this.#verified.clear();
      this.#verified.set(key, now() + CACHE_MS);
      this.#throttle.forgive(address);
      return true;
    }
    await this.#throttle.punish(address);
    return false;
  }

  async #check(credentials: Credentials): Promise<boolean> {
    const verifier = this.#verifiers.get(credentials.user);
    if (verifier?.kind === "plain") return timingSafeEqual(this.#digest(credentials.password), verifier.digest);
    const hash = verifier?.hash ?? this.#decoy();
    if (hash === undefined) {
      timingSafeEqual(this.#digest(credentials.password), this.#digest(""));
      return false;
    }
    const matches = await this.#hashed(() => Bun.password.verify(credentials.password, hash));
    return matches && verifier !== undefined;
  }

  async #hashed(work: () => Promise<boolean>): Promise<boolean> {
    if (this.#hashing >= HASHES_AT_ONCE) {
      if (this.#waiting.length >= HASHES_WAITING)
        throw new SeikanError("auth-throttled", "too many logins at once, try again");
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#hashing++;
    try {
      return await work();
    } finally {
      this.#hashing--;
      this.#waiting.shift()?.();
    }
  }

  /** Hashed for unknown users, so that they take as long as known ones. */
  #decoy(): string | undefined {
    for (const verifier of this.#verifiers.values()) if (verifier.kind === "hash") return verifier.hash;
    return undefined;
  }

  #digest(text: string): Uint8Array {
    return new Bun.CryptoHasher("sha256", this.#secret).update(text).digest();
  }

  #read(plain: readonly string[], htpasswd: string): Map<string, Verifier> {
    const verifiers = new Map<string, Verifier>();
    for (const [number, line] of htpasswd.split(/\r?\n/).entries()) {
      if (line.trim() === "" || line.startsWith("#")) continue;
      const { user, password: hash } = splitUser(line, `line ${number + 1} of the user file`);
      if (!/^\$(2[aby]|argon2(id|i|d))\$/.test(hash)) {
        throw usageError(
          `line ${number + 1} of the user file: expected a bcrypt or argon2 hash`,
          "make one with: htpasswd -nB USER",
        );
      }
      verifiers.set(user, { kind: "hash", hash });
    }
    for (const entry of plain) {
      const { user, password } = splitUser(entry, "a user");
      verifiers.set(user, { kind: "plain", digest: this.#digest(password) });
    }
    return verifiers;
  }
}

/** `USER:PASS`, split at the first colon. The message never shows the text. */
export function splitUser(text: string, what: string): Credentials {
  const colon = text.indexOf(":");
  if (colon < 1) throw usageError(`${what}: expected USER:PASS`);
  return { user: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** What an `Authorization` or `Proxy-Authorization` value says: Basic (RFC 7617) or Bearer (RFC 6750). */
export function parseAuthorization(value: string | undefined): Credentials | Token | undefined {
  const bearer = /^bearer +([A-Za-z0-9._~+/-]+=*) *$/i.exec(value ?? "");
  return bearer === null ? parseBasic(value) : { token: bearer[1]! };
}

/** What a `Basic` field value says, or undefined (RFC 7617). */
export function parseBasic(value: string | undefined): Credentials | undefined {
  const match = /^basic +([A-Za-z0-9+/]+=*) *$/i.exec(value ?? "");
  if (match === null) return undefined;
  const text = Buffer.from(match[1]!, "base64").toString("utf8");
  const colon = text.indexOf(":");
  return colon < 0 ? undefined : { user: text.slice(0, colon), password: text.slice(colon + 1) };
}
