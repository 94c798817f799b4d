"""Differential evolution over rows of zeros and ones: best/1/bin, as the paper searches for its next row.

Knows a function to maximise and a first population; nothing of drugs or networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eval.neural_ts import Floats


@dataclass(frozen=True, slots=True)
class Evolution:
    """The paper's settings."""

    population: int = 32
    steps: int = 16
    differential: float = 1.0  # F: how much of the difference of two members is added to the best
    crossover: float = 0.9  # CR: share of the places that come from the mutant

    def __post_init__(self) -> None:
        if self.population < 3:
            raise ValueError(
                f"population is {self.population}; best/1/bin needs at least 3 members"
            )


def differential_evolution(
    worth: Callable[[Floats], Floats],
    population: Floats,
    knobs: Evolution,
    rng: np.random.Generator,
) -> tuple[Floats, float]:
    """(best member, its worth) after `steps` generations; members are rows of 0 and 1.

    A trial is the best member plus F times the difference of two others, clipped to [0, 1] and rounded,
    mixed place by place with its parent; it replaces the parent where it is worth as much.
    """
    members = population.copy()
    n, places = members.shape
    value = worth(members)
    for _ in range(knobs.steps):
        leader = members[int(value.argmax())]
        first, second = _two_others(n, rng)
        mutant = leader + knobs.differential * (members[first] - members[second])
        mutant = np.clip(mutant, 0, 1).round()
        take = rng.random((n, places)) < knobs.crossover
        take[np.arange(n), rng.integers(places, size=n)] = True  # one place always comes across
        trial = np.where(take, mutant, members).astype(members.dtype)
        found = worth(trial)
        better = found >= value
        members[better], value[better] = trial[better], found[better]
    at = int(value.argmax())
    return members[at], float(value[at])


def _two_others(n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """For every member two different ones that are not itself."""
    first = (np.arange(n) + rng.integers(1, n, size=n)) % n
    second = (np.arange(n) + rng.integers(1, n - 1, size=n)) % n
    low = np.minimum((first - np.arange(n)) % n, n)
    skip = (second - np.arange(n)) % n >= low
    return first, (second + skip) % n
