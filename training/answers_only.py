"""SFTTrainer for a small model on a CPU: the vocabulary is scored where there is something to learn.

TRL scores every position there and masks afterwards, which for short answers in long conversations is
half of the time. The loss on answers is the same number; a model that has never read anything may
also learn from the rest, at a smaller weight, though never from an answer shown as a mistake. Knows
nothing of what is taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from training.tokenizer import ROLES


class AnswersOnlyTrainer(SFTTrainer):
    """For plain causal models (no soft-capping, no logit scale, no experts).

    With several ranks every position is scored: gradients meet in the wrapped model's own pass.
    reading: weight of every token outside the answers; 0 learns from answers alone, as TRL does.
    """

    def __init__(self, *arguments: Any, reading: float = 0.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reading = reading
        self._roles = self.processing_class.convert_tokens_to_ids(list(ROLES)) if reading else []

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        answered_BT = inputs["labels"][:, 1:] != -100
        scored_BT = answered_BT
        if self._reading:
            mistake_BT = answers(inputs["input_ids"], self._roles)[:, 1:] & ~answered_BT
            scored_BT = inputs["attention_mask"][:, 1:].bool() & ~mistake_BT
        logits_NV = self._logits(model, inputs, scored_BT)
        label_N, answer_N = inputs["input_ids"][:, 1:][scored_BT], answered_BT[scored_BT]
        surprise_N = cross_entropy(logits_NV, label_N, reduction="none")
        weight_N = torch.where(answer_N, 1.0, self._reading)
        loss = (surprise_N * weight_N).sum()
        if num_items_in_batch is None:
            loss = loss / max(int(answer_N.sum()), 1)
        else:  # the count is of all ranks, whose gradients are averaged
            loss = loss * self.accelerator.num_processes / max(int(num_items_in_batch), 1)
        self._note(logits_NV.detach()[answer_N], label_N[answer_N], inputs["attention_mask"])
        return (loss, {"logits": logits_NV}) if return_outputs else loss

    def _logits(
        self, model: Any, inputs: dict[str, torch.Tensor], scored_BT: torch.Tensor
    ) -> torch.Tensor:
        read = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        if self.accelerator.num_processes > 1:
            logits_BTV: torch.Tensor = model(**read, use_cache=False).logits[:, :-1]
            return logits_BTV[scored_BT].float()
        plain = self.accelerator.unwrap_model(model)
        hidden_BTH = plain.base_model(**read, use_cache=False).last_hidden_state[:, :-1]
        logits_NV: torch.Tensor = plain.get_output_embeddings()(hidden_BTH[scored_BT]).float()
        return logits_NV

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


def answers(ids_BT: torch.Tensor, roles: Sequence[int]) -> torch.Tensor:
    """(B, T) bool: what the last of `roles` has said, without the token that gives it the floor."""
    opens_BT = torch.isin(ids_BT, torch.tensor(roles, device=ids_BT.device))
    at_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    since_BT = torch.where(opens_BT, at_T, 0).cummax(dim=1).values
    speaker_BT = ids_BT.gather(1, since_BT)
    return (speaker_BT == roles[-1]) & ~opens_BT
