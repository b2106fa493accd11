import { after } from "./clock.ts";
import { SeikanError } from "./errors.ts";

type Release = () => unknown;

/**
 * Owns things that must be given back: whatever was owned last is released
 * first, each once, also when another release throws.
 */
export class Scope implements AsyncDisposable {
  readonly #releases: Release[] = [];

  own(release: Release): void {
    this.#releases.push(release);
  }

  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (let release = this.#releases.pop(); release !== undefined; release = this.#releases.pop()) {
      try {
        await release();
      } catch (failure) {
        failures.push(failure);
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

interface Abortable {
  abort(reason: SeikanError): void;
  /** A drain began: end now if nothing is under way. */
  drain?(): void;
}

/** The connections that are alive, so that a drain can wait for them and then end them. */
export class LiveSet {
  readonly #members = new Set<Abortable>();
  #emptied: PromiseWithResolvers<void> | undefined;

  get size(): number {
    return this.#members.size;
  }

  add(member: Abortable): void {
    this.#members.add(member);
  }

  delete(member: Abortable): void {
    this.#members.delete(member);
    if (this.#members.size === 0) this.#emptied?.resolve();
  }

  /** Resolves when nothing is alive; after `graceMs` what is left is aborted. */
  async drain(graceMs: number): Promise<void> {
    for (const member of this.#members) member.drain?.();
    if (this.#members.size === 0) return;
    this.#emptied ??= Promise.withResolvers<void>();
    const cancel = after(graceMs, () => this.abortAll(new SeikanError("shutdown", "shutting down")));
    await this.#emptied.promise.finally(cancel);
  }

  abortAll(reason: SeikanError): void {
    for (const member of this.#members) member.abort(reason);
  }
}
