"""A sampler that keeps what it has read: the cache of one turn is the start of the next.

A measurement, not a back end: rows must come in the same order, each continuing what was said before.
Pads in the middle are masked, and every token has the position it would have without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from eval.generate import Completion


class KeptCache:
    """A `Generate` for the conversations of one rollout, at temperature 1."""

    def __init__(
        self, model: Any, tokenizer: Any, max_new_tokens: int, greedy: bool = False
    ) -> None:
        self._model, self._end = model, tokenizer.eos_token_id
        self._most, self._greedy = max_new_tokens, greedy
        self._cache = DynamicCache()
        self._said: list[list[int]] = []  # all of each row's tokens, as of its last answer
        self._fed: list[int] = []  # how many of them are in the cache
        self._seen_BC = torch.zeros(
            0, 0, dtype=torch.long
        )  # 1 where a column holds a token of the row

    @torch.no_grad()
    def __call__(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        if not contexts:
            return []
        self._follow(contexts)
        news = [list(c[fed:]) for c, fed in zip(contexts, self._fed, strict=True)]
        width = max(map(len, news))
        ids_BT = torch.tensor([[self._end] * (width - len(n)) + n for n in news])
        mask_BT = torch.tensor([[0] * (width - len(n)) + [1] * len(n) for n in news])
        answers: list[list[int]] = [[] for _ in contexts]
        logprobs: list[list[float]] = [[] for _ in contexts]
        live_B = torch.ones(len(contexts), dtype=torch.bool)
        for _ in range(self._most):
            logits_BV = self._forward(ids_BT, mask_BT)
            all_BV = torch.log_softmax(logits_BV, -1)
            token_B = (
                all_BV.argmax(-1) if self._greedy else torch.multinomial(all_BV.exp(), 1)[:, 0]
            )
            chosen_B = all_BV.gather(1, token_B[:, None])[:, 0].tolist()
            for row in live_B.nonzero()[:, 0].tolist():
                answers[row].append(int(token_B[row]))
                logprobs[row].append(chosen_B[row])
            live_B &= token_B != self._end
            if not live_B.any():
                break
            ids_BT, mask_BT = token_B[:, None], live_B.long()[:, None]
        self._said = [[*c, *a] for c, a in zip(contexts, answers, strict=True)]
        return [
            Completion(tuple(a), tuple(p), truncated=a[-1] != self._end)
            for a, p in zip(answers, logprobs, strict=True)
        ]

    def _forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """The logits after the last column; the cache and the masks grow by these columns."""
        fed_B = torch.tensor(self._fed)
        position_BT = (fed_B[:, None] + mask_BT.cumsum(1) - 1).clamp(min=0)
        self._seen_BC = torch.cat([self._seen_BC, mask_BT], 1)
        out = self._model(
            ids_BT,
            attention_mask=self._seen_BC,
            position_ids=position_BT,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._fed = (fed_B + mask_BT.sum(1)).tolist()
        return out.logits[:, -1].float()

    def _follow(self, contexts: Sequence[Sequence[int]]) -> None:
        """Keep the rows that go on, in their order; forget those that have ended."""
        if not self._said:
            self._fed = [0] * len(contexts)
            self._seen_BC = torch.zeros(len(contexts), 0, dtype=torch.long)
            return
        rows, row = [], 0
        for context in contexts:
            while list(context[: len(self._said[row])]) != self._said[row]:
                row += 1
            rows.append(row)
            row += 1
        if len(rows) < len(self._said):
            index = torch.tensor(rows)
            self._cache.batch_select_indices(index)
            self._seen_BC = self._seen_BC[index]
        self._fed = [self._fed[r] for r in rows]
