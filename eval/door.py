"""How a player reaches the environment: in this process, or over the server's socket.

One protocol for both. Knows nothing of who plays; an episode that the server loses comes back as
`Lost`, a named outcome, so that a broken machine is never mistaken for a bad decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from env_server import registry
from env_server.client import Connection, EpisodeLost, RemoteError, connect
from env_server.contract import Action, Episode, Family, Refusal, Split, Step
from env_server.remote import RemoteEpisode

if TYPE_CHECKING:
    from env_server.line import Line

REPLAYS = 3  # of one episode at one step, each with all the patience there is
Move: TypeAlias = "tuple[Episode, Action | Refusal]"
Played: TypeAlias = "tuple[RemoteEpisode, Action | Refusal]"


@dataclass(frozen=True, slots=True)
class Request:
    """Which patient to play: one task, one seed, one split."""

    task: str
    seed: int
    split: Split


@dataclass(frozen=True, slots=True)
class Lost:
    """An episode that the infrastructure could not finish; it has no score."""

    why: str


class Door(Protocol):
    """Opens episodes and plays many of them a step further at once."""

    seats: int  # episodes that may live at once

    def family_of(self, task: str) -> Family:
        """The family whose task this is."""
        ...

    def begin(self, task: str, seed: int, split: Split) -> Episode:
        """One episode, or the exception that says why not."""
        ...

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]: ...

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]: ...

    def step_each(self, moves: Iterable[Move]) -> Iterator[Step | Lost]:
        """`step_many` of moves that are still being made up, and whose answers are read one by one.

        A server works on the first ones meanwhile. Takes all moves before it gives the first answer.
        """
        ...

    def close(self) -> None: ...


class LocalDoor:
    """The environment in this process: nothing can be lost, and an exception is a defect."""

    seats = 1024  # as many conversations as one batch of a model may reasonably hold

    def __init__(self, family: Family | str) -> None:
        self.family = registry.get(family) if isinstance(family, str) else family

    def family_of(self, task: str) -> Family:
        return self.family

    def begin(self, task: str, seed: int, split: Split) -> Episode:
        return self.family.begin(task, seed, split)

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]:
        return [self.family.begin(r.task, r.seed, r.split) for r in requests]

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        return [episode.step(decision) for episode, decision in moves]

    def step_each(self, moves: Iterable[Move]) -> Iterator[Step | Lost]:
        yield from self.step_many(list(moves))

    def close(self) -> None:
        return None


class RemoteDoor:
    """The environment on one server or several. A lost episode is played again up to where it was.

    The environment is deterministic, so a broken socket or a restarted server costs time alone: one
    server's episodes go on at another, or wait for it to come back. What cannot be recovered is `Lost`.
    Mistakes of the caller (a task that does not exist) raise.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        family: Family | str,
        seats: int = 64,
        patience_s: float = 60.0,
        deadline_s: float = 60.0,
    ) -> None:
        """patience_s: how long a batch waits for a server to come back, or for a seat."""
        self.family = registry.get(family) if isinstance(family, str) else family
        self.seats = seats
        self._connection: Connection = connect(
            url, self.family.name, seats, deadline_s=deadline_s, patience_s=patience_s
        )

    def family_of(self, task: str) -> Family:
        return self.family

    def begin(self, task: str, seed: int, split: Split) -> Episode:
        return cast(Episode, self._connection.begin(task, seed, split))

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]:
        begun = self._connection.begin_each([(r.task, r.seed, r.split) for r in requests])
        return [
            Lost(str(one)) if isinstance(one, RemoteError) else cast(Episode, one) for one in begun
        ]

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        return list(self.step_each(moves))

    def step_each(self, moves: Iterable[Move]) -> Iterator[Step | Lost]:
        """What is to be said on a socket is sent as soon as each of its episodes has moved."""
        pairs: list[Played] = []
        unsent: dict[
            Line | None, list[int]
        ] = {}  # places, by socket; None for what is lost already
        asked: list[tuple[list[int], Callable[[], list[Step | EpisodeLost]]]] = []

        def send(socket: Line | None) -> None:
            places = unsent.pop(socket)
            asked.append((places, self._connection.step_soon([pairs[at] for at in places])))

        for at, (episode, decision) in enumerate(moves):
            pairs.append((cast(RemoteEpisode, episode), decision))
            place = pairs[at][0].place
            socket = None if place is None else place.line
            unsent.setdefault(socket, []).append(at)
            if socket is not None and len(unsent[socket]) >= socket.living:
                send(socket)
        for socket in list(unsent):
            send(socket)
        told: dict[int, Step | Lost] = {}
        due = 0
        for places, answers in asked:
            some = self._answered([pairs[at] for at in places], answers())
            told.update(zip(places, some, strict=True))
            while due in told:
                yield told.pop(due)
                due += 1

    def _answered(
        self, pairs: Sequence[Played], answers: Sequence[Step | EpisodeLost]
    ) -> list[Step | Lost]:
        """The answers, those of lost episodes after they were taken up again."""
        told: list[Step | EpisodeLost | Lost] = [*answers]
        for _ in range(REPLAYS):
            lost = [i for i, one in enumerate(told) if isinstance(one, EpisodeLost)]
            if not lost:
                break
            self._take_up_again(pairs, told, lost)
        return [
            Lost(f"{one} (played again {REPLAYS} times, lost each time)")
            if isinstance(one, EpisodeLost)
            else one
            for one in told
        ]

    def close(self) -> None:
        self._connection.close()

    def _take_up_again(
        self,
        pairs: Sequence[Played],
        answers: list[Step | EpisodeLost | Lost],
        places: Sequence[int],
    ) -> None:
        """Replay the lost episodes, all at once, and take their step; the answers in their places."""
        failed = self._connection.replay_many([pairs[i][0] for i in places])
        again: list[int] = []
        for i, error in zip(places, failed, strict=True):
            if error is None:
                again.append(i)
            elif isinstance(error, EpisodeLost):  # lost on the way: worth another try
                answers[i] = error
            else:
                answers[i] = Lost(f"{answers[i]}; replay: {type(error).__name__}: {error}")
        for i, answer in zip(
            again, self._connection.step_many([pairs[i] for i in again]), strict=True
        ):
            answers[i] = answer


class MixedDoor:
    """Several families at once, each through a door of its own; a task says whose it is."""

    def __init__(self, doors: Mapping[str, Door]) -> None:
        """`doors`: the door of each task."""
        self._doors = dict(doors)
        self.seats = min(door.seats for door in self._doors.values())

    def family_of(self, task: str) -> Family:
        return self._doors[task].family_of(task)

    def begin(self, task: str, seed: int, split: Split) -> Episode:
        return self._doors[task].begin(task, seed, split)

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]:
        begun: dict[int, Episode | Lost] = {}
        for door, places in self._by_door([request.task for request in requests]):
            given = door.begin_many([requests[i] for i in places])
            begun.update(zip(places, given, strict=True))
        return [begun[i] for i in range(len(requests))]

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        taken: dict[int, Step | Lost] = {}
        for door, places in self._by_door([episode.task.name for episode, _ in moves]):
            taken.update(zip(places, door.step_many([moves[i] for i in places]), strict=True))
        return [taken[i] for i in range(len(moves))]

    def step_each(self, moves: Iterable[Move]) -> Iterator[Step | Lost]:
        yield from self.step_many(list(moves))

    def close(self) -> None:
        for door in {id(door): door for door in self._doors.values()}.values():
            door.close()

    def _by_door(self, tasks: Sequence[str]) -> Iterator[tuple[Door, list[int]]]:
        """Each door, with the places whose task is its."""
        places: dict[int, list[int]] = {}
        for i, task in enumerate(tasks):
            places.setdefault(id(self._doors[task]), []).append(i)
        for found in places.values():
            yield self._doors[tasks[found[0]]], found


class ClockedDoor:
    """Any door, with the seconds spent waiting at it: what the environment costs a rollout."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.seats = door.seats
        self.seconds = 0.0

    def family_of(self, task: str) -> Family:
        return self._door.family_of(task)

    def begin(self, task: str, seed: int, split: Split) -> Episode:
        return self._door.begin(task, seed, split)

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]:
        with self._running():
            return self._door.begin_many(requests)

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        with self._running():
            return self._door.step_many(moves)

    def step_each(self, moves: Iterable[Move]) -> Iterator[Step | Lost]:
        answers = self._door.step_each(self._off_the_clock(moves))
        while True:
            with self._running():
                step = next(answers, None)
            if step is None:
                return
            yield step

    def _off_the_clock(self, moves: Iterable[Move]) -> Iterator[Move]:
        """The moves; while they are made up nobody waits for the environment."""
        made = iter(moves)
        while True:
            began = perf_counter()
            move = next(made, None)
            self.seconds -= perf_counter() - began
            if move is None:
                return
            yield move

    def close(self) -> None:
        self._door.close()

    @contextmanager
    def _running(self) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - began
