import type { ByteStream } from "../core/stream.ts";
import type { RequestHead } from "../wire/http1.ts";
import type { Client, RouteContext } from "./context.ts";

/** An origin-form or absolute-form GET for one of our own paths, after which the connection is no HTTP any more. */
export interface UpgradeRequest {
  readonly context: RouteContext;
  readonly head: RequestHead;
  /** Without the query. */
  readonly path: string;
  readonly client: Client;
  readonly exposed: boolean;
  /** Resolves to the user; throws when there must be one. Credentials come in `Authorization` or `Proxy-Authorization`. */
  authorize(): Promise<string | undefined> | undefined;
  /** Gives the connection away; undefined when the client has gone meanwhile. */
  leave(): ByteStream | undefined;
}

/** Something that lives at a path of ours. */
export interface Endpoint {
  /** What a connection to it is upgraded to. */
  readonly protocol: "websocket" | "connect-udp";
  matches(path: string): boolean;
  /** Throws to refuse: the client is told in plain HTTP. */
  serve(request: UpgradeRequest): Promise<void>;
}
