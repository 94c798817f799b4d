"""Stable-Baselines3's view of the network that shares weights between places: an actor, and a critic of its own.

What the critic learns never moves the actor, so that a policy taught by imitation keeps what it was taught
while its critic is still ignorant. Knows nothing of runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor, nn

from env_server import registry
from eval.policy_net import Shape, build
from training.value_net import Value


class PlacesPolicy(MaskableActorCriticPolicy):
    """MaskablePPO's policy over one network for the actions and another, of the same kind, for the value.

    shape: names family, task and encoding, from which a checkpoint finds its encoding again.
    """

    def __init__(self, *spaces_and_rate: Any, shape: Shape, **settings: Any) -> None:
        self.shape = shape
        super().__init__(*spaces_and_rate, **{**settings, "net_arch": []})

    def _build(self, lr_schedule: Any) -> None:
        encoding = registry.get(self.shape.family).encoding(self.shape.task, self.shape.encoding)
        self.actor = build(self.shape, encoding)
        self.critic = Critic(build(self.shape, encoding), self.shape.hidden)
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def forward(
        self,
        obs: Tensor,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(actions, values, log-probabilities) of a batch of observations."""
        chances = self.get_distribution(obs, action_masks)
        actions = chances.get_actions(deterministic=deterministic)
        return actions, self.critic(obs), chances.log_prob(actions)

    def evaluate_actions(
        self, obs: Tensor, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(values, log-probabilities of `actions`, entropies)."""
        chances = self.get_distribution(obs, action_masks)
        return self.critic(obs), chances.log_prob(actions), chances.entropy()

    def get_distribution(self, obs: Tensor, action_masks: Any = None) -> MaskableDistribution:
        chances = self.action_dist.proba_distribution(action_logits=self.actor(obs)[0])
        if action_masks is not None:
            chances.apply_masking(action_masks)
        return chances

    def predict_values(self, obs: Tensor) -> Tensor:
        return self.critic(obs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "shape": self.shape}


class Critic(nn.Module):
    """What a review is still worth, from the summary of a network that reads it for that purpose alone."""

    def __init__(self, trunk: nn.Module, hidden: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.value = Value(trunk.summary_size, hidden)

    def forward(self, obs: Tensor) -> Tensor:
        """Expected discounted reward to go, (B, 1)."""
        # Value.forward would cut the gradient off: here the trunk is the value's own
        return self.value.layers(self.trunk(obs)[1])
