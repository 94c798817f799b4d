"""Where episodes are played: in this process, or wherever another engine takes them.

An engine turns (family, task, split, agent, seeds) into the same trajectories that the agent would
leave here, in any order. Knows that seam; nothing of workers, models or tables of results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from env_server.contract import Family, RoundsError, Split, Task
from eval.heldout import Patients
from eval.roster import Options, Player
from eval.trajectory import Trajectory

NAMES = ("local", "ray")


class NoEngine(RoundsError, RuntimeError):
    """The engine asked for cannot run here."""


class Unplayed(RoundsError, RuntimeError):
    """An engine came to an end without an episode of every patient."""


class Engine(Protocol):
    """Plays episodes elsewhere. `agent` is a spec as `roster.find` reads it, so that it can travel."""

    def __call__(
        self, family: str, task: str, split: Split, agent: str, seeds: Sequence[int]
    ) -> Iterator[Trajectory]: ...


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A player whose episodes another engine plays; all else it says is its own."""

    player: Player
    spec: str
    engine: Engine

    @property
    def name(self) -> str:
        return self.player.name

    @property
    def role(self) -> str:
        return self.player.role

    @property
    def trained_on(self) -> Sequence[Patients]:
        return self.player.trained_on

    def identity(self) -> str:
        return self.player.identity()

    def plays(self, task: Task) -> bool:
        return self.player.plays(task)

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        return self.engine(family.name, task, split, self.spec, seeds)


def engine(name: str, options: Options, tables: str | None, workers: int | None) -> Engine | None:
    """The engine called `name`; None for `local`, where every player plays by itself.

    tables: the folder of a hospital's own tables, for workers to load. workers: None takes a core
    each. Raises NoEngine with what is missing.
    """
    if name == "local":
        return None
    if name not in NAMES:
        raise NoEngine(f"there is no engine {name!r}; engines: {', '.join(NAMES)}")
    if find_spec(name) is None:
        raise NoEngine(f"--engine {name} needs the package {name}: pip install -e '.[{name}]'")
    played_by = import_module(f"eval.engine_{name}")
    return partial(played_by.play, options=options, tables=tables, workers=workers)


def seated(player: Player, spec: str | Player, at: Engine | None) -> Player:
    """`player`, playing through the engine if there is one and its spec can travel."""
    if at is None:
        return player
    if not isinstance(spec, str):
        raise NoEngine(f"{player.name} was given as an object; only an agent's spec can travel")
    return Elsewhere(player, spec, at)
