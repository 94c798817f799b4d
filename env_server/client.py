"""The same verbs over the wire: a pool of sockets on a thread of its own, and a plain face to call.

Knows no family. Episodes that begin together share sockets, a few to each, and those that are stepped
together go in one frame a socket; one that begins by itself has a socket to itself. An episode that is
over, dropped or forgotten gives its place back. Where there are several servers, episodes begin at the one
with the fewest of ours; one that is dead or full is left alone for a while, and what cannot begin now waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

from env_server.contract import Action, EpisodeOver, JsonObject, Refusal, RoundsError, Split, Step
from env_server.line import (
    Answer,
    Ask,
    CapacityError,
    Deadline,
    EpisodeLost,
    Line,
    Place,
    Refused,
    RemoteError,
    ServerError,
)
from env_server.remote import RemoteEpisode, spelled
from env_server.seats import Seats, Wanted
from env_server.upstream import Standing, Upstream

__all__ = [
    "connect",
    "aconnect",
    "Connection",
    "RemoteEpisode",
    "RemoteError",
    "ServerError",
    "CapacityError",
    "EpisodeLost",
    "Deadline",
]

T = TypeVar("T")
Move = tuple[RemoteEpisode, Action | Refusal]
Sent = tuple[RemoteEpisode, JsonObject]

DEADLINE_S: Final = 60.0
PATIENCE_S: Final = 5.0
IN_FLIGHT: Final = 64


class Connection:
    """A family on one server or several: begin episodes, step them one by one or many at once.

    Every verb has an `a` twin for callers on an event loop of their own. Safe to use from several
    threads and tasks; one episode is one caller's at a time.
    """

    def __init__(
        self,
        urls: Sequence[str],
        family: str,
        pool: int,
        deadline_s: float,
        patience_s: float,
        in_flight: int,
    ) -> None:
        servers = [Upstream(url, family, deadline_s, in_flight) for url in urls]
        self.seats = Seats(servers, pool, deadline_s, patience_s)
        self.url = ", ".join(server.url for server in servers)
        self.family = family
        self.deadline_s = deadline_s
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._gate = threading.RLock()  # whatever passes it is on the loop before the loop's end is
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="rounds-client", daemon=True
        )
        self._thread.start()

    # -- the face -----------------------------------------------------------------------------

    def begin(
        self, task: str | None = None, seed: int = 0, split: Split = "train", **options: Any
    ) -> RemoteEpisode:
        """Begin an episode, with the family's own options by name.

        Raises CapacityError, ServerError, UnknownTask, BadSplit or BadOption.
        """
        return self.run(self.begun((task, seed, split, options)))

    def begin_many(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode]:
        """Begin several at once; all or none. Raises as `begin` does."""
        return self.run(self._begin_many(wanted))

    def begin_each(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode | RemoteError]:
        """Begin several at once; one that cannot says why in its place. Raises UnknownTask or BadSplit."""
        return self.run(self._begin_each(wanted))

    def step_many(self, pairs: Sequence[Move]) -> list[Step | EpisodeLost]:
        """Step each episode once, all at the same time; an episode that was lost says so in its place.

        Raises EpisodeOver, before anything is sent, if one of them has ended or appears twice.
        """
        return self.step_soon(pairs)()

    def step_soon(self, pairs: Sequence[Move]) -> Callable[[], list[Step | EpisodeLost]]:
        """`step_many`, of which only the asking is done now; whoever calls the result waits for the answers.

        Raises EpisodeOver as `step_many` does.
        """
        _check(pairs)
        return partial(self._awaited, self._sent(self._step_many(pairs)))

    def replay_many(self, episodes: Sequence[RemoteEpisode]) -> list[RemoteError | None]:
        """`replay` each, all at the same time; what went wrong in its place, None where it plays on."""
        return self.run(self._replay_many(episodes))

    def servers(self) -> list[Standing]:
        """How each server is doing, as this client knows it."""
        return self.seats.standings()

    def close(self) -> None:
        """Close every socket and end the thread; live episodes are lost. Twice is harmless."""
        with self._gate:
            before, self._closed = self._closed, True
        if before:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` on the client's own loop; an interrupt of the caller cancels it."""
        return self._awaited(self._sent(work))

    def _awaited(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            raise ServerError("this connection was closed meanwhile") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _sent(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._gate:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise ServerError("this connection is closed; connect again")

    # -- the same for callers on a loop of their own -------------------------------------------

    async def abegin(
        self, task: str | None = None, seed: int = 0, split: Split = "train", **options: Any
    ) -> RemoteEpisode:
        return await self.arun(self.begun((task, seed, split, options)))

    async def abegin_many(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode]:
        return await self.arun(self._begin_many(wanted))

    async def astep_many(self, pairs: Sequence[Move]) -> list[Step | EpisodeLost]:
        _check(pairs)
        return await self.arun(self._step_many(pairs))

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` on the client's own loop without blocking the caller's; cancelling it cancels that."""
        future = self._sent(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ServerError("this connection was closed meanwhile") from None

    # -- on the loop -------------------------------------------------------------------------

    async def begun(self, wanted: Wanted) -> RemoteEpisode:
        """A fresh episode on a socket of its own. Raises what `begin` raises."""
        (one,) = await self._begin_each([wanted])
        if isinstance(one, RemoteError):
            raise one
        return one

    async def _begin_each(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode | RemoteError]:
        done = [
            one if isinstance(one, Exception) else self._episode(*one)
            for one in await self.seats.begin_each(wanted)
        ]
        told = [one for one in done if isinstance(one, RemoteEpisode | RemoteError)]
        if len(told) < len(done):
            _drop(told)
            raise next(one for one in done if not isinstance(one, RemoteEpisode | RemoteError))
        return told

    def _episode(self, place: Place, body: JsonObject) -> RemoteEpisode | ServerError:
        try:
            return RemoteEpisode(self, place, body)
        except (KeyError, TypeError, AttributeError) as error:
            place.home.release(place)
            return ServerError(f"{place.home.url} begins episodes without {error}")

    async def _begin_many(self, wanted: Sequence[Wanted]) -> list[RemoteEpisode]:
        done = await self._begin_each(wanted)
        began = [one for one in done if isinstance(one, RemoteEpisode)]
        failed = [one for one in done if isinstance(one, RemoteError)]
        if failed:
            _drop(began)
            raise failed[0]
        return began

    async def step_one(self, episode: RemoteEpisode, data: JsonObject) -> Step:
        """One step as the wire has it. Raises EpisodeLost or Deadline."""
        (told,) = await self._take_steps([(episode, data)])
        if isinstance(told, EpisodeLost):
            raise told
        return told

    async def _step_many(self, pairs: Sequence[Move]) -> list[Step | EpisodeLost]:
        return await self._take_steps([(episode, spelled(action)) for episode, action in pairs])

    async def _take_steps(self, moves: Sequence[Sent]) -> list[Step | EpisodeLost]:
        """Step each episode once: those on one line in one frame, all lines at the same time."""
        together: dict[Line, list[int]] = {}
        told: dict[int, Step | EpisodeLost] = {}
        for at, (episode, _) in enumerate(moves):
            if episode.place is None:
                told[at] = _lost(episode, "replay() plays it again")
            else:
                together.setdefault(episode.place.line, []).append(at)

        work = [self._steps_on(line, [moves[i] for i in on]) for line, on in together.items()]
        # one player alone needs no further task
        done = [await work[0]] if len(work) == 1 else await asyncio.gather(*work)
        for on, answers in zip(together.values(), done, strict=True):
            told.update(zip(on, answers, strict=True))
        return [told[at] for at in range(len(moves))]

    async def _steps_on(self, line: Line, moves: Sequence[Sent]) -> list[Step | EpisodeLost]:
        asks = [Ask("step", e.place.name, data) for e, data in moves if e.place is not None]
        try:
            answers = await line.ask(asks, self.deadline_s)
        except TimeoutError:
            told = [self._too_late(episode) for episode, _ in moves]
            line.home.rest(ServerError(str(told[0])), monotonic())
            return told
        except ServerError as error:
            return [_lost(episode, str(error)) for episode, _ in moves]
        except BaseException:
            for episode, _ in moves:
                episode.leave()
            raise
        return [_heard(*move, answer) for move, answer in zip(moves, answers, strict=True)]

    def _too_late(self, episode: RemoteEpisode) -> Step | EpisodeLost:
        episode.leave()
        return Deadline(
            f"no answer within {self.deadline_s:g} s to step {episode.steps + 1} "
            f"of episode {episode.episode_id}"
        )

    async def _replay_many(self, episodes: Sequence[RemoteEpisode]) -> list[RemoteError | None]:
        async def one(episode: RemoteEpisode) -> RemoteError | None:
            try:
                await episode.play_again()
            except RemoteError as error:
                return error
            except RoundsError as error:  # it has begun there before: that server has changed
                return ServerError(f"{type(error).__name__}: {error}")
            return None

        return await asyncio.gather(*map(one, episodes))

    def release_soon(self, place: Place) -> None:
        """Give a place back from any thread, the garbage collector's included."""
        with suppress(RuntimeError):  # the loop has ended, and every place with it
            self._loop.call_soon_threadsafe(place.home.release, place)

    async def _close(self) -> None:
        await self.seats.close()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def connect(
    url: str | Sequence[str],
    family: str = "polypharmacy",
    pool: int = 64,
    deadline_s: float = DEADLINE_S,
    patience_s: float = PATIENCE_S,
    in_flight: int = IN_FLIGHT,
) -> Connection:
    """Reach the server at `url`, or several: a list, or one text with commas.

    pool: episodes that may live at once, on all servers together.
    deadline_s: how long any one frame may take to be answered, with one message or with several.
    patience_s: how long beginning an episode waits for a seat, or for a server that is down.
    in_flight: frames a server is sent at once.
    Raises ServerError where no server answers or none has the family, CapacityError where all are full.
    """
    urls = url.split(",") if isinstance(url, str) else list(url)
    wanted = [one.strip() for one in urls if one.strip()]
    if not wanted:
        raise ServerError(f"{url!r} is no server address; write http://HOST:PORT")
    connection = Connection(wanted, family, pool, deadline_s, patience_s, in_flight)
    try:
        connection.run(connection.seats.probe())
    except BaseException:
        connection.close()
        raise
    return connection


async def aconnect(url: str | Sequence[str], *wanted: Any, **named: Any) -> Connection:
    """`connect` for a caller on an event loop; use with `async with`."""
    return await asyncio.to_thread(connect, url, *wanted, **named)


def _check(pairs: Sequence[Move]) -> None:
    for episode, _ in pairs:
        episode.check_running()
    if len({id(episode) for episode, _ in pairs}) < len(pairs):
        raise EpisodeOver("an episode appears twice in one batch; give each its own call")


def _heard(episode: RemoteEpisode, sent: JsonObject, answer: Answer) -> Step | EpisodeLost:
    """What the server said to one step, taken down."""
    if isinstance(answer, Refused):
        return _lost(episode, f"Refused: {answer}")
    try:
        return episode.record(sent, answer)
    except ServerError as error:
        return _lost(episode, f"ServerError: {error}")


def _lost(episode: RemoteEpisode, why: str) -> EpisodeLost:
    episode.leave()
    return EpisodeLost(f"episode {episode.episode_id} was lost: {why}")


def _drop(done: Sequence[object]) -> None:
    for one in done:
        if isinstance(one, RemoteEpisode):
            one.drop()
