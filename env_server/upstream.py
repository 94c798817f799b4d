"""One of a client's servers: its sockets, how busy they are, and whether it is worth asking now.

Knows how a socket is opened, lent and given back, and when to leave a server alone for a while;
nothing of episodes, or of the other servers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import InvalidStatus, WebSocketException

from env_server.line import CapacityError, Line, ServerError

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
        """`in_flight`: how many requests it is asked at once; further ones wait here."""
        self.url = _socket_url(url, family)
        self.family = family
        self.turns = asyncio.Semaphore(in_flight)
        self._deadline_s = deadline_s
        self._idle: list[Line] = []
        self._lines: set[Line] = set()
        self._opening = 0
        self._failures = 0
        self._why = ""
        self.ready_at = 0.0  # on the monotonic clock

    @property
    def sockets(self) -> int:
        return len(self._lines) + self._opening

    @property
    def load(self) -> int:
        """Sockets that hold an episode, or are about to."""
        return self.sockets - len(self._idle)

    def standing(self, now: float) -> Standing:
        return Standing(self.url, self.load, now < self.ready_at, self._why)

    async def line(self) -> Line:
        """An idle socket that is still open, or a new one. Raises ServerError."""
        while self._idle:
            line = self._idle.pop()
            if line.open:
                return line
            self.forget(line)
        self._opening += 1
        try:
            async with self.turns:
                line = Line(await self._open(), self)
        finally:
            self._opening -= 1
        self._lines.add(line)
        return line

    def spare(self) -> bool:
        """Close one idle socket, if there is one, to make room for another elsewhere."""
        if not self._idle:
            return False
        self.forget(self._idle.pop())
        return True

    def release(self, line: Line) -> None:
        """The line's episode is over or dropped: the next reset may use it."""
        if line in self._lines and line.open:
            self._idle.append(line)
        else:
            self.forget(line)

    def forget(self, line: Line) -> None:
        line.abort()
        self._lines.discard(line)

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
        lines, self._lines, self._idle = list(self._lines), set(), []
        await asyncio.gather(*(line.close() for line in lines), return_exceptions=True)

    async def _open(self) -> ClientConnection:
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
