"""One of a client's servers: its sockets, who lives on them, and whether it is worth asking now.

Knows how a socket is opened, lent and given back, and when to leave a server alone for a while;
nothing of what an episode does, or of the other servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from env_server.line import CapacityError, Line, Place, ServerError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

# episodes that begin together share a socket, up to so many: more would wait for one slow case,
# and fewer cost a frame each
SHARE: Final = 16
MAX_REPLY: Final = 16 * 1024 * 1024  # bytes
OPEN_S: Final = 20.0
FIRST_REST_S: Final = 0.25
LONGEST_REST_S: Final = 10.0
FULL_REST_S: Final = 1.0  # a seat may be given back any moment
_LOCAL: Final = ("://127.", "://localhost", "://[::1]")


@dataclass(frozen=True, slots=True)
class Standing:
    """How one server is doing, as this client knows it."""

    url: str
    episodes: int  # of this client's, alive there
    resting: bool  # left alone for a while: it failed, or was full
    why: str  # the last failure since it last answered


class Upstream:
    """One server and the sockets to it; used on the client's loop alone."""

    def __init__(self, url: str, family: str, deadline_s: float, in_flight: int) -> None:
        """`in_flight`: how many frames it is sent at once; further ones wait here."""
        self.url = _socket_url(url, family)
        self.family = family
        self.turns = asyncio.Semaphore(in_flight)
        self.share = SHARE  # episodes a socket; 1 where the server does not know batched frames
        self._deadline_s = deadline_s
        self._lines: dict[Line, None] = {}  # oldest first
        self._opening = 0  # places on sockets that are about to be
        self._failures = 0
        self._why = ""
        self.ready_at = 0.0  # on the monotonic clock

    @property
    def seats(self) -> int:
        """What we take of its capacity, seats without an episode included."""
        return sum(line.seats for line in self._lines) + self._opening

    @property
    def load(self) -> int:
        """Episodes that live there, or are about to."""
        return sum(line.living for line in self._lines) + self._opening

    def standing(self, now: float) -> Standing:
        return Standing(self.url, self.load, now < self.ready_at, self._why)

    def lent(self, wanted: int, room: int) -> list[Place]:
        """Up to so many places on one socket that nobody lives on, or none.

        room: seats that may be taken beyond those that it holds.
        """
        line = self._idle()
        return line.take(min(wanted, self.share, line.seats + room)) if line else []

    def vacant(self, wanted: int) -> list[Place]:
        """Up to so many places whose seats we hold, beside episodes that live; or none."""
        for line in self._lines:
            if line.sound and line.seats > line.living:
                return line.take(min(wanted, line.seats - line.living))
        return []

    async def opened(self, wanted: int) -> list[Place]:
        """Places on a new socket, as many as may share one. Raises ServerError."""
        wanted = min(wanted, self.share)
        self._opening += wanted
        try:
            async with self.turns:
                line = Line(await self._open(), self)
        finally:
            self._opening -= wanted
        self._lines[line] = None
        return line.take(wanted)

    def spare(self) -> int:
        """Close one socket that nobody lives on, to make room elsewhere; the seats it held."""
        line = self._idle()
        if line is None:
            return 0
        self.forget(line)
        return line.seats

    def _idle(self) -> Line | None:
        for line in tuple(self._lines):
            if line.living == 0:
                if line.sound:
                    return line
                self.forget(line)
        return None

    def release(self, place: Place) -> None:
        """Its episode is over, dropped or lost. A socket that is out of order ends with its last one."""
        line = place.line
        line.leave(place)
        if line.living == 0 and not line.sound:
            self.forget(line)

    def alone(self, places: Sequence[Place]) -> None:
        """It does not take batched frames: from now on an episode has a socket to itself."""
        self.share = 1
        for place in places:
            self.release(place)
        line = places[0].line
        if line.living == 0:  # what it would have to say first is a batched frame
            self.forget(line)

    def forget(self, line: Line) -> None:
        line.abort()
        self._lines.pop(line, None)

    def rest(self, why: ServerError, now: float) -> None:
        """Leave the server alone, longer each time, until it answers again."""
        if now < self.ready_at:
            return  # many failed at once: that is one failure
        self._why = str(why)
        longest = FULL_REST_S if isinstance(why, CapacityError) else LONGEST_REST_S
        self.ready_at = now + min(longest, FIRST_REST_S * 2**self._failures)
        self._failures += 1
        if not isinstance(why, CapacityError):  # idle sockets are as dead as the one that failed
            while self.spare():
                pass

    def answered(self) -> None:
        """It works: whatever failed before is forgotten."""
        self._failures, self._why, self.ready_at = 0, "", 0.0

    async def close(self) -> None:
        lines, self._lines = list(self._lines), {}
        await asyncio.gather(*(line.close() for line in lines), return_exceptions=True)

    async def _open(self) -> ClientConnection:
        # here, because a program that plays in process need not load what takes a tenth of a second
        from websockets.asyncio.client import connect as open_socket
        from websockets.exceptions import InvalidStatus, WebSocketException

        # loopback never goes through a proxy, whatever the environment says
        proxy: Literal[True] | None = None if any(mark in self.url for mark in _LOCAL) else True
        try:
            return await open_socket(
                self.url,
                open_timeout=min(self._deadline_s, OPEN_S),
                ping_interval=30.0,
                ping_timeout=60.0,
                close_timeout=2.0,
                max_size=MAX_REPLY,
                compression=None,  # costs 40 % on a local link
                proxy=proxy,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise ServerError(
                f"{self.url} refused the socket with HTTP {status}; "
                f"does this server have the family {self.family!r}?"
            ) from None
        except (OSError, WebSocketException, EOFError) as error:
            raise ServerError(
                f"no server at {self.url}: {str(error) or type(error).__name__}; "
                f"start one with `python -m env_server.app`"
            ) from None


def _socket_url(url: str, family: str) -> str:
    base = url.strip().rstrip("/")
    scheme, mark, rest = base.partition("://")
    if not mark:
        scheme, rest = "http", base
    spoken = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}.get(scheme.lower())
    if spoken is None or not rest:
        raise ServerError(f"{url!r} is no server address; write http://HOST:PORT")
    return f"{spoken}://{rest}/envs/{family}/ws"
