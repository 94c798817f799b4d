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
from training.cohort import together
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
    """Play every episode to its end; those that have ended leave the forward pass at once.

    The episodes are used up: how they went is in the batch.
    """
    cohort = together(encoding, episodes)
    turns: list[_Turn] = []
    while len(cohort.live):
        live_L, features_LF, mask_LA = cohort.live, cohort.features(), cohort.mask()
        with torch.no_grad():
            logits, summary = policy(torch.from_numpy(features_LF))
            expected_L = torch.zeros(len(live_L)) if value is None else value(summary)
            actions_L = choose(masked(logits, torch.from_numpy(mask_LA)))
        rewards_L = cohort.step(actions_L.numpy())
        turns.append(_Turn(live_L, features_LF, mask_LA, actions_L, rewards_L, expected_L))
    return _batch(turns, cohort.scores(), gamma)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One step of every episode that still ran."""

    live_L: NDArray[np.int64]
    features_LF: NDArray[np.float32]
    mask_LA: NDArray[np.bool_]
    actions_L: Tensor
    rewards_L: NDArray[np.float64]
    expected_L: Tensor


def _batch(turns: Sequence[_Turn], scores_E: list[float], gamma: float) -> Batch:
    """The turns, turned into episodes."""
    rewards_TE = np.zeros((len(turns), len(scores_E)))
    for at, turn in enumerate(turns):
        rewards_TE[at, turn.live_L] = turn.rewards_L
    to_go_TE = to_go(rewards_TE, gamma)
    episode_N = np.concatenate([turn.live_L for turn in turns])
    order_N = np.argsort(episode_N, kind="stable")
    rows_N = torch.from_numpy(order_N)
    left_N = np.concatenate([to_go_TE[at, turn.live_L] for at, turn in enumerate(turns)])
    return Batch(
        features_NF=torch.from_numpy(np.concatenate([t.features_LF for t in turns])[order_N]),
        mask_NA=torch.from_numpy(np.concatenate([t.mask_LA for t in turns])[order_N]),
        actions_N=torch.cat([t.actions_L for t in turns])[rows_N],
        to_go_N=torch.from_numpy(left_N[order_N].astype(np.float32)),
        expected_N=torch.cat([t.expected_L for t in turns])[rows_N],
        steps_E=np.bincount(episode_N, minlength=len(scores_E)).tolist(),
        # one turn after the other: the sum an episode would make of its own rewards
        returns_E=sum(rewards_TE, start=np.zeros(len(scores_E))).tolist(),
        scores_E=scores_E,
    )


def to_go(rewards_TE: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """What each turn's rewards and all later ones are worth at that turn; 0 where an episode is over."""
    worth_TE = np.zeros_like(rewards_TE)
    later_E = np.zeros(rewards_TE.shape[1])
    for at in range(len(rewards_TE) - 1, -1, -1):
        worth_TE[at] = later_E = rewards_TE[at] + gamma * later_E
    return worth_TE


def mean_greedy_score(
    policy: Mlp | Places, encoding: Encoding, episodes: Sequence[Episode]
) -> float:
    """How the likeliest actions score on these patients."""
    scores = roll(policy, encoding, episodes, greedy).scores_E
    return sum(scores) / len(scores)
