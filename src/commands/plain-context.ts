import type { RouteContext } from "../routes/context.ts";
import { HEAD_LIMITS } from "../wire/http1.ts";
import type { ReachValues } from "./reach.ts";

type Given = Pick<RouteContext, "routes" | "permissions" | "greeting" | "isDraining" | "live" | "log" | "access">;

/** What the clients of one command share that has nothing of a server's own: no sites, no paths, no users unless given. */
export function plainContext(values: ReachValues, given: Given & Partial<RouteContext>): RouteContext {
  return {
    ...{ users: undefined, openToAll: false, endpoints: [], gateways: [] },
    ...{ sites: undefined, tls: undefined, trustedProxies: [], via: undefined, proxyName: "seikan" },
    limits: {
      ...{ head: HEAD_LIMITS, headMs: 30_000, bodyMs: 60_000, answerMs: 30_000 },
      connectMs: values["connect-timeout"],
      lingerMs: values["linger-timeout"],
      idleMs: values["idle-timeout"],
    },
    ...given,
  };
}
