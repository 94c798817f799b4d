"""Work that would hold up the event loop, done in order on a thread of its own, or on several.

Knows nothing of the work. A thread cannot be stopped: one that is stuck past its deadline is left
behind, and a fresh one takes what was waiting. Daemon threads, so that none outlives the server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    work: Callable[[], T]
    answer: asyncio.Future[T]
    loop: asyncio.AbstractEventLoop

    def do(self) -> None:
        try:
            result = self.work()
        except BaseException as error:  # carried to whoever awaits the answer
            self._tell(self.answer.set_exception, error)
        else:
            self._tell(self.answer.set_result, result)

    def _tell(self, settle: Callable[[Any], None], value: object) -> None:
        def tell() -> None:
            if not self.answer.done():  # given up meanwhile
                settle(value)

        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.loop.call_soon_threadsafe(tell)


@dataclass(slots=True, eq=False)
class _Lane:
    """One thread of a worker."""

    jobs: SimpleQueue[_Job[Any]]  # shared by all lanes of the worker
    doing: _Job[Any] | None = None
    left: bool = False  # behind: it ends with the job it is stuck in

    def run(self) -> None:
        while not self.left:
            job = self.jobs.get()
            if not job.answer.cancelled():
                self.doing = job
                job.do()
                self.doing = None


class Worker:
    """Does things off the loop: by default one after the other, with more lanes so many at once."""

    def __init__(self, name: str, lanes: int = 1) -> None:
        self.name = name
        self.most = lanes
        self.left_behind = 0  # threads stuck past a deadline so far
        self._jobs: SimpleQueue[_Job[Any]] = SimpleQueue()
        self._lanes: list[_Lane] = []
        self._asked = 0  # jobs done or waiting now

    async def do(self, work: Callable[[], T], within_s: float) -> T:
        """The result of `work`, the wait for others included. Raises TimeoutError, and what it raises."""
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(work, loop.create_future(), loop)
        if len(self._lanes) <= self._asked and len(self._lanes) < self.most:
            self._open()
        self._asked += 1
        self._jobs.put(job)
        try:
            async with asyncio.timeout(within_s):
                result: T = await job.answer
                return result
        except TimeoutError:
            self._leave(job)
            raise
        finally:
            self._asked -= 1

    def _open(self) -> None:
        lane = _Lane(self._jobs)
        self._lanes.append(lane)
        threading.Thread(target=lane.run, name=self.name, daemon=True).start()

    def _leave(self, job: _Job[Any]) -> None:
        """Let the thread go that is stuck in `job`, if any is; a fresh one takes what waits."""
        for lane in self._lanes:
            if lane.doing is job:
                lane.left = True
                self._lanes.remove(lane)
                self.left_behind += 1
                self._open()
                return
