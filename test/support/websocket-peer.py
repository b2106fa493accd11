"""A WebSocket peer with Python's websockets, as server or as client."""

import asyncio
import sys

import websockets


def say(*words):
    print(*words, flush=True)


async def echo(socket, *_):
    """Echoes; `!close CODE REASON`, `!parts` and `!ping` ask for something else."""
    try:
        async for message in socket:
            if isinstance(message, str) and message.startswith("!close "):
                _, code, reason = message.split(" ", 2)
                await socket.close(int(code), reason)
            elif message == "!parts":
                await socket.send(["one,", "", "two,", "κόσμε"])
                await socket.send([b"\x00", b"\xff" * 300, b""])
            elif message == "!ping":
                await asyncio.wait_for(await socket.ping(b"from python"), 10)
                await socket.send("ponged")
            else:
                await socket.send(message)
    except websockets.ConnectionClosed:
        pass
    say("closed", socket.close_code, socket.close_reason)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        say("port", server.sockets[0].getsockname()[1])
        await asyncio.Future()


async def client(uri):
    """Says everything there is to say to a peer that echoes."""
    async with websockets.connect(uri, max_size=None, ping_interval=None) as socket:
        messages = ["text κόσμε 𝄞", "", b"", b"\x00\x01\xff", "x" * 126, b"y" * 65535, b"z" * 65536]
        messages += ["é" * (5 * 1024 * 1024 // 2), bytes(i * 7 % 251 for i in range(5 * 1024 * 1024))]
        for message in messages:
            await socket.send(message)
            answer = await socket.recv()
            assert type(answer) is type(message) and answer == message, (len(message), len(answer))
        await socket.send(["frag", "", "men", "ted κ"])
        assert await socket.recv() == "fragmented κ"
        await socket.send([b"a" * 70000, b"", b"b" * 10])
        assert await socket.recv() == b"a" * 70000 + b"b" * 10
        await asyncio.wait_for(await socket.ping(b"from python"), 10)
        say("echoed")
        await socket.close(4001, "python says bye")
    say("closed", socket.close_code, socket.close_reason)


async def bytes_client(uri):
    """Sends bytes in messages of many sizes and takes them back as bytes: borders mean nothing."""
    sent = bytes(i * 31 % 253 for i in range(4 * 1024 * 1024))
    async with websockets.connect(uri, max_size=None, ping_interval=None) as socket:

        async def send():
            at, size = 0, 1
            while at < len(sent):
                await socket.send(sent[at : at + size])
                at, size = at + size, size * 3 % 300_007 + 1

        sending = asyncio.ensure_future(send())
        received = bytearray()
        while len(received) < len(sent):
            received += await socket.recv()
        await sending
        assert received == sent
        say("echoed")
    say("closed", socket.close_code, socket.close_reason)


async def wait(uri):
    """Listens until it is over."""
    async with websockets.connect(uri, max_size=None, ping_interval=None) as socket:
        await socket.send("ready")
        try:
            while True:
                await socket.recv()
        except websockets.ConnectionClosed:
            pass
    say("closed", socket.close_code, socket.close_reason)


MODES = {"serve": serve, "client": client, "bytes": bytes_client, "wait": wait}
asyncio.run(MODES[sys.argv[1]](*sys.argv[2:]))
