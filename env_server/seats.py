"""Where an episode may begin: the least busy of a client's servers, once one of them has room.

Knows when to wait, when to try elsewhere and when to give up; nothing of what an episode does once
it has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

from websockets.exceptions import ConnectionClosed

from env_server import contract
from env_server.contract import JsonObject, Split
from env_server.line import CapacityError, Line, Refused, ServerError
from env_server.upstream import Standing, Upstream

# task, seed, split, and what else the family lets one choose
Wanted = tuple[str | None, int, Split] | tuple[str | None, int, Split, Mapping[str, Any]]

GLANCE_S: Final = 0.05  # the shortest wait before looking again
_NO_SEAT: Final = ("CAPACITY_REACHED", "SERVER_STOPPING")


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
        line, _ = await self._first("state", None)
        line.home.release(line)

    async def _probe(self, server: Upstream) -> ServerError | None:
        try:
            line = await server.line()
            await self._asked(line, "state", None)
        except ServerError as error:
            server.rest(error, monotonic())
            return error
        server.release(line)
        return None

    async def begin(self, wanted: Wanted) -> tuple[Line, JsonObject]:
        """A line with a fresh episode on it, and the server's first word of it.

        Waits, and tries elsewhere, while servers are full or down and there is patience left.
        Raises ServerError, CapacityError, UnknownTask, BadSplit or BadOption.
        """
        task, seed, split, options = wanted if len(wanted) == 4 else (*wanted, contract.NOTHING)
        asked = {"task_id": task, "seed": seed, "split": split, **options}
        data = {key: value for key, value in asked.items() if value is not None}
        try:
            return await self._first("reset", data)
        except Refused as refused:
            raise _caller_mistake(refused) from None

    async def _first(self, kind: str, data: JsonObject | None) -> tuple[Line, JsonObject]:
        """The reply to the first message of an episode, and the line that gave it."""
        ends = monotonic() + self.patience_s
        while True:
            line = await self._acquire(ends)
            pooled = line.used
            try:
                return line, await self._asked(line, kind, data)
            except ServerError as error:
                if pooled and not isinstance(error, _Silent):
                    continue  # it had gone stale in the pool; lines in the pool are finite
                line.home.rest(error, monotonic())
                if monotonic() >= ends:
                    raise

    async def _asked(self, line: Line, kind: str, data: JsonObject | None) -> JsonObject:
        """The reply. Any failure of the way or the server's is a ServerError, and the line is gone.

        Raises Refused for what the caller did wrong; the line is back in the pool.
        """
        home = line.home
        try:
            body = await line.ask(kind, data, self.deadline_s)
        except Refused as refused:
            if refused.code in _NO_SEAT:
                home.forget(line)
                full = refused.code == "CAPACITY_REACHED"
                raise (CapacityError if full else ServerError)(f"{home.url}: {refused}") from None
            home.answered()
            if kind == "state":  # an answer as good as any: there is no episode to tell of
                return {}
            home.release(line)
            raise
        except TimeoutError:
            home.forget(line)
            raise _Silent(
                f"{home.url} did not answer {kind} {data or ''} within {self.deadline_s:g} s"
            ) from None
        except (ServerError, ConnectionClosed, OSError, ValueError) as error:
            home.forget(line)
            why = str(error) or type(error).__name__
            raise ServerError(f"{home.url} closed the socket at {kind}: {why}") from None
        except BaseException:
            home.forget(line)
            raise
        home.answered()
        return body

    async def _acquire(self, ends: float) -> Line:
        """A line at the server with the fewest episodes. Raises CapacityError or ServerError at `ends`.

        A server that rests is left alone, but for one last try where nothing else is left.
        """
        why: ServerError | None = None
        while True:
            last = monotonic() >= ends
            if (crowded := self._crowded()) is not None:
                why = crowded
            else:
                ready = [one for one in self._servers if last or one.ready_at <= monotonic()]
                for server in sorted(ready, key=lambda one: one.load):
                    try:
                        return await server.line()
                    except ServerError as error:
                        why = error
                        server.rest(error, monotonic())
            if last and why is not None:
                raise why
            soonest = min(one.ready_at for one in self._servers) - monotonic()
            await asyncio.sleep(min(max(soonest, GLANCE_S), max(ends - monotonic(), 0.0)))

    def _crowded(self) -> CapacityError | None:
        """Why no further episode may begin; where only idle sockets are in the way, one goes."""
        if sum(one.load for one in self._servers) >= self.pool:
            return CapacityError(
                f"all {self.pool} sockets of this connection hold a live episode; "
                f"finish or drop() one, or connect with a larger pool"
            )
        if len(self._servers) > 1 and sum(one.sockets for one in self._servers) >= self.pool:
            fullest = sorted(self._servers, key=lambda one: one.load, reverse=True)
            any(one.spare() for one in fullest)
        return None


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
