import type { TunnelEvent } from "../transports/tunnel.ts";
import type { CommandIo } from "./command.ts";

/** What happens to tunnels, for people and as events for scripts. */
export function tunnelLogger(io: CommandIo): (tunnel: string, event: TunnelEvent) => void {
  return (tunnel, event) => {
    switch (event.kind) {
      case "up":
        io.log.info(`tunnel ${tunnel} is up`, { ms: Math.round(event.ms) });
        return io.event("tunnel-up", { tunnel });
      case "lost": {
        const why = event.error?.message ?? "the far end closed it";
        io.log.warn(`tunnel ${tunnel} was lost`, { why });
        return io.event("tunnel-lost", { tunnel, code: event.error?.code, message: why });
      }
      case "away":
        io.log.info(`the far end of tunnel ${tunnel} is about to stop`);
        return io.event("tunnel-away", { tunnel });
      case "failed": {
        const { error, againMs } = event;
        io.log.warn(`tunnel ${tunnel} cannot be made: ${error.message}`, {
          again: `${againMs / 1000}s`,
          hint: error.hints[0],
        });
        return io.event("tunnel-failed", { tunnel, code: error.code, message: error.message, againMs });
      }
      case "refused":
        // Ends the run, or each stream that wants it: reported there.
        return io.event("tunnel-refused", { tunnel, code: event.error.code, message: event.error.message });
    }
  };
}
