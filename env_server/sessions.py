"""Who is playing: a table of sessions with a capacity, and what happens to those left idle.

Knows episodes only as something to hold. Time is passed in, so that a test need not wait.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Literal

from env_server.contract import NOTHING, Action, Episode, Refusal, RoundsError

Kind = Literal["http", "ws"]
GRACE_S: Final = 30.0  # a session just opened is not yet forgotten


class Full(RoundsError):
    """Every seat is taken."""


class Stopping(RoundsError):
    """The server is on its way out: what runs is finished, nothing new begins."""


class NoSession(RoundsError, KeyError):
    """No session of that id, or none at all."""

    __str__ = Exception.__str__


class Turn:
    """One request of a session at a time, in the order in which they came."""

    __slots__ = ("_asked", "_lock")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._asked = 0  # requests that are in it or wait for it

    @property
    def free(self) -> bool:
        """Whether nobody is in it and nobody waits."""
        return self._asked == 0

    def locked(self) -> bool:
        return self._lock.locked()

    async def __aenter__(self) -> None:
        self._asked += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._asked -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._asked -= 1
        self._lock.release()


@dataclass(slots=True, eq=False)
class Session:
    """One seat: a socket, or a series of HTTP requests that share an id."""

    id: str
    family: str
    kind: Kind
    used_s: float  # when it was last used, on the table's clock
    named: bool = False  # a client has addressed it by its id
    episode: Episode | None = None
    played: list[Action | Refusal] = field(default_factory=list)  # all it takes to play it again
    # what was chosen of the episode beyond task, seed and split
    options: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    turn: Turn = field(default_factory=Turn)

    @property
    def over(self) -> bool:
        return self.episode is None or self.episode.done

    @property
    def resting(self) -> bool:
        """Whether nothing is being done for it: no case is built, no step taken, and none waits."""
        return self.turn.free


class SessionTable:
    """All sessions of one server, least recently used first."""

    def __init__(
        self,
        capacity: int = 256,
        idle_s: float = 1800.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`capacity` counts sockets and HTTP sessions together; `idle_s` closes what nobody uses."""
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.idle_s = idle_s
        self.stopping = False
        self.turned_away = 0  # for want of a seat, since the start
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._default: dict[str, str] = {}  # family -> the session of requests that name none

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, family: str, kind: Kind, *, named: bool = False) -> Session:
        """Take a seat. Raises Full, with a reason a person can act on, or Stopping.

        named: it is played by its id alone, so it never stands in for requests without one.
        """
        self.sweep()
        if self.stopping:
            raise Stopping("this server is stopping and begins nothing new; ask another, or later")
        if len(self._sessions) >= self.capacity and not self._make_room():
            self.turned_away += 1
            raise Full(
                f"all {self.capacity} sessions of this server are taken; close one, "
                f"wait for an idle one to end, or start the server with a larger --capacity"
            )
        session = Session(secrets.token_hex(8), family, kind, self._clock(), named)
        self._sessions[session.id] = session
        if kind == "http" and not named:
            self._default[family] = session.id
        return session

    def close(self, session: Session) -> None:
        """Give the seat back; closing twice is harmless."""
        self._sessions.pop(session.id, None)
        if self._default.get(session.family) == session.id:
            del self._default[session.family]

    def find(self, family: str, id: str | None) -> Session:
        """The HTTP session `id`, or the family's latest for None. Raises NoSession."""
        self.sweep()
        wanted = id or self._default.get(family)
        if wanted is None:
            raise NoSession("no episode yet; POST /reset begins one")
        session = self._sessions.get(wanted)
        if session is None or session.kind != "http" or session.family != family:
            raise NoSession(
                f"no {family} session {wanted[:60]!r}: never opened, or closed after "
                f"{self.idle_s:.0f} s without use; POST /reset without an id opens one"
            )
        session.named = session.named or id is not None
        self.touch(session)
        return session

    def all(self) -> list[Session]:
        """Every session, latest used last."""
        return list(self._sessions.values())

    def seated(self) -> Counter[tuple[str, Kind]]:
        """How many seats each family's sockets and HTTP sessions hold."""
        return Counter((s.family, s.kind) for s in self._sessions.values())

    def idle(self, session: Session) -> float:
        """Seconds since it was last used."""
        return self._clock() - session.used_s

    def living(self, family: str) -> list[Session]:
        """The family's sessions that hold an episode under way, sockets included; latest used last."""
        return [s for s in self._sessions.values() if s.family == family and not s.over]

    def touch(self, session: Session) -> None:
        session.used_s = self._clock()
        if session.id in self._sessions:
            self._sessions.move_to_end(session.id)

    def sweep(self) -> None:
        """Close HTTP sessions that nobody has used for `idle_s`; sockets watch their own clock."""
        limit = self._clock() - self.idle_s
        stale = []
        for session in self._sessions.values():
            if session.used_s > limit:
                break  # the rest was used later
            if session.kind == "http" and session.resting:
                stale.append(session)
        for session in stale:
            self.close(session)

    def _make_room(self) -> bool:
        """Drop one HTTP session that nobody can miss: finished, or left behind by a nameless reset."""
        recent = self._clock() - GRACE_S
        for session in self._sessions.values():
            default = self._default.get(session.family) == session.id
            forgotten = not session.named and not default and session.used_s < recent
            if session.kind == "http" and session.resting and (session.over or forgotten):
                self.close(session)
                return True
        return False
