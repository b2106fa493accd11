import { now } from "../core/clock.ts";
import type { LogFields } from "../core/log.ts";
import { formatWay } from "../routes/route-table.ts";
import { formatPeer, type AccessEntry } from "../routes/context.ts";
import type { CommandIo } from "./command.ts";

export type AccessLogStyle = "pretty" | "json" | "off";

/** What is written for each tunnel and request: never credentials, queries only when asked for. */
export function accessLogger(style: AccessLogStyle, withQuery: boolean, io: CommandIo): (entry: AccessEntry) => void {
  if (style === "off") return () => {};
  return (entry) => {
    const target = withQuery ? entry.target : entry.target.replace(/\?.*$/s, "");
    const fields = fieldsOf(entry);
    if (style === "pretty") return io.log.info(`${entry.method} ${target.slice(0, 500)} ${entry.status}`, fields);
    const event = {
      event: entry.kind,
      time: new Date().toISOString(),
      method: entry.method,
      target,
      status: entry.status,
      ...fields,
    };
    io.print(JSON.stringify(event));
  };
}

function fieldsOf(entry: AccessEntry): LogFields {
  const { client, user, way, up, down, error } = entry;
  return {
    peer: formatPeer(client),
    user,
    route: way === undefined ? undefined : formatWay(way),
    up,
    down,
    ms: Math.round(now() - entry.startedAt),
    end: error === undefined ? undefined : error.code,
    why: error?.forLog,
  };
}
