/** A port that nobody has on either loopback address. */
export function freePort(): number {
  for (;;) {
    const first = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const { port } = first;
    try {
      Bun.listen({ hostname: "::1", port, socket: { data() {} } }).stop(true);
      return port;
    } catch (error) {
      // Machines without IPv6 have one loopback.
      if ((error as { code?: string }).code !== "EADDRINUSE") return port;
    } finally {
      first.stop(true);
    }
  }
}
