"""Work that would hold up the event loop, done in order on a thread of its own.

Knows nothing of the work. A thread cannot be stopped: one that is stuck past its deadline is left
behind, and a fresh one takes what was waiting. Daemon threads, so that none outlives the server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
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
    """One thread and what it has to do."""

    jobs: SimpleQueue[_Job[Any]] = field(default_factory=SimpleQueue)
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
    """Does one thing after the other, off the loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left_behind = 0  # threads stuck past a deadline so far
        self._lane: _Lane | None = None

    async def do(self, work: Callable[[], T], within_s: float) -> T:
        """The result of `work`, the wait for others included. Raises TimeoutError, and what it raises."""
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(work, loop.create_future(), loop)
        lane = self._lane = self._lane or self._open()
        lane.jobs.put(job)
        try:
            async with asyncio.timeout(within_s):
                result: T = await job.answer
                return result
        except TimeoutError:
            # `lane` may have been replaced while this job waited in it
            now = self._lane
            if now.doing is job:
                self._leave(now, job)
            raise

    def _open(self) -> _Lane:
        lane = _Lane()
        threading.Thread(target=lane.run, name=self.name, daemon=True).start()
        return lane

    def _leave(self, stuck: _Lane, job: _Job[Any]) -> None:
        stuck.left = True
        self.left_behind += 1
        fresh = self._lane = self._open()
        with suppress(Empty):
            while True:
                fresh.jobs.put(stuck.jobs.get_nowait())
        # given up, so nothing is done; but a thread that came free meanwhile wakes and ends
        stuck.jobs.put(job)
