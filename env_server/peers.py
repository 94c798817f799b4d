"""The peers connected by socket: who is silent, who does not read, and the goodbye to all of them.

Knows when a peer is waited for and what a deadline is; nothing of messages. One heartbeat a server
watches every socket, so that a frame pays for no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from env_server.sessions import Session

log = logging.getLogger("rounds.socket")

IDLE, DEAF, RESTART = 4408, 1013, 1012
Phase = Literal["reading", "working", "writing"]


@dataclass(slots=True, eq=False)
class Peer:
    """One socket: the episodes it holds, and since when it is in its phase."""

    own: Session
    idle_s: float
    send_s: float
    leash: asyncio.Timeout | None = None  # pulled, it ends the conversation
    seats: dict[str, Session] = field(
        default_factory=dict
    )  # of batched frames, by the peer's names
    phase: Phase = "reading"
    since_s: float = field(default_factory=monotonic)
    frames: int = 0
    stopping: bool = False  # no further frame is read
    verdict: tuple[int, str] | None = None  # why it was closed by us

    def turn(self, phase: Phase) -> None:
        self.phase, self.since_s = phase, monotonic()

    @property
    def waited_for(self) -> bool:
        """Whether the next word is the peer's: nothing is being done for it, nor is it being closed."""
        return self.phase == "reading" and not self.stopping and self.verdict is None

    @property
    def deaf(self) -> bool:
        return self.verdict is not None and self.verdict[0] == DEAF

    def judge(self, now_s: float) -> None:
        """Close it if it has been silent or deaf for too long."""
        waited_s = now_s - self.since_s
        if self.phase == "reading" and waited_s > self.idle_s:
            self.close(IDLE, f"idle for {self.idle_s:.0f} s")
        elif self.phase == "writing" and waited_s > self.send_s:
            log.warning("peer did not read for %g s", self.send_s)
            self.close(DEAF, "not reading")

    def stop(self) -> None:
        """Close it now if nothing is being done for it, else after the answer."""
        self.stopping = True
        if self.phase == "reading":
            self.close(RESTART, "this server is stopping")

    def close(self, code: int, reason: str) -> None:
        if self.leash is not None and self.verdict is None:
            self.verdict = (code, reason)
            self.leash.reschedule(asyncio.get_running_loop().time())


class Peers:
    """All sockets of one server."""

    def __init__(self) -> None:
        self._peers: set[Peer] = set()
        self._heart: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._peers)

    @contextmanager
    def present(self, peer: Peer) -> Iterator[None]:
        """The peer, watched for as long as it is here."""
        self._peers.add(peer)
        if self._heart is None:
            self._heart = asyncio.create_task(self._beat(), name="heartbeat of sockets")
        try:
            yield
        finally:
            self._peers.discard(peer)
            if not self._peers and self._heart is not None:
                self._heart.cancel()
                self._heart = None

    async def _beat(self) -> None:
        while True:
            shortest_s = min(min(peer.idle_s, peer.send_s) for peer in self._peers)
            await asyncio.sleep(min(1.0, shortest_s / 4))
            now_s = monotonic()
            for peer in tuple(self._peers):
                peer.judge(now_s)

    async def leave(self, within_s: float) -> int:
        """Say goodbye to all, and wait for answers under way. How many were not finished in time."""
        for peer in tuple(self._peers):
            peer.stop()
        deadline_s = monotonic() + within_s
        while self._peers and monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        return len(self._peers)
