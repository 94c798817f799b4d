"""The same verbs over the wire: a pool of sockets on a thread of its own, and a plain face to call.

Knows the protocol and no family. Each live episode owns a socket; a late reply can never answer
another request, because a socket that was not answered in time is closed.
"""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from env_server import contract
from env_server.contract import (
    Action,
    EpisodeOver,
    EpisodeRunning,
    JsonObject,
    Refusal,
    Split,
    Step,
    Task,
)

T = TypeVar("T")
Wanted = tuple[str | None, int, Split]

DEADLINE_S: Final = 60.0
MAX_REPLY: Final = 16 * 1024 * 1024  # bytes
_LOCAL: Final = ("://127.", "://localhost", "://[::1]")


class RemoteError(contract.RoundsError):
    """Something went wrong on the way to or in the server; never a matter of the policy's."""


class ServerError(RemoteError):
    """The server cannot be reached, or said that it cannot do this."""


class CapacityError(ServerError):
    """No seat on the server, or none left in this client's pool."""


class EpisodeLost(RemoteError):
    """The episode cannot go on: drop it, or `replay()` it. Its score means nothing."""


class Deadline(EpisodeLost):
    """No answer in time; the socket was closed, so that a late one answers nothing."""


class _Refused(Exception):
    """The server's error message: the request was read, and turned down."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.code = str(data.get("code", "UNKNOWN"))
        self.kind = str(data.get("kind", ""))
        super().__init__(str(data.get("message", "no reason given")))


@dataclass(frozen=True, slots=True)
class RemoteObservation:
    """An observation as it arrived."""

    body: JsonObject

    def to_json(self) -> JsonObject:
        return self.body


class _Line:
    """One socket, asked one thing at a time."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._asked = 0

    async def ask(self, kind: str, data: JsonObject | None, deadline_s: float) -> JsonObject:
        """The reply to one message. Raises _Refused; any other exception leaves the line closed."""
        self._asked += 1
        message = {"type": kind, "request_id": self._asked}
        if data is not None:
            message["data"] = data
        try:
            async with asyncio.timeout(deadline_s):
                await self._socket.send(json.dumps(message))
                reply = json.loads(await self._socket.recv())
        except BaseException:
            self.abort()
            raise
        body: JsonObject = reply.get("data") or {}
        if reply.get("type") == "error":
            raise _Refused(body)
        if reply.get("request_id") != self._asked:
            self.abort()
            raise ServerError(f"the reply to another request: {reply.get('request_id')!r}")
        return body

    @property
    def used(self) -> bool:
        return self._asked > 1

    @property
    def open(self) -> bool:
        return self._socket.close_code is None and not self._socket.transport.is_closing()

    def abort(self) -> None:
        self._socket.transport.abort()

    async def close(self) -> None:
        try:
            await self._socket.send('{"type":"close"}')
        except ConnectionClosed:
            return
        await self._socket.close()


class Connection:
    """A server's family, playable: begin episodes, step them one by one or many at once.

    Safe to use from several threads; one episode is one thread's at a time.
    """

    def __init__(self, url: str, family: str, pool: int, deadline_s: float) -> None:
        self.url = _socket_url(url, family)
        self.family = family
        self.pool = pool
        self.deadline_s = deadline_s
        self._idle: list[_Line] = []
        self._lines: set[_Line] = set()
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
        return self._run(self._begin((task, seed, split)))

    def begin_many(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode]:
        """Begin several at once; all or none. Raises as `begin` does."""
        return self._run(self._begin_many(wanted))

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
        return self._run(self._step_many(pairs))

    def close(self) -> None:
        """Close every socket and end the thread; live episodes are lost. Twice is harmless."""
        if self._loop.is_closed():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
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
        except _Refused as refused:
            if refused.code == "CAPACITY_REACHED":
                raise CapacityError(f"{self.url}: {refused}") from None
        except (TimeoutError, ConnectionClosed, OSError, ValueError) as error:
            raise ServerError(
                f"{self.url} does not speak this protocol: {error or type(error).__name__}"
            ) from None
        self._release(line)

    async def _begin(self, wanted: Wanted) -> RemoteEpisode:
        line, body = await self._reset(wanted)
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

    async def _reset(self, wanted: Wanted) -> tuple[_Line, JsonObject]:
        """A line with a fresh episode on it, and the server's first word of it."""
        task, seed, split = wanted
        asked = {"task_id": task, "seed": seed, "split": split}
        data = {key: value for key, value in asked.items() if value is not None}
        line = await self._acquire()
        try:
            return line, await line.ask("reset", data, self.deadline_s)
        except _Refused as refused:
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
                return await self._reset(wanted)
            raise ServerError(f"{self.url} closed the socket at reset: {error}") from None
        except BaseException:
            self._forget(line)
            raise

    async def _acquire(self) -> _Line:
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
            line = _Line(await self._open())
        finally:
            self._opening -= 1
        self._lines.add(line)
        return line

    async def _open(self) -> ClientConnection:
        # loopback never goes through a proxy, whatever the environment says
        direct = {"proxy": None} if any(mark in self.url for mark in _LOCAL) else {}
        try:
            return await open_socket(
                self.url,
                open_timeout=min(self.deadline_s, 20.0),
                ping_interval=30.0,
                ping_timeout=60.0,
                close_timeout=2.0,
                max_size=MAX_REPLY,
                compression=None,  # costs 40 % on a local link
                **direct,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise ServerError(
                f"{self.url} refused the socket with HTTP {status}; "
                f"does this server have the family {self.family!r}?"
            ) from None
        except (OSError, WebSocketException) as error:
            raise ServerError(
                f"no server at {self.url}: {error or type(error).__name__}; "
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
        except (_Refused, ServerError, ConnectionClosed, OSError, ValueError) as error:
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

    def _forget(self, line: _Line) -> None:
        line.abort()
        self._lines.discard(line)

    def _release(self, line: _Line) -> None:
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

    def release_soon(self, line: _Line) -> None:
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


class RemoteEpisode:
    """An episode that lives on a server; the verbs of `contract.Episode` that an agent needs."""

    def __init__(self, connection: Connection, line: _Line, begun: JsonObject) -> None:
        self._connection = connection
        self.line: _Line | None
        self.task = _task(begun["task"])
        self.seed: int = begun["seed"]
        self.split: Split = begun["split"]
        self.episode_id: str = begun["episode_id"]
        self._start(line, begun)

    def _start(self, line: _Line, begun: JsonObject) -> None:
        self.line = line
        self.steps = 0
        self.done: bool = begun["done"]
        self.actions: list[JsonObject] = []  # as sent: what replay() sends again
        self._observation = RemoteObservation(begun["observation"])
        self._last: JsonObject = begun
        # an episode that nobody holds any more gives its socket back
        self._forgotten = weakref.finalize(self, self._connection.release_soon, line)
        self._forgotten.atexit = False

    def observe(self) -> RemoteObservation:
        return self._observation

    def step(self, action: Action | Refusal) -> Step:
        """Act once. Raises EpisodeOver, or EpisodeLost (Deadline) where the server did not answer."""
        self.check_running()
        return self._connection._run(self._connection.step_one(self, action))

    def score(self) -> float:
        """The grader's score. Raises EpisodeRunning before the end."""
        score: float = self._ended()["score"]
        return score

    def outcome(self) -> Mapping[str, Any]:
        """What was hidden. Raises EpisodeRunning before the end."""
        outcome: JsonObject = self._ended()["outcome"]
        return outcome

    def state(self) -> JsonObject:
        """The counters, asked of the server while the episode lives. Raises EpisodeLost."""
        if self.done:
            state: JsonObject = self._last["state"]
            return state
        return self._connection._run(self._ask_state())

    def drop(self) -> None:
        """Give the socket back without finishing; the episode is lost."""
        self.line = None
        self._forgotten()

    def replay(self) -> None:
        """Play the same case and the same actions on a new socket, up to where this episode was.

        Raises ServerError if the server plays another game than it did, and what `begin` raises.
        """
        self._connection._run(self._replay())

    def check_running(self) -> None:
        """Raise EpisodeOver if the episode has ended."""
        if self.done:
            raise EpisodeOver(f"episode {self.episode_id} has ended; begin another one")

    # -- on the loop --------------------------------------------------------------------------

    def record(self, sent: JsonObject, body: JsonObject) -> Step:
        """Take in the server's answer to the action `sent`."""
        self.steps += 1
        self.actions.append(sent)
        self._last = body
        self.done = body["done"]
        self._observation = RemoteObservation(body["observation"])
        if self.done:
            self.line = None
            self._forgotten()
        refusal = body["refusal"]
        return Step(
            self._observation,
            body["reward"],
            body["parts"],
            self.done,
            Refusal(**refusal) if refusal else None,
            body["info"],
        )

    async def _ask_state(self) -> JsonObject:
        if self.line is None:
            raise EpisodeLost(f"episode {self.episode_id} was lost; replay() plays it again")
        try:
            return await self.line.ask("state", None, self._connection.deadline_s)
        except (TimeoutError, _Refused, ConnectionClosed, OSError, ValueError) as error:
            self.drop()
            raise EpisodeLost(f"episode {self.episode_id} was lost: {error}") from None

    async def _replay(self) -> None:
        actions, seen = self.actions, contract.canonical(self._observation.to_json())
        self._connection.give_back(self)
        line, begun = await self._connection._reset((self.task.name, self.seed, self.split))
        begun["observation"]["episode_id"] = self.episode_id
        self._start(line, begun)
        for action in actions:
            self.record(action, await line.ask("step", action, self._connection.deadline_s))
        if contract.canonical(self._observation.to_json()) != seen:
            self.drop()
            raise ServerError(
                f"{self._connection.url} no longer plays episode {self.episode_id} as it did; "
                f"was another version started?"
            )

    def _ended(self) -> JsonObject:
        if not self.done:
            raise EpisodeRunning(f"episode {self.episode_id} has not ended")
        return self._last


def connect(
    url: str, family: str = "polypharmacy", pool: int = 64, deadline_s: float = DEADLINE_S
) -> Connection:
    """Reach the server at `url`; `pool` is the number of episodes that may live at once.

    Raises ServerError where there is no server or no such family, CapacityError where it is full.
    """
    connection = Connection(url, family, pool, deadline_s)
    try:
        connection._run(connection.probe())
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


def _task(body: JsonObject) -> Task:
    return Task(**{**body, "splits": tuple(body["splits"])})


def _caller_mistake(refused: _Refused) -> Exception:
    """The same exception that the family would have raised in process."""
    known: dict[str, type[contract.RoundsError]] = {
        "UnknownTask": contract.UnknownTask,
        "BadSplit": contract.BadSplit,
    }
    return known.get(refused.kind, ServerError)(str(refused))
