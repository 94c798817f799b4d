"""Many episodes at once against one small network: one forward pass a step over those still running.

Knows encodings and rewards; nothing of how a policy learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from env_server.contract import Encoding, Episode, Family, Split
from eval.policy_net import Mlp, Places, masked
from training.value_net import Value

Choose = Callable[[Tensor], Tensor]  # masked logits (B, A) -> chosen indices (B,)


@dataclass(frozen=True, slots=True)
class Batch:
    """The steps of some episodes, episode by episode and in order. N steps, E episodes."""

    features_NF: Tensor
    mask_NA: Tensor
    actions_N: Tensor
    to_go_N: Tensor  # discounted reward from this step on
    expected_N: Tensor  # what the baseline thought it would be; zeros where there was none
    steps_E: list[int]
    returns_E: list[float]  # undiscounted
    scores_E: list[float]

    @property
    def steps(self) -> int:
        return len(self.actions_N)


class Patients:
    """Start positions by seed, drawn once where they are played again and again."""

    def __init__(self, family: Family, task: str, split: Split) -> None:
        self._family, self._task, self._split = family, task, split
        self._kept: list[Episode] = []

    def batch(self, first: int, patients: int, attempts: int) -> list[Episode]:
        """`attempts` fresh episodes of each of `patients` patients from seed `first` on."""
        drawn = [self._family.begin(self._task, first + i, self._split) for i in range(patients)]
        return [start if not k else start.copy() for start in drawn for k in range(attempts)]

    def again(self, patients: int) -> list[Episode]:
        """The patients from seed 0 on, as they were before anybody played them."""
        if len(self._kept) != patients:
            self._kept = self.batch(0, patients, 1)
        return [episode.copy() for episode in self._kept]


def sample(generator: torch.Generator) -> Choose:
    """Draws from the policy: one number a row, looked up in the sums of its probabilities."""

    def choose(logits_BA: Tensor) -> Tensor:
        sums_BA = torch.softmax(logits_BA, 1).cumsum(1)
        # in (0, 1]: never before the first possible action, never beyond the last
        drawn_B1 = 1 - torch.rand(len(sums_BA), 1, generator=generator)
        return torch.searchsorted(sums_BA, drawn_B1 * sums_BA[:, -1:])[:, 0]

    return choose


def greedy(logits_BA: Tensor) -> Tensor:
    """The likeliest action."""
    return logits_BA.argmax(1)


def roll(
    policy: Mlp | Places,
    encoding: Encoding,
    episodes: Sequence[Episode],
    choose: Choose,
    gamma: float = 1.0,
    value: Value | None = None,
) -> Batch:
    """Play every episode to its end; those that have ended leave the forward pass at once."""
    expected: list[list[float]] = [[] for _ in episodes]
    seen: list[list[NDArray[np.float32]]] = [[] for _ in episodes]
    masks: list[list[NDArray[np.bool_]]] = [[] for _ in episodes]
    actions: list[list[int]] = [[] for _ in episodes]
    rewards: list[list[float]] = [[] for _ in episodes]
    live = list(range(len(episodes)))
    looks = [episode.observe() for episode in episodes]
    while live:
        features = [encoding.features(looks[i]) for i in live]
        open_ = [encoding.mask(looks[i]) for i in live]
        with torch.no_grad():
            logits, summary = policy(torch.from_numpy(np.stack(features)))
            thought = [0.0] * len(live) if value is None else value(summary).tolist()
            chosen = choose(masked(logits, torch.from_numpy(np.stack(open_)))).tolist()
        still = []
        for i, row, mask, index, worth in zip(live, features, open_, chosen, thought, strict=True):
            step = episodes[i].step(encoding.action(looks[i], index))
            seen[i].append(row)
            masks[i].append(mask)
            actions[i].append(index)
            rewards[i].append(step.reward)
            expected[i].append(worth)
            looks[i] = step.observation
            if not step.done:
                still.append(i)
        live = still
    return Batch(
        features_NF=torch.from_numpy(np.stack([row for rows in seen for row in rows])),
        mask_NA=torch.from_numpy(np.stack([row for rows in masks for row in rows])),
        actions_N=torch.tensor([index for indices in actions for index in indices]),
        to_go_N=torch.tensor([left for own in rewards for left in to_go(own, gamma)]),
        expected_N=torch.tensor([worth for own in expected for worth in own]),
        steps_E=[len(own) for own in rewards],
        returns_E=[sum(own) for own in rewards],
        scores_E=[episode.score() for episode in episodes],
    )


def to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    """What each step's reward and all later ones are worth at that step."""
    worth = 0.0
    found = []
    for reward in reversed(rewards):
        worth = reward + gamma * worth
        found.append(worth)
    return found[::-1]


def mean_greedy_score(
    policy: Mlp | Places, encoding: Encoding, episodes: Sequence[Episode]
) -> float:
    """How the likeliest actions score on these patients."""
    scores = roll(policy, encoding, episodes, greedy).scores_E
    return sum(scores) / len(scores)
