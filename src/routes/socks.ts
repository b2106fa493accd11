import { deadlineIn } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { closeGently } from "../transports/gentle-close.ts";
import { acceptSocks, answerSocks, socksReplyFor } from "../transports/socks.ts";
import { openTunnel } from "./connect.ts";
import type { Client, RouteContext } from "./context.ts";
import { associateUdp } from "./socks-udp.ts";

/** Serves one SOCKS 4, 4a or 5 client. Owns `inbound`. */
export async function serveSocks(
  context: RouteContext,
  inbound: ByteStream,
  client: Client,
  version: 4 | 5,
): Promise<void> {
  const { users } = context;
  const deadline = deadlineIn(context.limits.headMs);
  const verify =
    users === undefined
      ? undefined
      : (shown: { user: string; password: string }) => users.verify(shown, client.address);
  try {
    if (client.exposed && users === undefined && !context.openToAll)
      throw new SeikanError("auth-required", "this server has no users");
    const { request, user } = await acceptSocks(inbound, version, verify, deadline);
    if (request.command === "udp-associate") return await associateUdp(context, inbound, client, user);
    if (request.command !== "connect") {
      answerSocks(inbound, version, "command-unsupported");
      throw new SeikanError("request-unsupported", `SOCKS ${request.command} is not supported`);
    }
    openTunnel(context, inbound, {
      method: `SOCKS${version}`,
      target: request.target,
      client,
      exposed: client.exposed,
      user,
      acceptStatus: 200,
      accept(stream) {
        answerSocks(stream, version, "succeeded");
        return stream;
      },
      refuse(stream, error) {
        answerSocks(stream, version, socksReplyFor(error));
        closeGently(stream);
        return error.outcome.status;
      },
    });
  } catch (thrown) {
    const error = toSeikanError(thrown);
    context.log.debug(`SOCKS client refused: ${error.message}`, { peer: client.address });
    closeGently(inbound);
  }
}
