import { describe, expect, test } from "bun:test";
import type { RequestHead, ResponseHead } from "../../src/wire/http1.ts";
import {
  acceptFields,
  acceptOf,
  answerFault,
  offeredProtocols,
  upgradeFields,
  upgradeRefusal,
  wantsUpgrade,
  webSocketKey,
} from "../../src/wire/websocket-handshake.ts";

/** RFC 6455 section 1.3. */
const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const GOOD: Readonly<Record<string, string>> = {
  Host: "server.example.com",
  Upgrade: "websocket",
  Connection: "Upgrade",
  "Sec-WebSocket-Key": KEY,
  "Sec-WebSocket-Version": "13",
};

/** A request with these fields in place of the good ones; undefined leaves one out, a list repeats one. */
function request(
  change: Record<string, string | string[] | undefined> = {},
  head: Partial<RequestHead> = {},
): RequestHead {
  return {
    method: "GET",
    target: "/chat",
    minor: 1,
    keepAlive: true,
    framing: 0,
    fields: fieldsOf(GOOD, change),
    ...head,
  };
}

function fieldsOf(
  good: Readonly<Record<string, string>>,
  change: Record<string, string | string[] | undefined>,
): string[] {
  return Object.entries({ ...good, ...change }).flatMap(([name, value]) =>
    [value ?? []].flat().flatMap((one) => [name, one]),
  );
}

const ANSWER: Readonly<Record<string, string>> = {
  Upgrade: "websocket",
  Connection: "Upgrade",
  "Sec-WebSocket-Accept": ACCEPT,
};

function response(change: Record<string, string | string[] | undefined> = {}): ResponseHead {
  const fields = fieldsOf(ANSWER, change);
  return { status: 101, reason: "Switching Protocols", minor: 1, keepAlive: true, framing: 0, fields };
}

const fault = (change: Record<string, string | string[] | undefined>, protocols: readonly string[] = []) =>
  answerFault(response(change), KEY, protocols);

describe("a WebSocket key", () => {
  test("is answered as in RFC 6455 section 1.3", () => {
    expect(acceptOf(KEY)).toBe(ACCEPT);
  });

  test("is sixteen random bytes, another one each time", () => {
    const keys = Array.from({ length: 200 }, webSocketKey);
    expect(new Set(keys).size).toBe(200);
    for (const key of keys) {
      expect(Buffer.from(key, "base64").length).toBe(16);
      expect(upgradeRefusal(request({ "Sec-WebSocket-Key": key }))).toBeUndefined();
    }
  });
});

describe("a WebSocket upgrade", () => {
  test("is asked for with the fields of RFC 6455 section 4.1", () => {
    expect(upgradeFields(KEY, [])).toEqual([
      "Connection",
      "Upgrade",
      "Upgrade",
      "websocket",
      "Sec-WebSocket-Version",
      "13",
      "Sec-WebSocket-Key",
      KEY,
    ]);
    expect(upgradeFields(KEY, ["one", "two.v1"]).slice(8)).toEqual(["Sec-WebSocket-Protocol", "one, two.v1"]);
  });

  test("that was asked for is one that is taken, and so is its answer", () => {
    for (const protocols of [[], ["one"], ["one", "two"]]) {
      const key = webSocketKey();
      const head = request({}, { fields: ["Host", "a", ...upgradeFields(key, protocols)] });
      expect(upgradeRefusal(head)).toBeUndefined();
      expect(offeredProtocols(head.fields)).toEqual(protocols);
      const answer = { ...response(), fields: acceptFields(head, protocols.at(-1)) };
      expect(answerFault(answer, key, protocols)).toBeUndefined();
      expect(answerFault(answer, webSocketKey(), protocols)).toContain("Sec-WebSocket-Accept");
    }
  });

  test("is answered with the accept value and the protocol, if there is one", () => {
    expect(acceptFields(request(), undefined)).toEqual([
      "Connection",
      "Upgrade",
      "Upgrade",
      "websocket",
      "Sec-WebSocket-Accept",
      ACCEPT,
    ]);
    expect(acceptFields(request(), "v1").slice(6)).toEqual(["Sec-WebSocket-Protocol", "v1"]);
  });

  test("is recognized in any case, and among other things", () => {
    const taken: Record<string, string | string[] | undefined>[] = [
      {},
      { Upgrade: "WebSocket" },
      { Upgrade: "h2c, websocket" },
      { Upgrade: ["h2c", "WEBSOCKET"] },
      { Connection: "keep-alive, Upgrade" },
      { Connection: ["keep-alive", "UPGRADE"] },
      { Connection: undefined, connection: "upgrade", Upgrade: undefined, upgrade: "websocket" },
    ];
    for (const change of taken) {
      expect({ change, refusal: upgradeRefusal(request(change)) }).toEqual({ change, refusal: undefined });
      expect(wantsUpgrade(request(change).fields, "websocket")).toBe(true);
      expect(wantsUpgrade(request(change).fields, "connect-udp")).toBe(false);
    }
    // Browsers and libraries send more.
    const more = {
      Origin: "http://a",
      "Sec-WebSocket-Extensions": "permessage-deflate",
      "Sec-WebSocket-Protocol": "x",
    };
    expect(upgradeRefusal(request(more))).toBeUndefined();
  });

  for (const method of ["HEAD", "POST", "CONNECT", "OPTIONS", "get"]) {
    test(`is refused with ${method}`, () => {
      expect(upgradeRefusal(request({}, { method }))).toBe("not-get");
    });
  }

  test("is refused in HTTP/1.0", () => {
    expect(upgradeRefusal(request({}, { minor: 0 }))).toBe("not-http11");
  });

  test("is refused without one of its two fields, or with something else in it", () => {
    for (const change of [
      { Upgrade: undefined },
      { Connection: undefined },
      { Upgrade: "" },
      { Upgrade: "h2c" },
      { Upgrade: "websockets" },
      { Upgrade: "websocket2" },
      { Connection: "keep-alive" },
      { Connection: "close" },
      { Connection: "upgraded" },
    ]) {
      expect({ change, refusal: upgradeRefusal(request(change)) }).toEqual({ change, refusal: "no-upgrade" });
    }
  });

  test("is refused in another version", () => {
    for (const version of [undefined, "", "8", "12", "14", "013", "13.0", "13, 8", ["13", "13"], ["8", "13"]]) {
      const change = { "Sec-WebSocket-Version": version };
      expect({ change, refusal: upgradeRefusal(request(change)) }).toEqual({ change, refusal: "version" });
    }
  });

  test("is refused without a key, with two, and with one that is not sixteen bytes", () => {
    for (const key of [
      undefined,
      "",
      "short",
      "dGhlIHNhbXBsZSBub25jZQ",
      "dGhlIHNhbXBsZSBub25jZQ=",
      "dGhlIHNhbXBsZSBub25jZQ===",
      "dGhlIHNhbXBsZSBub25jZTE=",
      "dGhlIHNhbXBsZSBub25jZTEyMw==",
      "dGhlIHNhbXBsZSBub25j-_==",
      "dGhlIHNhbXBsZSBub25j Q==",
      [KEY, KEY],
      [KEY, "AAAAAAAAAAAAAAAAAAAAAA=="],
    ]) {
      const change = { "Sec-WebSocket-Key": key };
      expect({ change, refusal: upgradeRefusal(request(change)) }).toEqual({ change, refusal: "key" });
    }
  });
});

describe("the subprotocols that a client offers", () => {
  test("are those of all its fields, in its order and case", () => {
    expect(offeredProtocols([])).toEqual([]);
    expect(offeredProtocols(["Sec-WebSocket-Protocol", "one"])).toEqual(["one"]);
    expect(
      offeredProtocols([
        "Sec-WebSocket-Protocol",
        "one,Two ,  three.v1",
        "Host",
        "a, b",
        "sec-websocket-protocol",
        ", four,,",
        "SEC-WEBSOCKET-PROTOCOL",
        "",
      ]),
    ).toEqual(["one", "Two", "three.v1", "four"]);
  });
});

describe("the answer to a WebSocket upgrade", () => {
  test("is right in any case, and with other fields", () => {
    for (const change of [
      {},
      { Upgrade: "WebSocket", Connection: "upgrade" },
      { Connection: "keep-alive, Upgrade" },
      { Server: "x", Date: "today", "Sec-WebSocket-Version": "13" },
      { "Sec-WebSocket-Extensions": "" },
    ]) {
      expect({ change, fault: fault(change) }).toEqual({ change, fault: undefined });
    }
  });

  test("is wrong without Upgrade: websocket", () => {
    for (const upgrade of [undefined, "", "h2c", "websockets"]) {
      expect(fault({ Upgrade: upgrade })).toContain("Upgrade to websocket");
    }
  });

  test("is wrong without Connection: Upgrade", () => {
    for (const connection of [undefined, "", "keep-alive", "close"]) {
      expect(fault({ Connection: connection })).toContain("Connection");
    }
  });

  test("is wrong with an accept value that is missing, another one's, in another case, or there twice", () => {
    for (const accept of [
      undefined,
      "",
      KEY,
      acceptOf(webSocketKey()),
      ACCEPT.toLowerCase(),
      `${ACCEPT}=`,
      [ACCEPT, ACCEPT],
    ]) {
      expect(fault({ "Sec-WebSocket-Accept": accept })).toContain("Sec-WebSocket-Accept");
    }
  });

  test("is wrong with an extension: none is ever asked for", () => {
    for (const extensions of ["permessage-deflate", ["", "permessage-deflate"], "x-unknown"]) {
      expect(fault({ "Sec-WebSocket-Extensions": extensions })).toContain("extension");
    }
  });

  test("is right with a protocol that was offered, or none where none was", () => {
    expect(fault({ "Sec-WebSocket-Protocol": "v1" }, ["v1"])).toBeUndefined();
    expect(fault({ "Sec-WebSocket-Protocol": "v1" }, ["v2", "v1"])).toBeUndefined();
    expect(fault({}, [])).toBeUndefined();
  });

  test("is wrong with a protocol that was not offered, with two, and without one where one is needed", () => {
    expect(fault({ "Sec-WebSocket-Protocol": "v1" }, [])).toContain("v1");
    expect(fault({ "Sec-WebSocket-Protocol": "v3" }, ["v1", "v2"])).toContain("v3");
    expect(fault({ "Sec-WebSocket-Protocol": "V1" }, ["v1"])).toContain("V1");
    expect(fault({ "Sec-WebSocket-Protocol": "v1, v2" }, ["v1", "v2"])).toContain("not offered");
    expect(fault({ "Sec-WebSocket-Protocol": ["v1", "v2"] }, ["v1", "v2"])).toContain("not offered");
    expect(fault({ "Sec-WebSocket-Protocol": "" }, ["v1"])).toContain("not offered");
    expect(fault({}, ["v1", "v2"])).toBe("it does not speak v1 or v2");
  });
});
