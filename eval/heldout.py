"""Which patients a model has learned from, so that it is never measured on one of them.

Knows ranges of seeds and where training writes them down; nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from env_server.contract import JsonObject, RoundsError

# a model lies in its run's folder or one or two below it: runs/sft/model, runs/grpo/checkpoints/40
WRITTEN_IN = ("rounds.json", "seeds.json")
LEVELS_UP = 2


class TrainedOnTest(RoundsError, ValueError):
    """A model would be measured on patients it was trained on."""


class UnreadableSeeds(RoundsError, ValueError):
    """A file that should say which patients were trained on does not."""


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients of one task and split with seeds in [seed_from, seed_to)."""

    family: str
    task: str
    split: str
    seed_from: int
    seed_to: int

    def overlap(self, other: Patients) -> range:
        """The seeds in both; empty where family, task or split differ."""
        if (self.family, self.task, self.split) != (other.family, other.task, other.split):
            return range(0)
        return range(max(self.seed_from, other.seed_from), min(self.seed_to, other.seed_to))

    def to_json(self) -> JsonObject:
        return asdict(self)


def refuse_overlap(agent: str, learned: Iterable[Patients], asked: Iterable[Patients]) -> None:
    """Raise TrainedOnTest where an asked patient is among those learned from."""
    wanted = list(asked)
    for seen in learned:
        for patients in wanted:
            if shared := seen.overlap(patients):
                raise TrainedOnTest(
                    f"{agent} was trained on {seen.family} {seen.task}, split {seen.split}, seeds"
                    f" {seen.seed_from} to {seen.seed_to - 1}; {len(shared)} of the patients asked for"
                    f" (seeds {shared[0]} to {shared[-1]}) are among them. Choose another --split,"
                    f" or --seed0 {seen.seed_to}"
                )


def trained_on(folder: Path) -> tuple[Patients, ...]:
    """What the files in and just above a model's folder say it was trained on; often nothing."""
    found: dict[Patients, None] = {}
    for place in (folder, *folder.resolve().parents[:LEVELS_UP]):
        for name in WRITTEN_IN:
            if (place / name).is_file():
                found |= dict.fromkeys(_read(place / name))
    return tuple(found)


def _read(path: Path) -> Sequence[Patients]:
    try:
        body = json.loads(path.read_text("utf-8"))
        ranges = body.get("trained_on", []) if isinstance(body, Mapping) else body
        return [_patients(entry) for entry in ranges]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as wrong:
        raise UnreadableSeeds(
            f"{path}: {wrong!r}; expected trained_on: a list of"
            " {family, task, split, seed_from, seed_to}"
        ) from wrong


def _patients(entry: Mapping[str, Any]) -> Patients:
    seeds = int(entry["seed_from"]), int(entry["seed_to"])
    return Patients(str(entry["family"]), str(entry["task"]), str(entry["split"]), *seeds)
