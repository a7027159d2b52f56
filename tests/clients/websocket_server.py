"""A WebSocket backend on the library that Python programs use: sends back what it hears, prints its port."""

import asyncio

import websockets


async def serve(connection):
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await connection.close(int(code), reason)
        elif message == "count fragments":
            # Three fragments of one message.
            await connection.send(["one ", "two ", "three"])
        else:
            await connection.send(message)


async def main():
    async with websockets.serve(serve, "127.0.0.1", 0, max_size=4 << 20, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
