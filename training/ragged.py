"""Episodes of unequal length in one batch, without computing on the filling between them.

One long episode makes every row of TRL's batch as long as itself; of short conversations most of
the batch is then filling. Here rows of like length go through the model together, each group cut to
its own longest. Log-probabilities, entropies and gradients are what they were, up to rounding.
Knows tensors and one method of TRL's trainer; nothing of episodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def trimmed(trainer: type[Any], groups: int) -> type[Any]:
    """TRL's trainer, its forward pass made in `groups` passes over rows of like length; 1 changes nothing.

    The number of passes depends on nothing a process sees alone, so that sharded models, whose
    processes must call forward equally often, stay in step.
    """
    if groups <= 1:
        return trainer

    class Trimmed(trainer):
        """Learns as its base does, in fewer operations."""

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: Any,
            attention_mask: Any,
            logits_to_keep: int,
            *more: Any,
            **named: Any,
        ) -> Any:
            whole = super()._get_per_token_logps_and_entropies
            # pictures are counted by row, and a router's loss is a mean over passes: both stay whole
            other = more or any(_given(named, name) for name in named if name not in _PLAIN)
            if other or input_ids.shape[0] < groups:
                return whole(model, input_ids, attention_mask, logits_to_keep, *more, **named)
            parts, order = [], []
            for rows, columns in cuts(attention_mask, logits_to_keep, groups):
                kept = columns.stop - (input_ids.shape[1] - logits_to_keep)
                ids, mask = input_ids[rows, columns], attention_mask[rows, columns]
                log_probs, entropies, _ = whole(model, ids, mask, kept, **named)
                parts.append([_widened(part, logits_to_keep) for part in (log_probs, entropies)])
                order.append(rows)
            back = _inverse(order)
            log_probs, entropies = (_joined(column, back) for column in zip(*parts, strict=True))
            return log_probs, entropies, None

    Trimmed.__name__ = trainer.__name__
    return Trimmed


_PLAIN = ("batch_size", "compute_entropy")


def cuts(attention_mask: Any, logits_to_keep: int, groups: int) -> Iterator[tuple[Any, slice]]:
    """Rows of like length and the columns that hold all their tokens, `groups` times.

    attention_mask: (B, T), 0 at the filling: on the left of prompts, on the right of completions of
    `logits_to_keep` columns. A group keeps at least one column of each.
    """
    import torch

    length = attention_mask.shape[1]
    begin = length - logits_to_keep
    at = torch.arange(length, device=attention_mask.device)
    seen = attention_mask.bool()
    first = torch.where(seen, at, length).amin(dim=1).clamp(max=begin - 1)
    last = torch.where(seen, at, -1).amax(dim=1).clamp(min=begin)
    by_length = torch.argsort(last - first, stable=True)
    for rows in torch.tensor_split(by_length, groups):
        yield rows, slice(int(first[rows].min()), int(last[rows].max()) + 1)


def _given(named: dict[str, Any], name: str) -> bool:
    return named[name] is not None and named[name] is not False


def _widened(part_BT: Any, columns: int) -> Any:
    """Zeros on the right up to `columns`, as TRL has them where nothing was said. None stays None."""
    import torch

    if part_BT is None:
        return None
    return torch.nn.functional.pad(part_BT, (0, columns - part_BT.shape[1]))


def _inverse(order: list[Any]) -> Any:
    import torch

    return torch.argsort(torch.cat(order))


def _joined(parts: tuple[Any, ...], back: Any) -> Any:
    import torch

    return None if parts[0] is None else torch.cat(parts)[back]
