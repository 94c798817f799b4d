"""Who can play: an agent of the family by its name, or a kind of player with something to load.

`name`, `kind:argument`, and `label=either` to call it something else in the table. Kinds are the
modules of `eval/agents`, found by being there: each has `USAGE`, `player(argument, label, options)`
and, where the argument may be left out, `DEFAULT`. A kind with `IN_TABLE` (its rank) has rows in the
default table of the families in `FAMILIES` (None or absent: all).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol

from env_server.contract import AgentCard, Family, RoundsError, Split, Task, UnknownAgent, nearest
from eval import agents
from eval.episode import play
from eval.heldout import Patients
from eval.trajectory import Trajectory


class NotReady(RoundsError):
    """The agent is known, but what it plays with is not there yet; says how to make it."""


class SameName(RoundsError, ValueError):
    """Two agents of one table would have the same name."""


class BadOption(RoundsError, ValueError):
    """A knob of how models play has a value it cannot have."""


@dataclass(frozen=True, slots=True)
class Options:
    """How models play where the spec leaves it open.

    temperature: 0 always takes the likeliest token. batch: episodes that advance together.
    max_new_tokens: the cap of one answer; None takes what the model's folder says, else 64.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    batch: int = 64
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, fine, wanted in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("max_new_tokens", (self.max_new_tokens or 1) >= 1, "at least 1"),
        ):
            if not fine:
                raise BadOption(f"{name} = {getattr(self, name)}: it is {wanted}")


class Player(Protocol):
    """Plays whole episodes of a family. `role` is a card's role, or `model`."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...

    @property
    def trained_on(self) -> Sequence[Patients]: ...

    def identity(self) -> str:
        """What must not change between two halves of one run: a version or a fingerprint."""
        ...

    def plays(self, task: Task) -> bool: ...

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        """One trajectory a seed, each as soon as it is finished. May raise NotReady at once."""
        ...


@dataclass(frozen=True, slots=True)
class CardPlayer:
    """An agent that the family ships, in process."""

    card: AgentCard
    name: str

    @property
    def role(self) -> str:
        return self.card.role

    @property
    def trained_on(self) -> Sequence[Patients]:
        return ()

    def identity(self) -> str:
        return "shipped"

    def plays(self, task: Task) -> bool:
        return not self.card.tasks or task.name in self.card.tasks

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        for seed in seeds:
            yield replace(play(family, task, seed, split, self.card), agent=self.name)


def find(spec: str, family: Family, options: Options | None = None) -> Player:
    """The player that `spec` names. Raises UnknownAgent, or NotReady with how to make it."""
    label, wanted = label_of(spec)
    name, _, argument = wanted.partition(":")
    if not argument and name in family.agents:
        return CardPlayer(family.agents[name], label)
    if name not in kinds():
        known = (*family.agents, *(kinds()[kind].USAGE for kind in kinds()))
        near = nearest(name, (*family.agents, *kinds()))
        raise UnknownAgent(f"{family.name} has no agent {name!r}; known: {', '.join(known)}{near}")
    argument = argument or getattr(kinds()[name], "DEFAULT", "")
    if not argument:
        raise UnknownAgent(f"agent {name!r} needs an argument: {kinds()[name].USAGE}")
    player: Player = kinds()[name].player(argument, label, options or Options())
    return player


def label_of(spec: str) -> tuple[str, str]:
    """(what the table calls it, what it is): `sft=local:runs/sft` is called sft."""
    label, equals, rest = spec.partition("=")
    return (label, rest) if equals and ":" not in label else (spec, spec)


@lru_cache(maxsize=1)
def kinds() -> dict[str, Any]:
    """Every kind of player that takes an argument, by name."""
    found = (m.name for m in pkgutil.iter_modules(agents.__path__))
    return {name: import_module(f"{agents.__name__}.{name}") for name in found}


def learned(family: Family) -> list[str]:
    """What training makes for this family, by rank, whether it is made yet or not."""
    ranked = sorted(
        (module.IN_TABLE, kind) for kind, module in kinds().items() if hasattr(module, "IN_TABLE")
    )
    rows: list[str] = []
    for _, kind in ranked:
        families = getattr(kinds()[kind], "FAMILIES", None)
        if families is None or family.name in families:
            rows.append(kind)
    return rows


def default(family: Family, task: Task, canaries: bool = False, shipped: bool = False) -> list[str]:
    """Random, a canary (all of them if asked), every heuristic, what was learned, the reference.

    The canary is blind_stop where the family has it, else its first. shipped: nothing learned.
    """
    cards = [c for c in family.agents.values() if not c.tasks or task.name in c.tasks]
    named: dict[str, list[str]] = {}
    for card in cards:
        named.setdefault(card.role, []).append(card.name)
    shown = named.get("canary", [])
    if not canaries and shown:
        shown = ["blind_stop"] if "blind_stop" in shown else shown[:1]
    return [
        *named.get("random", []),
        *shown,
        *named.get("heuristic", []),
        *([] if shipped else learned(family)),
        *named.get("reference", []),
    ]


def place(family: Family, name: str) -> int:
    """Where a default agent stands in the table: who learned, between heuristics and references."""
    order = "random", "canary", "heuristic", "learned", "reference"
    return order.index(family.agents[name].role if name in family.agents else "learned")


def canaries(family: Family, task: Task) -> list[str]:
    """Every degenerate policy of the family that plays the task."""
    cards = family.agents.values()
    return [c.name for c in cards if c.role == "canary" and (not c.tasks or task.name in c.tasks)]


def reference(family: Family, task: Task) -> AgentCard | None:
    """The family's best reference for this task: an exact one before any other."""
    cards = [
        c
        for c in family.agents.values()
        if c.role == "reference" and (not c.tasks or task.name in c.tasks)
    ]
    return max(cards, key=lambda c: len(c.exact_on), default=None)
