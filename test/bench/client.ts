/**
 * One measurement as its own process, so that it takes none of the proxy's
 * time: `client.ts KIND '{…}'` prints its result as JSON.
 */
interface Task {
  /** Where the proxy listens. */
  readonly port: number;
  /** Asked for with CONNECT; undefined: the listener leads there by itself. */
  readonly target: number | undefined;
  readonly streams: number;
  readonly seconds: number;
  /** Said first on each connection: the head of an upload. */
  readonly preamble?: string;
  /** Streams beside the others that are opened and not read. */
  readonly stalled?: number;
}

const [kind, text] = process.argv.slice(2);
const task = JSON.parse(text!) as Task;
const head =
  task.target === undefined
    ? undefined
    : Buffer.from(`CONNECT 127.0.0.1:${task.target} HTTP/1.1\r\nHost: 127.0.0.1:${task.target}\r\n\r\n`);

interface Handlers {
  /** The tunnel is open; with `bytes` that came behind the answer. */
  open(socket: Bun.Socket<State>, bytes: Buffer): void;
  data(socket: Bun.Socket<State>, bytes: Buffer): void;
  drain?(socket: Bun.Socket<State>): void;
}

interface State {
  isOpen: boolean;
  seen: string;
  readonly handlers: Handlers;
}

const SHARED = {
  open(socket: Bun.Socket<State>) {
    if (head !== undefined) socket.write(head);
    else {
      socket.data.isOpen = true;
      socket.data.handlers.open(socket, Buffer.alloc(0));
    }
  },
  data(socket: Bun.Socket<State>, bytes: Buffer) {
    const state = socket.data;
    if (state.isOpen) return state.handlers.data(socket, bytes);
    state.seen += bytes.toString("latin1");
    const end = state.seen.indexOf("\r\n\r\n");
    if (end < 0) return;
    if (!/^HTTP\/1\.[01] 200/.test(state.seen)) throw new Error(`refused: ${state.seen}`);
    state.isOpen = true;
    state.handlers.open(socket, Buffer.from(state.seen.slice(end + 4), "latin1"));
  },
  drain(socket: Bun.Socket<State>) {
    if (socket.data.isOpen) socket.data.handlers.drain?.(socket);
  },
  error(_socket: Bun.Socket<State>, error: Error) {
    console.error(error.message);
    process.exit(1);
  },
  close() {},
};

function connect(handlers: Handlers): Promise<Bun.Socket<State>> {
  const data: State = { isOpen: false, seen: "", handlers };
  return Bun.connect<State>({ hostname: "127.0.0.1", port: task.port, socket: SHARED, data });
}

function finish(result: object): never {
  console.log(JSON.stringify(result));
  process.exit(0);
}

function percentile(sorted: number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

async function download(): Promise<void> {
  let bytes = 0;
  const count = (_: unknown, chunk: Buffer) => void (bytes += chunk.length);
  const stop = (socket: Bun.Socket<State>) => void socket.pause();
  for (let i = 0; i < (task.stalled ?? 0); i++) await connect({ open: stop, data: stop });
  for (let i = 0; i < task.streams; i++) await connect({ open: count, data: count });
  await Bun.sleep(200);
  bytes = 0;
  const start = performance.now();
  await Bun.sleep(task.seconds * 1000);
  finish({ bytes, seconds: (performance.now() - start) / 1000 });
}

async function upload(): Promise<void> {
  const chunk = Buffer.alloc(512 * 1024, 120);
  let bytes = 0;
  const pour = (socket: Bun.Socket<State>) => {
    for (;;) {
      const taken = socket.write(chunk);
      if (taken > 0) bytes += taken;
      if (taken < chunk.length) return;
    }
  };
  const open = (socket: Bun.Socket<State>) => {
    if (task.preamble !== undefined) socket.write(task.preamble);
    pour(socket);
  };
  for (let i = 0; i < task.streams; i++) await connect({ open, data() {}, drain: pour });
  await Bun.sleep(200);
  bytes = 0;
  const start = performance.now();
  await Bun.sleep(task.seconds * 1000);
  finish({ bytes, seconds: (performance.now() - start) / 1000 });
}

async function roundTrips(): Promise<void> {
  const message = Buffer.alloc(64, 97);
  const times: number[] = [];
  const end = performance.now() + task.seconds * 1000;
  let sentAt = 0;
  let missing = 1;
  const send = (socket: Bun.Socket<State>) => {
    missing = message.length;
    sentAt = performance.now();
    socket.write(message);
  };
  const data = (socket: Bun.Socket<State>, bytes: Buffer) => {
    missing -= bytes.length;
    if (missing > 0) return;
    if (sentAt > 0) times.push(performance.now() - sentAt);
    if (performance.now() > end) {
      times.sort((a, b) => a - b);
      finish({ p50: percentile(times, 0.5), p99: percentile(times, 0.99), trips: times.length });
    }
    send(socket);
  };
  await connect({ open: (socket, bytes) => bytes.length > 0 && data(socket, bytes), data });
}

/**
 * A set-up is done when the target's first byte is here. The client does as
 * little as it can: it shares the machine with what it measures.
 */
async function setUps(): Promise<void> {
  const times: number[] = [];
  const start = performance.now();
  const end = start + task.seconds * 1000;
  const GREETING = 33;
  const STATUS_CLASS = 9;
  const handlers = {
    open(socket: Bun.Socket<{ at: number }>) {
      if (head !== undefined) socket.write(head);
    },
    data(socket: Bun.Socket<{ at: number }>, bytes: Buffer) {
      if (bytes.length > STATUS_CLASS && bytes[STATUS_CLASS] !== 50) throw new Error(`refused: ${bytes.toString()}`);
      if (bytes[bytes.length - 1] !== GREETING) return;
      times.push(performance.now() - socket.data.at);
      socket.terminate();
      if (performance.now() < end) begin();
      else report();
    },
    error(_: unknown, error: Error) {
      console.error(error.message);
      process.exit(1);
    },
    close() {},
  };
  const begin = () => {
    const data = { at: performance.now() };
    void Bun.connect({ hostname: "127.0.0.1", port: task.port, socket: handlers, data });
  };
  const report = () => {
    const seconds = (performance.now() - start) / 1000;
    times.sort((a, b) => a - b);
    finish({ perSecond: times.length / seconds, p99: percentile(times, 0.99) });
  };
  for (let i = 0; i < task.streams; i++) begin();
}

/** Opens tunnels that idle; says when they are open and ends when stdin does. */
async function idle(): Promise<void> {
  let open = 0;
  const settled = Promise.withResolvers<void>();
  const count = () => {
    if (++open === task.streams) settled.resolve();
  };
  const handlers: Handlers = { open: (_, bytes) => void (bytes.length > 0 && count()), data: count };
  for (let started = 0; started < task.streams; started++) {
    void connect(handlers);
    while (started - open > 200) await Bun.sleep(1);
  }
  await settled.promise;
  console.log(JSON.stringify({ open }));
  await Bun.stdin.text();
  process.exit(0);
}

const KINDS: Readonly<Record<string, () => Promise<void>>> = { download, upload, roundTrips, setUps, idle };
await KINDS[kind!]!();

export {};
