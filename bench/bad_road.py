"""A stretch of road between a client and its server that can be made bad, and good again.

Forwards bytes; knows nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["silent", "slow", "garbage", "truncated", "half_closed", "cut"]
FAULTS: tuple[Fault, ...] = ("silent", "slow", "garbage", "truncated", "half_closed", "cut")
CHUNK = 65536

Lane = asyncio.Queue[tuple[float, bytes]]  # answers on their way, and when each is due


class Road:
    """All connections to one server. `break_down` spoils the next answers; `mend` forwards again."""

    def __init__(self, port: int, delay_s: float) -> None:
        self.url = ""
        self.struck = 0  # answers that did not arrive as they were sent
        self._port = port
        self._delay_s = delay_s
        self._fault: Fault | None = None
        self._left = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    def break_down(self, fault: Fault, answers: int = 1_000_000) -> None:
        """Spoil the next so many answers of the server, whoever gets them."""
        self._fault, self._left = fault, answers

    def mend(self) -> None:
        self._fault, self._left = None, 0

    async def carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection, both ways, until either end is gone."""
        try:
            far, forth = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            back.transport.abort()
            return
        self._open |= {back, forth}
        lane: Lane = asyncio.Queue()
        ways = (self._forward(near, forth), self._answer(far, back, lane), _deliver(lane, back))
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._open -= {back, forth}
            back.transport.abort()
            forth.transport.abort()

    async def _forward(self, near: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await near.read(CHUNK):
                forth.write(data)
                await forth.drain()

    async def _answer(
        self, far: asyncio.StreamReader, back: asyncio.StreamWriter, lane: Lane
    ) -> None:
        with suppress(OSError):
            while data := await far.read(CHUNK):
                due_s = self._loop.time()
                if self._fault is not None and self._left > 0:
                    self._left -= 1
                    self.struck += 1
                    if self._fault == "slow":
                        due_s += self._delay_s
                    elif not await self._spoil(self._fault, data, back):
                        return
                    else:
                        continue
                lane.put_nowait((due_s, data))

    async def _spoil(self, fault: Fault, data: bytes, back: asyncio.StreamWriter) -> bool:
        """Do it; whether the connection goes on."""
        if fault == "silent":  # nothing arrives any more, and nobody says so
            await asyncio.sleep(3600.0)
        if fault == "garbage":
            back.write(bytes(255 - byte for byte in data))
            return True
        if fault == "truncated":
            back.write(data[: len(data) // 2])
            await back.drain()
        if fault == "half_closed":
            back.write_eof()
            await asyncio.sleep(3600.0)
        return False

    def run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen(listener))
        self._loop.close()

    async def _listen(self, listener: socket.socket) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_server(self.carry, sock=listener)
        await self._over.wait()
        server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(lambda: self._over.set())


async def _deliver(lane: Lane, back: asyncio.StreamWriter) -> None:
    """Write what is due, in order: an answer that is on its way holds up none behind it."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while True:
            due_s, data = await lane.get()
            if (wait_s := due_s - loop.time()) > 0.0:
                await asyncio.sleep(wait_s)
            back.write(data)
            await back.drain()


@contextmanager
def bad_road(url: str, delay_s: float = 1.5) -> Iterator[Road]:
    """A road to the server at `url`, good until it is told otherwise. delay_s: how slow slow is."""
    road = Road(urlsplit(url).port or 80, delay_s)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    road.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=road.run, args=(listener,), daemon=True)
    thread.start()
    try:
        yield road
    finally:
        road.close()
        thread.join(10.0)


@contextmanager
def slow_road(url: str, delay_s: float) -> Iterator[str]:
    """The URL of a road, in a process of its own, on which every answer takes `delay_s` longer."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.bad_road", url, str(delay_s)],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip()
    finally:
        child.communicate()  # its standard input closes, and it leaves


if __name__ == "__main__":
    with bad_road(sys.argv[1], float(sys.argv[2])) as slow:
        slow.break_down("slow")
        print(slow.url, flush=True)
        sys.stdin.read()
