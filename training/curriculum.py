"""Which patients come next: those whose groups still differ in what they were paid.

A group of attempts that all pay the same teaches nothing. The curriculum watches how often that
happens on every task, and draws the next patients so that at least `target` of the groups teach.
Knows tasks by name and shares of groups; nothing of what a task is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from env_server.contract import JsonObject
from env_server.seeds import Stream
from eval.door import Request

TARGET = 0.8
FLOOR = (
    0.05  # of the likeliest task's weight: what is hopeless or mastered today is still looked at
)
MEMORY = 0.9  # of what was seen, after each batch: policies change
PRIOR = 2.0  # groups' worth of believing that a task teaches, before it was seen
_STEEP, _STEEPEST = 1.25, 16.0


@dataclass(frozen=True, slots=True)
class Group:
    """All attempts at one patient: what they were paid, and the share that was solved."""

    task: str
    teaches: bool  # whether the attempts differ in reward
    solved: float  # mean score, in [0, 1]


@dataclass(slots=True)
class Seen:
    """What is remembered of a task: groups (fading), those that taught, and their solve rate."""

    groups: float = 0.0
    taught: float = 0.0
    solved: float = 0.0

    def add(self, told: Sequence[Group]) -> None:
        self.groups = MEMORY * self.groups + len(told)
        self.taught = MEMORY * self.taught + sum(group.teaches for group in told)
        self.solved = MEMORY * self.solved + sum(group.solved for group in told)

    @property
    def chance(self) -> float:
        """How likely the next group is to teach, in (0, 1]."""
        return (self.taught + PRIOR) / (self.groups + PRIOR)

    @property
    def rate(self) -> float:
        return self.solved / self.groups if self.groups else 0.0


@dataclass(slots=True)
class Curriculum:
    """Draws a (task, seed) for every slot of a run. Same state, same slot, same patient.

    steep: how strongly tasks that teach are preferred; grows while fewer than `target` of the groups
    teach, and falls back to 1 while more do. Slots are numbered over the whole run, and give each
    patient once.
    """

    tasks: tuple[str, ...]
    seed: int = 0
    seed_from: int = 0
    target: float = TARGET
    steep: float = 1.0
    seen: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen = {task: self.seen.get(task, Seen()) for task in self.tasks}

    def weights(self) -> dict[str, float]:
        """The chance of each task to be drawn; sums to 1, none below FLOOR of the likeliest."""
        raw = {task: self.seen[task].chance ** self.steep for task in self.tasks}
        best = max(raw.values())
        raised = {task: max(weight / best, FLOOR) for task, weight in raw.items()}
        return {task: weight / sum(raised.values()) for task, weight in raised.items()}

    def request(self, slot: int) -> Request:
        """The patient of this slot, on a train seed that no other slot has."""
        weights = self.weights()
        stream = Stream("curriculum", self.seed, slot)
        task = stream.weighted(self.tasks, [weights[task] for task in self.tasks])
        return Request(task, self.seed_from + slot, "train")

    def learn(self, groups: Sequence[Group]) -> None:
        """Take note of a batch, and press harder or less hard. Order does not matter."""
        for task in self.tasks:
            self.seen[task].add([group for group in groups if group.task == task])
        if groups:
            share = sum(group.teaches for group in groups) / len(groups)
            steeper = share < self.target
            steep = self.steep * _STEEP if steeper else self.steep / _STEEP
            self.steep = min(max(steep, 1.0), _STEEPEST)

    def figures(self) -> dict[str, float]:
        """What a metrics line says: each task's share of the draws and its solve rate."""
        weights = self.weights()
        told = {"curriculum/steep": self.steep}
        for task in self.tasks:
            told[f"curriculum/{task}/share"] = weights[task]
            told[f"curriculum/{task}/teaches"] = self.seen[task].chance
            told[f"curriculum/{task}/solved"] = self.seen[task].rate
        return told

    def state(self) -> JsonObject:
        """What a checkpoint keeps."""
        return {"steep": self.steep, "seen": {t: asdict(seen) for t, seen in self.seen.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave. Raises KeyError where it is of other tasks."""
        self.seen = {task: Seen(**state["seen"][task]) for task in self.tasks}
        self.steep = float(state["steep"])


def groups_of(attempts: Iterable[tuple[str, int, float, float]]) -> list[Group]:
    """Attempts (task, seed, reward, score), in any order, as the groups they belong to."""
    paid: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for task, seed, reward, score in attempts:
        paid.setdefault((task, seed), []).append((reward, score))
    return [
        Group(
            task,
            len({round(reward, 6) for reward, _ in together}) > 1,
            sum(score for _, score in together) / len(together),
        )
        for (task, _), together in sorted(paid.items())
    ]


class KeepsCurriculum(TrainerCallback, ExportableState):
    """Puts the curriculum into every checkpoint: a resumed run draws what it would have drawn."""

    def __init__(self, curriculum: Curriculum) -> None:
        self.curriculum = curriculum

    def state(self) -> JsonObject:
        return {"args": {}, "attributes": self.curriculum.state()}

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's `trainer_state.json`."""
        told = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        self.curriculum.restore(told["stateful_callbacks"][type(self).__name__]["attributes"])
