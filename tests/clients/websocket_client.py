"""A WebSocket client on the library that Python programs use: `websocket_client.py ACT URL TOKEN`."""

import asyncio
import sys

import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatusCode

act, url, token = sys.argv[1:]


def connect(**more):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return websockets.connect(
        url, extra_headers=headers, max_size=4 << 20, ping_interval=None, open_timeout=30, **more
    )


async def echoes(connection, message):
    await connection.send(message)
    back = await connection.recv()
    assert back == message, f"{len(message)} went, {back[:80]!r} came back"


async def talk():
    """Every kind of message there is, with and without compression, and the two sides' goodbyes."""
    for compression in ("deflate", None):
        async with connect(compression=compression) as connection:
            agreed = [extension.name for extension in connection.extensions]
            assert agreed == (["permessage-deflate"] if compression else []), agreed
            await echoes(connection, "text: grüße, 世界")
            await echoes(connection, bytes(range(256)))
            await echoes(connection, "")
            await echoes(connection, b"binary " * 150_000)  # over 1 MiB
            await echoes(connection, "x" * 65_535)
            await echoes(connection, "x" * 65_536)
            await connection.send(["in ", "frag", "ments"])
            assert await connection.recv() == "in fragments"
            await connection.send("count fragments")
            assert await connection.recv() == "one two three"
            await asyncio.wait_for(await connection.ping(b"still there?"), 30)
        assert (connection.close_code, connection.close_reason) == (1000, ""), connection.close_code
    connection = await connect()
    await connection.close(3001, "enough")
    assert (connection.close_code, connection.close_reason) == (3001, "enough")
    connection = await connect()
    await connection.send("close 4002 the backend has enough")
    await connection.wait_closed()
    assert (connection.close_code, connection.close_reason) == (4002, "the backend has enough")


async def wait():
    """Says when it is connected, goes on talking, and then how that was ended."""
    connection = await connect()
    await echoes(connection, "first")
    print("connected", flush=True)
    try:
        while True:
            await echoes(connection, "and again")
            await asyncio.sleep(0.05)
    except ConnectionClosed as end:
        assert end.rcvd is not None, f"no goodbye: {end!r}"
        print(end.rcvd.code, flush=True)


async def refused():
    """Says with which status it was not let in."""
    try:
        await connect()
    except InvalidStatusCode as answer:
        print(answer.status_code, flush=True)


asyncio.run({"talk": talk, "wait": wait, "refused": refused}[act]())
