"""Where episodes may begin: the least busy of a client's servers, once one of them has room.

Those that are asked for together share sockets, a few to each. Knows when to wait, when to try
elsewhere and when to give up; nothing of what an episode does once it has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Any, Final

from env_server import contract
from env_server.contract import JsonObject, Split
from env_server.line import NO_SEAT, Answer, Ask, CapacityError, Place, Refused, ServerError
from env_server.upstream import Standing, Upstream

# task, seed, split, and what else the family lets one choose
Wanted = tuple[str | None, int, Split] | tuple[str | None, int, Split, Mapping[str, Any]]

Begun = tuple[Place, JsonObject]  # and the server's first word of it
Told = dict[int, Begun | Exception]

GLANCE_S: Final = 0.05  # the shortest wait before looking again


@dataclass(frozen=True, slots=True)
class _Wish:
    """An episode somebody wants to begin, and the place of its answer among those of its fellows."""

    at: int
    kind: str
    data: JsonObject | None = None


class Seats:
    """All seats a client has, on all of its servers; used on the client's loop alone."""

    def __init__(
        self, servers: Sequence[Upstream], pool: int, deadline_s: float, patience_s: float
    ) -> None:
        self._servers = tuple(servers)
        self.pool = pool
        self.deadline_s = deadline_s
        self.patience_s = patience_s

    def standings(self) -> list[Standing]:
        now = monotonic()
        return [server.standing(now) for server in self._servers]

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))

    async def probe(self) -> None:
        """Speak once with every server, so that a wrong address is found at once.

        One that answers is enough; where all that answer are full, waits for a seat.
        Raises ServerError or CapacityError.
        """
        said = await asyncio.gather(*map(self._probe, self._servers))
        failed = [error for error in said if error is not None]
        if len(failed) < len(said):
            return
        if not any(isinstance(error, CapacityError) for error in failed):
            raise failed[0]
        told: Told = {}
        await self._first([_Wish(0, "state")], monotonic() + self.patience_s, told)
        if isinstance(answer := told[0], Exception):
            raise answer
        answer[0].home.release(answer[0])

    async def _probe(self, server: Upstream) -> ServerError | None:
        try:
            places = server.lent(1, 0) or await server.opened(1)
            (answer,) = await self._answers(places, [_Wish(0, "state")])
            if isinstance(answer, ServerError):
                raise answer
        except ServerError as error:
            server.rest(error, monotonic())
            return error
        server.release(places[0])
        return None

    async def begin_each(self, wanted: Sequence[Wanted]) -> list[Begun | Exception]:
        """A place with a fresh episode for each, or why there is none.

        Waits, and tries elsewhere, while servers are full or down and there is patience left.
        What may stand in a place: ServerError, CapacityError, UnknownTask, BadSplit or BadOption.
        """
        wishes = [_Wish(at, "reset", _spelled(one)) for at, one in enumerate(wanted)]
        ends = monotonic() + self.patience_s
        told: Told = {}
        try:
            await asyncio.gather(*(self._first(some, ends, told) for some in self._shared(wishes)))
        except BaseException:
            for answer in told.values():
                if not isinstance(answer, Exception):
                    answer[0].home.release(answer[0])
            raise
        return [told[at] for at in range(len(wanted))]

    def _shared(self, wishes: list[_Wish]) -> list[list[_Wish]]:
        """Those that are to share a socket, neighbours together; with several servers, some for each.

        Neighbours are attempts at one case as a rule, which one server builds but once.
        """
        share = max(server.share for server in self._servers)
        groups = max(-(-len(wishes) // share), min(len(self._servers), len(wishes)))
        ends = [len(wishes) * at // groups for at in range(groups + 1)]
        return [wishes[start:end] for start, end in pairwise(ends)]

    async def _first(self, wishes: list[_Wish], ends: float, told: Told) -> None:
        """Tell each wish the reply to the first message of an episode, and the place that gave it."""
        while wishes:
            try:
                places = await self._acquire(len(wishes), ends)
            except ServerError as error:
                told.update({wish.at: error for wish in wishes})
                return
            here, elsewhere = wishes[: len(places)], wishes[len(places) :]
            wishes, _ = await asyncio.gather(
                self._tried(places, here, ends, told), self._first(elsewhere, ends, told)
            )

    async def _tried(
        self, places: list[Place], wishes: list[_Wish], ends: float, told: Told
    ) -> list[_Wish]:
        """Ask at these places, which are on one line; the wishes that are worth another try."""
        line = places[0].line
        pooled = line.used
        answers: Sequence[JsonObject | Exception]
        try:
            answers = await self._answers(places, wishes)
        except _Alone:
            return wishes
        except ServerError as error:
            if pooled and not isinstance(error, _Silent):
                return wishes  # it had gone stale in the pool; lines in the pool are finite
            answers = [error] * len(wishes)
        again = []
        for place, wish, answer in zip(places, wishes, answers, strict=True):
            if isinstance(answer, ServerError):
                line.home.rest(answer, monotonic())
                if monotonic() < ends:
                    again.append(wish)
                    continue
            told[wish.at] = answer if isinstance(answer, Exception) else (place, answer)
        return again

    async def _answers(
        self, places: list[Place], wishes: list[_Wish]
    ) -> list[JsonObject | Exception]:
        """What one server says to each wish; the places of those that it turned down are given back.

        Raises ServerError, all places given back, where the way or the server failed as a whole.
        """
        home = places[0].home
        asks = [Ask(w.kind, p.name, w.data) for p, w in zip(places, wishes, strict=True)]
        try:
            answers = await places[0].line.ask(asks, self.deadline_s)
        except BaseException as error:
            for place in places:
                home.release(place)
            raise self._failure(error, home, wishes[0]) from None
        if any(
            isinstance(one, Refused) and one.whole and one.code not in NO_SEAT for one in answers
        ):
            home.alone(places)
            raise _Alone(f"{home.url} does not take so many messages at once")
        told = [_read(one, wish, home) for one, wish in zip(answers, wishes, strict=True)]
        for place, one in zip(places, told, strict=True):
            if isinstance(one, Exception):
                home.release(place)
        if not all(isinstance(one, ServerError) for one in told):
            home.answered()
        return told

    def _failure(self, error: BaseException, home: Upstream, wish: _Wish) -> BaseException:
        """What a failure of the line means to those who asked there."""
        if isinstance(error, TimeoutError):
            asked = f"{wish.kind} {wish.data or ''}"
            return _Silent(f"{home.url} did not answer {asked} within {self.deadline_s:g} s")
        if isinstance(error, ServerError):
            return ServerError(f"{home.url} closed the socket at {wish.kind}: {error}")
        return error

    async def _acquire(self, wanted: int, ends: float) -> list[Place]:
        """Places on one line of the server with the fewest episodes: at least one, at most `wanted`.

        A server that rests is left alone, but for one last try where nothing else is left.
        Raises CapacityError or ServerError at `ends`.
        """
        why: ServerError | None = None
        while True:
            last = monotonic() >= ends
            if sum(one.load for one in self._servers) >= self.pool:
                why = CapacityError(
                    f"all {self.pool} places of this connection hold a live episode; "
                    f"finish or drop() one, or connect with a larger pool"
                )
            else:
                ready = [one for one in self._servers if last or one.ready_at <= monotonic()]
                for server in sorted(ready, key=lambda one: one.load):
                    try:
                        return await self._places(server, wanted)
                    except ServerError as error:
                        why = error
                        server.rest(error, monotonic())
            if last and why is not None:
                raise why
            soonest = min(one.ready_at for one in self._servers) - monotonic()
            await asyncio.sleep(min(max(soonest, GLANCE_S), max(ends - monotonic(), 0.0)))

    async def _places(self, server: Upstream, wanted: int) -> list[Place]:
        """Places at the server, or where there is a vacancy, without taking more seats than the pool has."""
        wanted = min(wanted, self.pool - sum(one.load for one in self._servers))
        room = self.pool - sum(one.seats for one in self._servers)
        if places := server.lent(wanted, room):
            return places
        others = sorted(self._servers, key=lambda one: one.load, reverse=True)
        for other in others:
            if room < 1:
                room += other.spare()
        if room > 0:
            return await server.opened(min(wanted, room))
        for one in (server, *others):
            if places := one.vacant(wanted):
                return places
        return await server.opened(1)  # what we hold waits for answers that are late


def _spelled(wanted: Wanted) -> JsonObject:
    """The data of the reset that begins it."""
    task, seed, split, options = wanted if len(wanted) == 4 else (*wanted, contract.NOTHING)
    asked = {"task_id": task, "seed": seed, "split": split, **options}
    return {key: value for key, value in asked.items() if value is not None}


def _read(answer: Answer, wish: _Wish, home: Upstream) -> JsonObject | Exception:
    """The server's first word of the episode, or the exception that says why there is none."""
    if not isinstance(answer, Refused):
        return answer
    if answer.code in NO_SEAT:
        return _no_seat(answer, home)
    if wish.kind == "state":
        return _greeted(answer, home)
    return _caller_mistake(answer)


def _greeted(refused: Refused, home: Upstream) -> JsonObject | ServerError:
    """A fresh socket has no episode to tell of: any refusal will do, but for that of a request's number."""
    if refused.code != "VALIDATION_ERROR":
        return {}
    return ServerError(
        f"{home.url} does not number its replies: it speaks OpenEnv's protocol as OpenEnv's own server"
        " does. This client needs ours (`python -m env_server.app`); OpenEnv's client plays on both"
    )


def _no_seat(refused: Refused, home: Upstream) -> ServerError:
    full = refused.code == "CAPACITY_REACHED"
    return (CapacityError if full else ServerError)(f"{home.url}: {refused}")


class _Alone(ServerError):
    """The server does not take many messages in one frame."""


class _Silent(ServerError):
    """No answer in time: not a stale socket but a server that hangs."""


def _caller_mistake(refused: Refused) -> Exception:
    """The same exception that the family would have raised in process."""
    known: dict[str, type[contract.RoundsError]] = {
        "UnknownTask": contract.UnknownTask,
        "BadSplit": contract.BadSplit,
        "BadOption": contract.BadOption,
    }
    return known.get(refused.kind, ServerError)(str(refused))
