/** Values beside a message; printed as `key=value` or as JSON members. */
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

/**
 * What everything below `cli/` may say to people. Messages and fields may hold
 * bytes from peers: whoever prints them escapes control characters.
 */
export interface Logger {
  error(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
}
