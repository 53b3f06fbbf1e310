#!/usr/bin/env python3
"""Carries TCP connections to a port of this machine and back, each byte half a round trip late.

    scripts/delay-proxy.py TARGET-PORT ROUND-TRIP-MS     prints the port that it listens on, then runs until killed

For measuring what windows and round trips of a protocol cost. TCP itself ends here on both sides, so its own windows
and losses are not part of the distance.
"""
import asyncio
import sys

target, delay = int(sys.argv[1]), float(sys.argv[2]) / 2e3


async def carry(reader, writer):
    loop = asyncio.get_running_loop()
    waiting = asyncio.Queue()

    async def deliver():
        while True:
            due, data = await waiting.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    delivery = asyncio.create_task(deliver())
    data = b"-"
    while data:
        try:
            data = await reader.read(1 << 20)
        except ConnectionError:
            data = b""
        waiting.put_nowait((loop.time() + delay, data))
    await delivery


async def serve(reader, writer):
    there, back = await asyncio.open_connection("127.0.0.1", target, limit=1 << 22)
    await asyncio.gather(carry(reader, back), carry(there, writer), return_exceptions=True)


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
