"""The four tiers of target validation: what may be spent, how good the data are, where cases lie.

A task is a tier, or a tier and a rubric: `target_medium:seed` is the same cases graded another way, so a
task's name is all that it takes to play it again. Knows what makes a tier hard, not how a case is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Final, Literal

from data.drug_target.records import Quality
from env_server.contract import Difficulty, Task
from env_server.envs.drug_target.rubrics import RUBRICS, Rubric

FAMILY: Final = "drug_target"
MAX_STEPS: Final = 18
Tier = Literal["easy", "medium", "hard", "very_hard"]

SPLITS: Final = (
    "train",
    "validation",
    "test",
    "test_targets",  # genes that training never shows
    "test_indications",  # cancers that training never shows
    "curated",  # five cases made by hand
    "anon",  # names replaced
    "swap",  # true names, profiles that have nothing to do with them
    "shift",  # poorer data, other budgets, other costs, the natural base rate
)
HELD_OUT_INDICATIONS: Final = frozenset({"gbm", "pdac"})


@dataclass(frozen=True, slots=True)
class Validation:
    """What makes one tier different from another."""

    task: Task
    tier: Tier
    credits: int
    quality: Mapping[Quality, float]  # how often the data are of each quality


def _tier(
    tier: Tier, credits: int, quality: dict[Quality, float], summary: str, difficulty: Difficulty
) -> Validation:
    # beyond the easy tier a checklist does about as well as saying nothing: that is what makes it hard,
    # so canaries are measured from the reference there. Margins are in score; 0.1 is 0.47 of skill
    easy = tier == "easy"
    task = Task(
        f"target_{tier}",
        FAMILY,
        difficulty,
        MAX_STEPS,
        summary,
        splits=SPLITS,
        margin=0.05 if easy else 0.1,
        yardstick="heuristic" if easy else "reference",
    )
    return Validation(task, tier, credits, MappingProxyType(quality))


VALIDATIONS: Final[Mapping[str, Validation]] = MappingProxyType(
    {
        v.task.name: v
        for v in (
            _tier(
                "easy",
                40,
                {"clean": 0.6, "typical": 0.4, "poor": 0.0, "hyped": 0.0},
                "A target that is clearly worth it or clearly not; 40 credits, good data.",
                "easy",
            ),
            _tier(
                "medium",
                32,
                {"clean": 0.2, "typical": 0.6, "poor": 0.1, "hyped": 0.1},
                "A target near the line; 32 credits, mostly typical data.",
                "medium",
            ),
            _tier(
                "hard",
                28,
                {"clean": 0.05, "typical": 0.35, "poor": 0.3, "hyped": 0.3},
                "A target that is not what it looks like at first; 28 credits, often hyped data.",
                "hard",
            ),
            _tier(
                "very_hard",
                26,
                {"clean": 0.0, "typical": 0.3, "poor": 0.6, "hyped": 0.1},
                "Good biology behind a difficult pocket: a hidden site decides; 26 credits.",
                "very_hard",
            ),
        )
    }
)
TIERS: Final = tuple(v.tier for v in VALIDATIONS.values())


DEFAULT_RUBRIC: Final[Rubric] = RUBRICS[0]


class Tasks(Mapping[str, Task]):
    """The tiers by name; `tier:rubric` is understood as well, and not listed."""

    def __getitem__(self, name: str) -> Task:
        tier, rubric = parted(name)
        return graded(tier, rubric)

    def __iter__(self) -> Iterator[str]:
        return iter(VALIDATIONS)

    def __len__(self) -> int:
        return len(VALIDATIONS)


def parted(name: str) -> tuple[str, Rubric]:
    """(tier's task, rubric) of a task's name. Raises KeyError where either is unknown."""
    tier, _, wanted = name.partition(":")
    for rubric in RUBRICS:
        if tier in VALIDATIONS and (
            wanted == rubric or (wanted == "" and rubric == DEFAULT_RUBRIC)
        ):
            return tier, rubric
    raise KeyError(name)


@cache
def graded(tier: str, rubric: Rubric) -> Task:
    """The task of a tier under a rubric; the default rubric is not spelled."""
    task = VALIDATIONS[tier].task
    if rubric == DEFAULT_RUBRIC:
        return task
    return replace(task, name=f"{tier}:{rubric}", seed=rubric.startswith("seed"))


TASKS: Final[Mapping[str, Task]] = Tasks()
