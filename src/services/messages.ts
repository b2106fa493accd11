import { now } from "../core/clock.ts";
import { SeikanError, type Evidence } from "../core/errors.ts";
import type { Launch } from "./launch.ts";
import type { ServiceSettings } from "./settings.ts";

/** Why a service did not start, or did not stay up, and when that is tried again. */
export interface Failure {
  readonly error: SeikanError;
  readonly againAt: number;
  readonly isTripped: boolean;
  /** It is tried without anybody asking. */
  readonly isAutomatic: boolean;
}

type Named = Pick<ServiceSettings, "name">;

/** What people are told about a service that does not answer. */

export function starting({ name, usualMs }: ServiceSettings, launch: Launch | undefined): SeikanError {
  const seconds = launch === undefined ? 0 : Math.round((now() - launch.startedAt) / 1000);
  const usual = usualMs > 0 ? `; that usually takes ${usualMs / 1000} s` : "";
  const facts: Evidence["facts"] = { since: `${seconds} s` };
  const evidence = launch?.evidence(facts) ?? { facts, output: [] };
  return new SeikanError("service-starting", `${name} is starting${usual}`, {
    evidence: { ...evidence, refreshSeconds: 1 },
  });
}

export function failed({ name }: Named, { error, againAt, isTripped, isAutomatic }: Failure): SeikanError {
  const seconds = Math.max(1, Math.ceil((againAt - now()) / 1000));
  const next = isAutomatic
    ? `it is started again in ${seconds} s`
    : `the first request after ${seconds} s starts it again`;
  const why = isTripped ? "it failed too often: " : "";
  const evidence = error.evidence ?? { facts: {}, output: [] };
  return new SeikanError(error.code, error.message, {
    cause: error,
    hints: [...error.hints, `${why}${next}; seikan services start ${name} starts it now`],
    // A page that is left open shall not keep starting it.
    evidence: isAutomatic ? { ...evidence, refreshSeconds: Math.min(seconds + 1, 5) } : evidence,
  });
}

export function held({ name }: Named): SeikanError {
  return new SeikanError("service-stopped", `${name} was stopped by hand`, {
    hints: [`seikan services start ${name} starts it again`],
  });
}

export function closed({ name }: Named): SeikanError {
  return new SeikanError("shutdown", `${name} is not served any more`);
}

export function startedElsewhere({ name }: Named): SeikanError {
  return new SeikanError("service-stopped", `${name} runs, but was not started by seikan`, {
    hints: ["stop it where it was started"],
  });
}

export function launchDenied({ name }: Named): SeikanError {
  return new SeikanError("launch-denied", `${name} is not running, and another site's page may not start it`, {
    hints: ["open it yourself first, or let the service of that page depend on it (depends_on)"],
  });
}

export function tooMany({ name }: Named, limit: number): SeikanError {
  return new SeikanError("limit-reached", `${limit} requests wait for ${name} already`);
}

export function notOurs({ name }: Named, what: string): SeikanError {
  return new SeikanError("bad-request", `${name} has no command: seikan cannot ${what} it`);
}
