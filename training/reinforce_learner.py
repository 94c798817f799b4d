"""The learner inside a REINFORCE run: a policy, a baseline, and one step up the gradient at a time.

Imports torch at once, so it is itself imported late. Knows batches of steps; nothing of who played them,
of runs, or of folders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from env_server.contract import Family
from eval.policy_net import Shape, build, masked
from training.classical_rollout import Batch
from training.reinforce_settings import ReinforceConfig
from training.value_net import Value

ROWS = 512  # positions of one backward pass: what is kept between the passes stays in the cache


@dataclass(slots=True)
class Figures:
    """What one update tells. value_loss: mean squared error of the baseline before the step."""

    reward: float
    score: float
    loss: float
    value_loss: float
    entropy: float
    steps: int


class Learner:
    """Policy, baseline, optimiser and randomness of one run."""

    def __init__(self, config: ReinforceConfig, family: Family) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.family = config, family
        self.encoding = family.encoding(config.task, config.encoding)
        self.shape = Shape(
            family.name,
            config.task,
            config.encoding,
            config.network,
            config.hidden_dim,
            self.encoding.size,
            self.encoding.n_actions,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = build(self.shape, self.encoding)
            self.value = Value(self.policy.summary_size, config.hidden_dim)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimiser = self._adam()

    def _adam(self) -> torch.optim.Optimizer:
        weights = [*self.policy.parameters(), *self.value.parameters()]
        return torch.optim.Adam(weights, lr=self.config.lr)

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        return {"policy": self.policy, "value": self.value}

    def learn(self, batch: Batch, progress: float, acting: bool = True) -> Figures:
        """One step up the gradient of the return, less the baseline. progress: of the run, in 0..1.

        acting: False teaches the baseline and leaves the policy as it is.
        """
        config = self.config
        advantage_N = batch.to_go_N - batch.expected_N
        if config.attempts > 1:
            advantage_N = advantage_N - others_luck(batch, config.attempts)
        if config.normalise:
            advantage_N = (advantage_N - advantage_N.mean()) / (advantage_N.std() + 1e-6)
        self.optimiser.zero_grad()
        sums = torch.zeros(3)
        for first in range(0, batch.steps, ROWS):
            rows = slice(first, first + ROWS)
            parts = self._losses(batch, rows, advantage_N[rows])
            policy_loss, value_loss, entropy = parts
            loss = value_loss
            if acting:
                loss = loss + policy_loss - config.entropy_coeff * entropy
            (loss / batch.steps).backward()
            sums += torch.stack(parts).detach()
        for module in self.modules.values():
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * (1 - (1 - config.lr_end) * progress)
        self.optimiser.step()
        policy_loss, value_loss, entropy = (sums / batch.steps).tolist()
        return Figures(
            sum(batch.returns_E) / len(batch.returns_E),
            sum(batch.scores_E) / len(batch.scores_E),
            policy_loss,
            value_loss,
            entropy,
            batch.steps,
        )

    def _losses(
        self, batch: Batch, rows: slice, advantage_R: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums over these rows: -advantage * log-probability, squared error of the baseline, entropy."""
        mask_RA = batch.mask_NA[rows]
        logits, summary = self.policy(batch.features_NF[rows])
        logp_RA = torch.log_softmax(masked(logits, mask_RA), 1)
        taken_R = logp_RA.gather(1, batch.actions_N[rows, None])[:, 0]
        # 0 * -inf is not a number: what is not possible has no share of the entropy
        possible_RA = logp_RA.masked_fill(~mask_RA, 0.0)
        entropy = -(possible_RA.exp() * possible_RA * mask_RA).sum()
        value_loss = (self.value(summary) - batch.to_go_N[rows]).square().sum()
        return -(advantage_R * taken_R).sum(), value_loss, entropy


def others_luck(batch: Batch, attempts: int) -> torch.Tensor:
    """By how much the other attempts at the same patient beat the baseline at their start, a step each.

    A patient who is better than the baseline can see is so for all attempts; one's own is left out, so
    that the gradient stays unbiased.
    """
    lengths_E = torch.tensor(batch.steps_E)
    starts_E = lengths_E.cumsum(0) - lengths_E
    luck_PG = (batch.to_go_N - batch.expected_N)[starts_E].view(-1, attempts)
    others_PG = (luck_PG.sum(1, keepdim=True) - luck_PG) / (attempts - 1)
    return others_PG.flatten().repeat_interleave(lengths_E)
