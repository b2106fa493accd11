import { formatTarget } from "../core/address.ts";
import { deadlineIn } from "../core/clock.ts";
import type { ByteStream } from "../core/stream.ts";
import type { CredentialAttempt } from "../transports/proxy-credentials.ts";
import { tlsClient } from "../transports/tls.ts";
import { withoutFields } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import type { ErrorStyle } from "./answers.ts";
import { checkTarget, dialTarget, type Asker, type RouteContext } from "./context.ts";
import { forwardedFields, type ForwardTarget } from "./forward-request.ts";
import type { Destination, Outgoing } from "./forward.ts";
import type { Way } from "./route-table.ts";

/** The origin of an absolute-form request, or the upstream proxy that leads there. */
export class ForwardProxy implements Destination {
  readonly way: Way;
  readonly origin: string;
  readonly credentials: CredentialAttempt | undefined;
  readonly style: ErrorStyle = {};
  readonly idle = undefined;
  readonly #context: RouteContext;
  readonly #head: RequestHead;
  readonly #target: ForwardTarget;
  readonly #asker: Asker;

  constructor(context: RouteContext, head: RequestHead, target: ForwardTarget, asker: Asker) {
    this.#context = context;
    this.#head = head;
    this.#target = target;
    this.#asker = asker;
    this.way = context.routes.choose(target.tcp, asker.agent);
    const proxy = this.way.httpProxy;
    this.origin = proxy?.name ?? `${asker.agent ?? ""} ${target.isSecure ? "tls " : ""}${formatTarget(target.tcp)}`;
    this.credentials = proxy?.credentials.attempt(head.method, this.#url);
  }

  get proxyName(): string {
    return this.way.httpProxy?.name ?? "";
  }

  get #url(): string {
    return `http://${this.#target.host}${this.#target.path}`;
  }

  prepare(): Outgoing {
    const proxy = this.way.httpProxy;
    const fields = forwardedFields(this.#head, this.#target.host, this.#context.via);
    if (proxy === undefined) return { target: this.#target.path, fields };
    const added = withoutFields(proxy.fields, (name) => name === "host");
    return { target: this.#url, fields: [...fields, ...added] };
  }

  accepts(origin: string): boolean {
    checkTarget(this.#context, this.#target.tcp, this.way, this.#asker);
    return origin === this.origin;
  }

  async reach(): Promise<ByteStream> {
    const proxy = this.way.httpProxy;
    if (proxy === undefined) return this.#dial();
    checkTarget(this.#context, this.#target.tcp, this.way, this.#asker);
    return proxy.reach(proxy.proxy, { deadline: deadlineIn(this.#context.limits.connectMs) });
  }

  async #dial(): Promise<ByteStream> {
    const { tcp, isSecure } = this.#target;
    const stream = await dialTarget(this.#context, tcp, this.way, this.#asker);
    if (!isSecure) return stream;
    const peer = formatTarget(tcp);
    const tls = { ...this.#context.originTls, serverName: tcp.host, peer, alpn: ["http/1.1"] };
    return tlsClient(stream, tls, deadlineIn(this.#context.limits.connectMs));
  }

  get answerMs(): number {
    return this.#context.limits.lingerMs;
  }

  answerFields(fields: string[]): string[] {
    return fields;
  }

  mayKeep(): boolean {
    return true;
  }

  settled(): void {}
}
