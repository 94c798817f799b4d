"""The six reviews: how long the list is, what may be spent, and which rules grade it.

Sizes and budgets of the seed tasks are the source document's; the review tasks share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from env_server.contract import Task

FAMILY = "polypharmacy"
ReviewKind = Literal["seed", "review"]


@dataclass(frozen=True, slots=True)
class ReviewTask:
    """What makes one task of this family different from another."""

    task: Task
    kind: ReviewKind
    drugs: tuple[int, int]  # smallest and largest regimen
    query_budget: int
    intervention_budget: int
    formulary: Literal["core", "common", "full"]


def _size(
    difficulty: Literal["easy", "medium", "hard"],
) -> tuple[tuple[int, int], int, int, int]:
    """(drugs, queries, interventions, max_steps) by difficulty."""
    return {
        "easy": ((3, 5), 4, 2, 10),
        "medium": ((6, 10), 8, 3, 20),
        "hard": ((10, 15), 12, 5, 30),
    }[difficulty]


def _seed(name: str, difficulty: Literal["easy", "medium", "hard"], summary: str) -> ReviewTask:
    drugs, queries, interventions, max_steps = _size(difficulty)
    task = Task(name, FAMILY, difficulty, max_steps, summary, seed=True)
    return ReviewTask(task, "seed", drugs, queries, interventions, "full")


def _review(
    name: str,
    difficulty: Literal["easy", "medium", "hard"],
    formulary: Literal["core", "common", "full"],
    summary: str,
) -> ReviewTask:
    drugs, queries, interventions, max_steps = _size(difficulty)
    splits = ("train", "validation", "test", "test_unseen_pairs")
    task = Task(name, FAMILY, difficulty, max_steps, summary, splits=splits)
    return ReviewTask(task, "review", drugs, queries, interventions, formulary)


REVIEWS: dict[str, ReviewTask] = {
    r.task.name: r
    for r in (
        _seed(
            "easy_screening",
            "easy",
            "Find and defuse the one severe pair in a short list (seed grader, kept exact).",
        ),
        _seed(
            "budgeted_screening",
            "medium",
            "Several interactions and Beers issues under budgets (seed grader, kept exact).",
        ),
        _seed(
            "complex_tradeoff",
            "hard",
            "A long list with critical drugs: less risk, little disruption (seed grader, kept exact).",
        ),
        _review(
            "review_easy",
            "easy",
            "core",
            "Review 3-5 common drugs: harm against untreated need, graded against the exact optimum.",
        ),
        _review(
            "review_budgeted",
            "medium",
            "common",
            "Review 6-10 drugs with 8 queries and 3 changes, graded against the exact optimum.",
        ),
        _review(
            "review_complex",
            "hard",
            "full",
            "Review 10-15 drugs of the whole formulary with 12 queries and 5 changes.",
        ),
    )
}
