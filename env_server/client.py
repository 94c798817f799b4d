"""The same verbs over the wire: a pool of sockets on a thread of its own, and a plain face to call.

Knows no family. Each live episode owns a socket; an episode that is over, dropped or forgotten
gives it back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import Any, Final, Literal, TypeVar

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from env_server import contract
from env_server.contract import (
    Action,
    EpisodeOver,
    JsonObject,
    Refusal,
    Split,
    Step,
)
from env_server.line import (
    CapacityError,
    Deadline,
    EpisodeLost,
    Line,
    Refused,
    RemoteError,
    ServerError,
)
from env_server.remote import RemoteEpisode

__all__ = [
    "connect",
    "Connection",
    "RemoteEpisode",
    "RemoteError",
    "ServerError",
    "CapacityError",
    "EpisodeLost",
    "Deadline",
]

T = TypeVar("T")
Wanted = tuple[str | None, int, Split]

DEADLINE_S: Final = 60.0
MAX_REPLY: Final = 16 * 1024 * 1024  # bytes
_LOCAL: Final = ("://127.", "://localhost", "://[::1]")


class Connection:
    """A server's family, playable: begin episodes, step them one by one or many at once.

    Safe to use from several threads; one episode is one thread's at a time.
    """

    def __init__(self, url: str, family: str, pool: int, deadline_s: float) -> None:
        self.url = _socket_url(url, family)
        self.family = family
        self.pool = pool
        self.deadline_s = deadline_s
        self._idle: list[Line] = []
        self._lines: set[Line] = set()
        self._opening = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="rounds-client", daemon=True
        )
        self._thread.start()

    # -- the face -----------------------------------------------------------------------------

    def begin(
        self, task: str | None = None, seed: int = 0, split: Split = "train"
    ) -> RemoteEpisode:
        """Begin an episode. Raises CapacityError, ServerError, UnknownTask or BadSplit."""
        return self.run(self._begin((task, seed, split)))

    def begin_many(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode]:
        """Begin several at once; all or none. Raises as `begin` does."""
        return self.run(self._begin_many(wanted))

    def step_many(
        self, pairs: Sequence[tuple[RemoteEpisode, Action | Refusal]]
    ) -> list[Step | EpisodeLost]:
        """Step each episode once, all at the same time; an episode that was lost says so in its place.

        Raises EpisodeOver, before anything is sent, if one of them has ended or appears twice.
        """
        for episode, _ in pairs:
            episode.check_running()
        if len({id(episode) for episode, _ in pairs}) < len(pairs):
            raise EpisodeOver("an episode appears twice in one batch; give each its own call")
        return self.run(self._step_many(pairs))

    def close(self) -> None:
        """Close every socket and end the thread; live episodes are lost. Twice is harmless."""
        if self._loop.is_closed():
            return
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` on the client's own loop; an interrupt of the caller cancels it."""
        if self._loop.is_closed():
            work.close()
            raise ServerError("this connection is closed; connect again")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ServerError("this connection was closed meanwhile") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    # -- on the loop --------------------------------------------------------------------------

    async def probe(self) -> None:
        """Open the first socket and speak on it, so that a wrong address is found at once."""
        line = await self._acquire()
        try:
            await line.ask("state", None, self.deadline_s)
        except Refused as refused:
            if refused.code == "CAPACITY_REACHED":
                raise CapacityError(f"{self.url}: {refused}") from None
        except (TimeoutError, ConnectionClosed, OSError, ValueError) as error:
            raise ServerError(
                f"{self.url} does not speak this protocol: {str(error) or type(error).__name__}"
            ) from None
        self._release(line)

    async def _begin(self, wanted: Wanted) -> RemoteEpisode:
        line, body = await self.reset(wanted)
        return RemoteEpisode(self, line, body)

    async def _begin_many(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode]:
        done = await asyncio.gather(*map(self._begin, wanted), return_exceptions=True)
        began = [one for one in done if isinstance(one, RemoteEpisode)]
        failed = [one for one in done if isinstance(one, BaseException)]
        if failed:
            for episode in began:
                episode.drop()
            raise failed[0]
        return began

    async def reset(self, wanted: Wanted) -> tuple[Line, JsonObject]:
        """A line with a fresh episode on it, and the server's first word of it."""
        task, seed, split = wanted
        asked = {"task_id": task, "seed": seed, "split": split}
        data = {key: value for key, value in asked.items() if value is not None}
        line = await self._acquire()
        try:
            return line, await line.ask("reset", data, self.deadline_s)
        except Refused as refused:
            # an answered refusal leaves the socket good, unless there was no seat for it
            if refused.code == "CAPACITY_REACHED":
                self._forget(line)
                raise CapacityError(f"{self.url}: {refused}") from None
            self._release(line)
            raise _caller_mistake(refused) from None
        except TimeoutError:
            self._forget(line)
            raise ServerError(
                f"{self.url} did not begin {data} within {self.deadline_s:g} s"
            ) from None
        except (ConnectionClosed, OSError, ValueError) as error:
            self._forget(line)
            if line.used:  # it had gone stale in the pool; lines in the pool are finite
                return await self.reset(wanted)
            raise ServerError(f"{self.url} closed the socket at reset: {error}") from None
        except BaseException:
            self._forget(line)
            raise

    async def _acquire(self) -> Line:
        """An idle line that is still open, or a new one. Raises CapacityError or ServerError."""
        while self._idle:
            line = self._idle.pop()
            if line.open:
                return line
            self._forget(line)
        if len(self._lines) + self._opening >= self.pool:
            raise CapacityError(
                f"all {self.pool} sockets of this connection hold a live episode; "
                f"finish or drop() one, or connect with a larger pool"
            )
        self._opening += 1
        try:
            line = Line(await self._open())
        finally:
            self._opening -= 1
        self._lines.add(line)
        return line

    async def _open(self) -> ClientConnection:
        # loopback never goes through a proxy, whatever the environment says
        proxy: Literal[True] | None = None if any(mark in self.url for mark in _LOCAL) else True
        try:
            return await open_socket(
                self.url,
                open_timeout=min(self.deadline_s, 20.0),
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
        except (OSError, WebSocketException) as error:
            raise ServerError(
                f"no server at {self.url}: {str(error) or type(error).__name__}; "
                f"start one with `python -m env_server.app`"
            ) from None

    async def step_one(self, episode: RemoteEpisode, action: Action | Refusal) -> Step:
        """One step. Raises EpisodeLost or Deadline, and the episode's line is closed."""
        line = episode.line
        if line is None:
            raise EpisodeLost(f"episode {episode.episode_id} was lost; replay() plays it again")
        data = _spell(action)
        try:
            body = await line.ask("step", data, self.deadline_s)
        except TimeoutError:
            self._lose(episode)
            raise Deadline(
                f"no answer within {self.deadline_s:g} s to step {episode.steps + 1} "
                f"of episode {episode.episode_id}"
            ) from None
        except (Refused, ServerError, ConnectionClosed, OSError, ValueError) as error:
            self._lose(episode)
            why = f"{type(error).__name__.lstrip('_')}: {error}"
            raise EpisodeLost(f"episode {episode.episode_id} was lost: {why}") from None
        except BaseException:
            self._lose(episode)
            raise
        return episode.record(data, body)

    async def _step_many(
        self, pairs: Sequence[tuple[RemoteEpisode, Action | Refusal]]
    ) -> list[Step | EpisodeLost]:
        async def one(episode: RemoteEpisode, action: Action | Refusal) -> Step | EpisodeLost:
            try:
                return await self.step_one(episode, action)
            except EpisodeLost as lost:
                return lost

        return await asyncio.gather(*(one(episode, action) for episode, action in pairs))

    def _lose(self, episode: RemoteEpisode) -> None:
        line, episode.line = episode.line, None
        if line is not None:
            self._forget(line)

    def _forget(self, line: Line) -> None:
        line.abort()
        self._lines.discard(line)

    def _release(self, line: Line) -> None:
        """The line's episode is over or dropped: the next reset may use it."""
        if line in self._lines and line.open:
            self._idle.append(line)
        else:
            self._forget(line)

    def give_back(self, episode: RemoteEpisode) -> None:
        """Release the episode's line, if it still has one, before anything else happens."""
        line, episode.line = episode.line, None
        if line is not None:
            self._release(line)

    def release_soon(self, line: Line) -> None:
        """`_release` from any thread, the garbage collector's included."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._release, line)

    async def _close(self) -> None:
        lines, self._lines, self._idle = list(self._lines), set(), []
        await asyncio.gather(*(line.close() for line in lines), return_exceptions=True)
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def connect(
    url: str, family: str = "polypharmacy", pool: int = 64, deadline_s: float = DEADLINE_S
) -> Connection:
    """Reach the server at `url`; `pool` is the number of episodes that may live at once.

    Raises ServerError where there is no server or no such family, CapacityError where it is full.
    """
    connection = Connection(url, family, pool, deadline_s)
    try:
        connection.run(connection.probe())
    except BaseException:
        connection.close()
        raise
    return connection


def _socket_url(url: str, family: str) -> str:
    base = url.rstrip("/")
    scheme, mark, rest = base.partition("://")
    if not mark:
        scheme, rest = "http", base
    spoken = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}.get(scheme.lower())
    if spoken is None or not rest:
        raise ServerError(f"{url!r} is no server address; write http://HOST:PORT")
    return f"{spoken}://{rest}/envs/{family}/ws"


def _spell(action: Action | Refusal) -> JsonObject:
    return {"refusal": action.to_json()} if isinstance(action, Refusal) else action.to_json()


def _caller_mistake(refused: Refused) -> Exception:
    """The same exception that the family would have raised in process."""
    known: dict[str, type[contract.RoundsError]] = {
        "UnknownTask": contract.UnknownTask,
        "BadSplit": contract.BadSplit,
    }
    return known.get(refused.kind, ServerError)(str(refused))
