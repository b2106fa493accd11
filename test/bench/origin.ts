/**
 * The far end of every benchmark. Prints its ports as JSON:
 * `greet` says one byte and echoes, `source` sends without end, `sink` reads without end.
 */
const chunk = Buffer.alloc(1024 * 1024, 120);

const ignore = { error() {}, close() {}, drain() {}, data() {} };

const greet = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: { ...ignore, open: (socket) => void socket.write("!"), data: (socket, bytes) => void socket.write(bytes) },
});

function pour(socket: Bun.Socket<undefined>): void {
  // Until the kernel takes no more; drain comes when it does.
  while (socket.write(chunk) === chunk.length);
}

const source = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { ...ignore, open: pour, drain: pour } });
const sink = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: ignore });

console.log(JSON.stringify({ greet: greet.port, source: source.port, sink: sink.port }));
