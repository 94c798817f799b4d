"""One seed, many independent random streams, and which split a case belongs to.

Knows nothing of what is drawn. Streams use `random.Random.random()` alone: the one generator
whose sequence Python promises never to change, so a patient is the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from math import cos, log, pi, sqrt
from typing import TypeVar

from env_server.contract import BadSplit, Split

T = TypeVar("T")

# quarters of the hash space; test_unseen_pairs shares test's quarters, its patients differ by their pairs
_OWNED: dict[str, frozenset[int]] = {
    "train": frozenset({0, 1}),
    "validation": frozenset({2}),
    "test": frozenset({3}),
    "test_unseen_pairs": frozenset({3}),
}


def digest(*parts: object) -> int:
    """A 64-bit number that depends on every part and on their order."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


class Stream:
    """Draws from one named stream. Equal names give equal draws; other names are independent."""

    __slots__ = ("_next",)

    def __init__(self, *name: object) -> None:
        self._next = random.Random(digest(*name)).random

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self._next()

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        return int(self._next() * n)

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high], both included."""
        return low + int(self._next() * (high - low + 1))

    def chance(self, p: float) -> bool:
        return self._next() < p

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self._next() * len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of `items`, with probability in proportion to `weights` (not all zero)."""
        left = self._next() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A new list of the same items in random order (Fisher-Yates)."""
        mixed = list(items)
        for i in range(len(mixed) - 1, 0, -1):
            j = int(self._next() * (i + 1))
            mixed[i], mixed[j] = mixed[j], mixed[i]
        return mixed

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """`k` different items, or all of them where there are fewer."""
        return self.shuffled(items)[:k]

    def normal(self, mean: float = 0.0, sd: float = 1.0) -> float:
        radius = sqrt(-2.0 * log(1.0 - self._next()))
        return mean + sd * radius * cos(2 * pi * self._next())


def belongs(split: Split, *fingerprint: object) -> bool:
    """Whether the case with this fingerprint belongs to `split`.

    Every case has exactly one owner among train (1/2), validation (1/4) and test (1/4), whatever
    seed drew it: a generator redraws until the case is its own, so splits are disjoint by construction.
    """
    try:
        return digest("split", *fingerprint) % 4 in _OWNED[split]
    except KeyError:
        raise BadSplit(f"no split {split!r}; splits: {', '.join(_OWNED)}") from None
