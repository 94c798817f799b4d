"""SFTTrainer for a small model on a CPU: the vocabulary is scored at the answers' positions alone.

TRL scores every position there and masks afterwards, which for short answers in long conversations is
half of the time. The loss is the same number. Knows nothing of what is taught.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer


class AnswersOnlyTrainer(SFTTrainer):
    """For plain causal models (no soft-capping, no logit scale, no experts, no parallelism)."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        plain = self.accelerator.unwrap_model(model)
        hidden_BTH = plain.base_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).last_hidden_state[:, :-1]
        label_BT = inputs["labels"][:, 1:]
        answered_BT = label_BT != -100
        logits_NV = plain.get_output_embeddings()(hidden_BTH[answered_BT])
        label_N = label_BT[answered_BT]
        count = len(label_N) if num_items_in_batch is None else num_items_in_batch
        loss = cross_entropy(logits_NV.float(), label_N, reduction="sum") / max(int(count), 1)
        self._note(logits_NV.detach(), label_N, inputs["attention_mask"])
        return (loss, {"logits": logits_NV}) if return_outputs else loss

    def _note(
        self, logits_NV: torch.Tensor, label_N: torch.Tensor, attention_BT: torch.Tensor
    ) -> None:
        """The figures TRL's own loss would have noted, under its names."""
        figures = self._metrics["train" if self.model.training else "eval"]
        right = (logits_NV.argmax(-1) == label_N).float().mean()
        figures["mean_token_accuracy"].append(float(right) if len(label_N) else 0.0)
        if self.model.training:
            self._total_train_tokens += int(attention_BT.sum())
        figures["num_tokens"] = [self._total_train_tokens]
