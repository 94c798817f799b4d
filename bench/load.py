"""Servers to measure, each in a process of its own, and the load that is put on them.

Knows frames of OpenEnv's protocol as text; nothing of environments. Server time is processor time
of its process: it stays the same when the machine is busy with other things, wall time does not.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect


@dataclass(frozen=True, slots=True)
class Server:
    """A server under load."""

    url: str
    pid: int

    def processor_s(self) -> float:
        """Seconds of processor it has used, its threads included, to the nanosecond."""
        # what clock_getcpuclockid(3) returns on Linux; /proc/PID/stat counts in steps of 10 ms
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory_mb(self) -> float:
        """Resident memory, in units of 1 000 000 bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


@contextmanager
def running(*commands: Sequence[str]) -> Iterator[list[Server]]:
    """Servers started by `python -m command`, all at once, until the block ends."""
    children = [_start(command) for command in commands]
    try:
        yield [_greeted(child, command) for child, command in zip(children, commands, strict=True)]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", *command]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _greeted(child: subprocess.Popen[str], command: Sequence[str]) -> Server:
    assert child.stdout is not None
    greeting = child.stdout.readline()
    if "listens on" not in greeting:
        _, said = child.communicate(timeout=20)
        raise RuntimeError(f"{' '.join(command)} did not start: {said[-2000:]}")
    return Server(greeting.rsplit(" ", 1)[1].strip(), child.pid)


@dataclass(frozen=True, slots=True)
class Rate:
    """Steps, and what they took."""

    steps: int
    processor_s: float
    wall_s: float

    @property
    def a_processor_second(self) -> float:
        return self.steps / self.processor_s

    @property
    def a_second(self) -> float:
        return self.steps / self.wall_s


async def sockets(url: str, n: int) -> list[ClientConnection]:
    """`n` open sockets, opened a few at a time. Kept for all rounds: stock stalls at sockets that come and go."""
    opened: list[ClientConnection] = []
    while len(opened) < n:
        now = min(32, n - len(opened))
        opened += await asyncio.gather(*(_open(url) for _ in range(now)))
    return opened


async def _open(url: str) -> ClientConnection:
    # neither pings nor compression: both servers get the same bytes
    return await connect(
        f"ws{url[4:]}/ws",
        proxy=None,
        compression=None,
        ping_interval=None,
        max_size=2**26,
        open_timeout=60,
    )


async def closed(opened: Sequence[ClientConnection]) -> None:
    for at in range(0, len(opened), 32):
        await asyncio.gather(*(one.close() for one in opened[at : at + 32]))


async def scripts(
    server: Server, opened: Sequence[ClientConnection], plays: Sequence[Sequence[str]]
) -> Rate:
    """Every script on a socket of its own, each frame after the reply to the one before."""
    before_s, started = server.processor_s(), time.perf_counter()
    await asyncio.gather(*(recite(ws, play) for ws, play in zip(opened, plays, strict=True)))
    took_s = time.perf_counter() - started
    spent_s = server.processor_s() - before_s
    return Rate(sum('"step"' in frame for play in plays for frame in play), spent_s, took_s)


async def recite(ws: ClientConnection, play: Sequence[str]) -> None:
    for frame in play:
        await ws.send(frame)
        reply = await ws.recv()
        if '"error"' in str(reply[:40]):
            raise RuntimeError(f"{frame[:200]} was answered {reply[:300]!r}")


async def batched(server: Server, episodes: int, frames: int, step: str, in_flight: int) -> Rate:
    """`frames` frames of `episodes` steps each, on `in_flight` sockets."""
    opened = await sockets(server.url, in_flight)
    reset = [{"type": "reset", "episode": str(at)} for at in range(episodes)]
    begin = json.dumps({"type": "batch", "data": {"messages": reset}})
    move = json.loads(step)["data"]
    steps = [{"type": "step", "episode": str(at), "data": move} for at in range(episodes)]
    frame = json.dumps({"type": "batch", "data": {"messages": steps}})
    await asyncio.gather(*(recite(ws, [begin]) for ws in opened))
    before_s, started = server.processor_s(), time.perf_counter()
    await asyncio.gather(*(recite(ws, [frame] * frames) for ws in opened))
    took_s = time.perf_counter() - started
    spent_s = server.processor_s() - before_s
    await closed(opened)
    return Rate(episodes * frames * in_flight, spent_s, took_s)


async def waits(
    opened: Sequence[ClientConnection],
    plays: Sequence[Sequence[str]],
    for_s: float,
    think_s: tuple[float, float],
) -> list[float]:
    """Seconds that each step took, of players that think between steps; every script from the start again."""
    ends = time.perf_counter() + for_s
    seen: list[float] = []
    draw = random.Random(0)
    jobs = zip(opened, plays, strict=True)
    await asyncio.gather(*(_think(ws, play, ends, think_s, draw, seen) for ws, play in jobs))
    return sorted(seen)


async def _think(
    ws: ClientConnection,
    play: Sequence[str],
    ends: float,
    think_s: tuple[float, float],
    draw: random.Random,
    seen: list[float],
) -> None:
    await asyncio.sleep(draw.uniform(0.0, think_s[1]))
    while True:
        for frame in play:
            started = time.perf_counter()
            if started > ends:
                return
            await ws.send(frame)
            await ws.recv()
            if '"step"' in frame:
                seen.append(time.perf_counter() - started)
            await asyncio.sleep(draw.uniform(*think_s))
