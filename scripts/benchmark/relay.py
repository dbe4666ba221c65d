"""A TCP relay that makes every request later: python3 relay.py PORT MILLISECONDS, to PORT on this machine.

What a client sends is held back for that long; answers pass at once. So a request costs a round trip more, as to a store that
is far away, and the rate of answers is not limited. Prints the port on which it listens.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

PIECE_BYTES = 1 << 20


async def hold_back(reader: socket.socket, writer: socket.socket, seconds: float) -> None:
    """In their order, each piece as late as the others: what comes at once leaves at once."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue = asyncio.Queue()

    async def receive() -> None:
        while piece := await loop.sock_recv(reader, PIECE_BYTES):
            waiting.put_nowait((time.monotonic() + seconds, piece))
        waiting.put_nowait((time.monotonic() + seconds, b""))

    receiving = asyncio.create_task(receive())
    try:
        while True:
            due, piece = await waiting.get()
            await asyncio.sleep(max(0, due - time.monotonic()))
            if not piece:
                return
            await loop.sock_sendall(writer, piece)
    finally:
        receiving.cancel()


async def pass_on(reader: socket.socket, writer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(PIECE_BYTES))
    while length := await loop.sock_recv_into(reader, buffer):
        await loop.sock_sendall(writer, buffer[:length])


async def relay(client: socket.socket, port: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    with client, socket.socket() as server:
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends = []
        try:
            await loop.sock_connect(server, ("127.0.0.1", port))
            ends = [
                asyncio.create_task(hold_back(client, server, seconds)),
                asyncio.create_task(pass_on(server, client)),
            ]
            # Whoever closes first ends both.
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)


async def main(port: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task] = set()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.setblocking(False)
        print(f"relaying on port {listener.getsockname()[1]}", flush=True)
        while True:
            client, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(relay(client, port, seconds))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1e3))
