"""What a check of an environment says: what was measured, what was asked, and whether it holds.

Knows the names of the checks and the order they are reported in; nothing of how they measure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

from env_server.contract import JsonObject

Status = Literal["pass", "fail", "expected", "not_applicable"]

NAMES: Final = (
    "oracle_max",
    "floor_gap",
    "canary_floor",
    "no_solution_leakage",
    "seed_control",
    "episode_determinism",
    "episode_isolation",
    "replayability",
    "reward_reachability",
    "headroom",
    "difficulty_separation",
    "variance_bound",
    "gameability_gap",
)
# a grader kept exact from its source document is known to be gameable: this is said, and fails nothing
KNOWN_OF_SEED_TASKS: Final = ("canary_floor", "gameability_gap")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check on one task. measured: the number that `threshold` is about, where there is one."""

    check: str
    task: str
    status: Status
    measured: float | None
    threshold: str
    said: str

    def to_json(self) -> JsonObject:
        return asdict(self)


def judged(
    check: str, task: str, holds: bool, measured: float | None, threshold: str, said: str
) -> Finding:
    """A finding that passes or fails."""
    return Finding(check, task, "pass" if holds else "fail", measured, threshold, said)


def not_applicable(check: str, task: str, why: str) -> Finding:
    return Finding(check, task, "not_applicable", None, "", why)
