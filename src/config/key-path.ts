/** Where something is in a configuration file: names of tables and keys, and indices of lists. */
export type KeyPath = readonly (string | number)[];

/** Keys whose values are nobody's business: frames show stars for them. */
const SECRET_KEYS =
  /^(auth|token|agent[-_]token|proxy[-_]auth|proxy[-_]header|via|route|server|expose|grant|env|request[-_]header|.*(secret|passw|key).*)$/i;

/** True for a value that must not be shown: it has a secret key, or stands below one. */
export function isSecret(path: KeyPath): boolean {
  const [section, first, ...rest] = path;
  // The name of an entry is no key.
  const isEntry = section === "service" || section === "expose" || section === "token";
  const keys = isEntry ? rest : [first, ...rest];
  return section === "route" || keys.some((key) => typeof key === "string" && SECRET_KEYS.test(key));
}

/** A place in a text: line and column from 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
  readonly length: number;
}
