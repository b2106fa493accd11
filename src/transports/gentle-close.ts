import { after } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream, Sink } from "../core/stream.ts";

/** How long a closing connection is read on, so that its peer gets our last bytes and no RST. */
const LINGER_MS = 2000;
const LINGER_BYTES = 1024 * 1024;

/**
 * Ends a stream behind what was written and owns it: reads on for a moment
 * (RFC 9112 section 9.6), then aborts it. With `after-peer` our own FIN waits
 * for the peer's, no longer than that.
 */
export function closeGently(stream: ByteStream, when: "now" | "after-peer" = "now"): void {
  const give = () => stream.abort(new SeikanError("cancelled", "closed after the last word"));
  const cancel = after(LINGER_MS, give);
  let left = LINGER_BYTES;
  const drain: Sink = {
    onData(chunk) {
      left -= chunk.length;
      if (left < 0) give();
    },
    onEnd: () => stream.end(),
    onDrain() {},
    onClose: cancel,
  };
  if (when === "now") stream.end();
  stream.resume();
  stream.attach(drain);
}
