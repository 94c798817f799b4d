"""How a player reaches the environment: in this process, or over the server's socket.

One protocol for both. Knows nothing of who plays; an episode that the server loses comes back as
`Lost`, a named outcome, so that a broken machine is never mistaken for a bad decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from env_server import registry
from env_server.contract import Action, Episode, Family, Refusal, Split, Step

Move: TypeAlias = "tuple[Episode, Action | Refusal]"


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
    """Opens episodes of one family and plays many of them a step further at once."""

    family: Family

    def begin(self, task: str, seed: int, split: Split) -> Episode:
        """One episode, or the exception that says why not."""
        ...

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]: ...

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]: ...

    def close(self) -> None: ...


class LocalDoor:
    """The environment in this process: nothing can be lost, and an exception is a defect."""

    def __init__(self, family: Family | str) -> None:
        self.family = registry.get(family) if isinstance(family, str) else family

    def begin(self, task: str, seed: int, split: Split) -> Episode:
        return self.family.begin(task, seed, split)

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]:
        return [self.family.begin(r.task, r.seed, r.split) for r in requests]

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        return [episode.step(decision) for episode, decision in moves]

    def close(self) -> None:
        return None
