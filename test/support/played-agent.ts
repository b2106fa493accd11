import { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { ConnectedAgent, type AgentLine, type EventWriter } from "../../src/routes/agent.ts";
import { fullRights, type AgentRights } from "../../src/routes/agent-tokens.ts";
import { errorAnswer } from "../../src/routes/answers.ts";
import type { Client } from "../../src/routes/context.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { MuxSession } from "../../src/transports/mux.ts";
import { Recorder, reset, until } from "./wait.ts";

/** What an agent does with a stream that its server opens: agree, refuse, or say nothing. */
export type Reply = "agree" | "silence" | SeikanError;

export const CLIENT: Client = { address: "192.0.2.200", port: 4000, exposed: true, isSecure: true };

/** A stream that the server opened. */
export class AskedStream extends Recorder {
  /** The head of the request, once it is complete. */
  get head(): string | undefined {
    const end = this.text.indexOf("\r\n\r\n");
    return end < 0 ? undefined : this.text.slice(0, end);
  }

  /** `CONNECT web.agent.internal:80` */
  get asked(): string | undefined {
    return this.head?.split(" HTTP/1.1")[0];
  }

  field(name: string): string | undefined {
    return new RegExp(`^${name}: (.*)$`, "im").exec(this.head ?? "")?.[1];
  }
}

/** One connection of an agent whose own end the test plays: a yamux session, over which the server asks with CONNECT. */
export class PlayedLine implements Disposable {
  readonly line: AgentLine;
  /** The agent's end. */
  readonly session: MuxSession;
  readonly streams: AskedStream[] = [];
  reply: Reply | ((stream: AskedStream) => Reply) = "agree";

  constructor(id = "line", events?: EventWriter) {
    const [near, far] = memoryPair();
    this.line = { id, session: new MuxSession(near, { role: "server", peer: "the agent" }), events };
    const accept = (stream: ByteStream) => this.#take(new AskedStream(stream));
    this.session = new MuxSession(far, { role: "client", peer: "the server", accept });
  }

  /** What the server asked for until now. */
  get asked(): (string | undefined)[] {
    return this.streams.map(({ asked }) => asked);
  }

  /** The stream with this number, once its request is there. */
  async stream(index = 0): Promise<AskedStream> {
    await until(() => this.streams[index]?.head !== undefined, `the server asks for stream ${index + 1}`);
    return this.streams[index]!;
  }

  #take(stream: AskedStream): void {
    this.streams.push(stream);
    stream.onChunk = () => {
      if (stream.head === undefined) return;
      stream.onChunk = () => {};
      this.answer(stream, typeof this.reply === "function" ? this.reply(stream) : this.reply);
    };
  }

  answer({ stream }: AskedStream, reply: Reply): void {
    if (reply === "silence") return;
    if (reply === "agree") return void stream.write(Buffer.from("HTTP/1.1 200 Connection established\r\n\r\n"));
    stream.write(errorAnswer(reply, "seikan-agent"));
    stream.end();
  }

  /** Resolves once the server knows that the agent takes no more streams. */
  async goAway(): Promise<void> {
    this.session.goAway();
    await until(() => !this.line.session.takesStreams, "the server knows");
  }

  [Symbol.dispose](): void {
    this.session.abort(reset());
    this.line.session.abort(reset());
  }
}

/** A line whose far end is there and says nothing at all, not even to a ping. */
export function silentLine(id = "silent"): AgentLine {
  const [near, far] = memoryPair();
  new Recorder(far);
  return { id, session: new MuxSession(near, { role: "server", peer: "the agent" }), events: undefined };
}

/** A key as agents have them, from a few letters. */
export const keyOf = (name: string): string => name.padEnd(43, "_");

/** An agent with one connection. */
export class PlayedAgent extends PlayedLine {
  readonly agent: ConnectedAgent;

  constructor(name: string, rights: AgentRights = fullRights("test"), events?: EventWriter) {
    super(`${name}-line`, events);
    this.agent = new ConnectedAgent(name, keyOf(name), rights, CLIENT);
    this.agent.addLine(this.line);
  }
}
