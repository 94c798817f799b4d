"""Episodes that advance together, as a policy sees them: arrays of features and masks, an action each.

A family whose encoding has `together(episodes)` plays them as arrays of its own; any other is played
one by one behind the same face. Knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from env_server.contract import Encoding, Episode, Observation


class Cohort(Protocol):
    """E episodes, of which L still run; `live` names those, ascending. It is played once."""

    live: NDArray[np.int64]

    def features(self) -> NDArray[np.float32]:
        """(L, size), a row a running episode; the caller's to keep, as the mask is."""
        ...

    def mask(self) -> NDArray[np.bool_]:
        """(L, n_actions)."""
        ...

    def step(self, actions_L: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rewards (L,) of an action each; whoever ends is no longer live."""
        ...

    def scores(self) -> list[float]:
        """The grader's of all E, once nobody is live."""
        ...


class OneByOne:
    """A cohort of any family's episodes, each asked and told by itself."""

    def __init__(self, encoding: Encoding, episodes: Sequence[Episode]) -> None:
        self._encoding, self._episodes = encoding, episodes
        self._looks: list[Observation] = [episode.observe() for episode in episodes]
        self.live = np.arange(len(episodes))

    def features(self) -> NDArray[np.float32]:
        return np.stack([self._encoding.features(look) for look in self._seen()])

    def mask(self) -> NDArray[np.bool_]:
        return np.stack([self._encoding.mask(look) for look in self._seen()])

    def _seen(self) -> list[Any]:
        return [self._looks[at] for at in self.live.tolist()]

    def step(self, actions_L: NDArray[np.int64]) -> NDArray[np.float64]:
        rewards, running = [], []
        for at, index in zip(self.live.tolist(), actions_L.tolist(), strict=True):
            step = self._episodes[at].step(self._encoding.action(self._looks[at], index))
            self._looks[at] = step.observation
            rewards.append(step.reward)
            running.append(not step.done)
        self.live = self.live[running]
        return np.array(rewards, dtype=np.float64)

    def scores(self) -> list[float]:
        return [episode.score() for episode in self._episodes]


def together(encoding: Encoding, episodes: Sequence[Episode]) -> Cohort:
    """These episodes as one. They are used up: afterwards the cohort alone knows how they went."""
    offered = getattr(encoding, "together", None)
    found: Cohort | None = offered(episodes) if offered else None
    return OneByOne(encoding, episodes) if found is None else found
