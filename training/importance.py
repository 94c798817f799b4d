"""How far the policy that sampled is from the policy that learns, and what is done about it.

vLLM and the trainer compute slightly different probabilities of the same tokens. The ratio corrects
for it; over a long episode a product of ratios says nothing any more, so the choice depends on the
length. Knows tensors and TRL's names; nothing of episodes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# A difference of .05 nats a token, as bfloat16 engines show, is a factor of e^(.05 sqrt(T)) over T
# tokens: two thirds at 64, a fifth at 1 000. Up to here a whole answer may be weighed as one.
SHORT_EPISODE = 64
PER_TOKEN, PER_SEQUENCE = "token_truncate", "sequence_mask"
EFFECTIVE = "sampling/effective_share"


def mode_for(sampled_tokens: int) -> str:
    """TRL's `vllm_importance_sampling_mode` for episodes of up to this many sampled tokens."""
    return PER_SEQUENCE if sampled_tokens <= SHORT_EPISODE else PER_TOKEN


def chosen(told: Collection[str], answer_tokens: int, turns: int) -> str | None:
    """The mode to set, or None where the user has said which. `told`: the settings given."""
    if "vllm_importance_sampling_mode" in told:
        return None
    return mode_for(answer_tokens * turns)


def effective_share(ratio_BT: Any, mask_BT: Any) -> float:
    """Kish's effective sample size of the weights over their number, in (0, 1]; 1 with no weight.

    (sum w)^2 / (n sum w^2) over the tokens with mask 1. `ratio_BT` may be (B, 1): one weight a row,
    counted once for every row that has a token.
    """
    if ratio_BT.shape[1] == 1 and mask_BT.shape[1] != 1:
        weights = ratio_BT[:, 0][mask_BT.bool().any(dim=1)]
    else:
        weights = ratio_BT[mask_BT.bool()]
    weights = weights.double()
    squares = float((weights**2).sum())
    if not weights.numel() or squares == 0.0:
        return 1.0 if not weights.numel() else 0.0
    return float(weights.sum()) ** 2 / (weights.numel() * squares)


def weighed(trainer: type[Any]) -> type[Any]:
    """TRL's trainer, with the effective share of its importance weights among its metrics."""

    class Weighed(trainer):
        """Adds one figure; learns exactly as its base does."""

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            ratio = output.get("importance_sampling_ratio")
            if ratio is not None:
                mask = output["completion_mask"] * output.get("tool_mask", 1)
                mode = "train" if self.model.training else "eval"
                self._metrics[mode][EFFECTIVE].append(effective_share(ratio, mask))
            return output

    Weighed.__name__ = trainer.__name__
    return Weighed
