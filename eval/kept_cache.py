"""A sampler that keeps what it has read: the cache of one turn is the start of the next.

For the conversations of one rollout: each row continues what was said before, in the same order, and those
that have ended are missing. Pads in the middle are masked, and every token has the position it would have
without them. Knows token ids and probabilities; nothing of environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from eval.generate import GREEDY, Completion, _end_tokens, _evaluating


class KeptCache:
    """A `Generate` that reads every token once. Rows that continue nothing begin anew.

    temperature: 0 is greedy. max_new_tokens: the cap of one answer. Samples from the whole
    distribution: there is no top-p.
    """

    def __init__(
        self, model: Any, tokenizer: Any, temperature: float = 1.0, max_new_tokens: int = 64
    ) -> None:
        self._model = model
        self._ends = _end_tokens(model, tokenizer)
        self._temperature = temperature
        self._most = max_new_tokens
        self._begin(0)

    def _begin(self, rows: int) -> None:
        self._cache = DynamicCache()
        self._said: list[list[int]] = []  # all of each row's tokens, as of its last answer
        self._fed = [0] * rows  # how many of them are in the cache
        device = next(self._model.parameters()).device
        # 1 where a column holds a token of the row
        self._seen_BC = torch.zeros(rows, 0, dtype=torch.long, device=device)

    def __call__(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        """One completion a context, in the same order."""
        if not contexts:
            return []
        with _evaluating(self._model), torch.no_grad():
            return self._answers(contexts)

    def _answers(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        self._follow(contexts)
        news = [list(c[fed:]) for c, fed in zip(contexts, self._fed, strict=True)]
        width = max(map(len, news))
        ids_BT = torch.tensor([[self._ends[0]] * (width - len(n)) + n for n in news])
        mask_BT = torch.tensor([[0] * (width - len(n)) + [1] * len(n) for n in news])
        ids_BT, mask_BT = ids_BT.to(self._seen_BC), mask_BT.to(self._seen_BC)
        answers: list[list[int]] = [[] for _ in contexts]
        logprobs: list[list[float]] = [[] for _ in contexts]
        live_B = torch.ones(len(contexts), dtype=torch.bool, device=ids_BT.device)
        ends = torch.tensor(self._ends, device=ids_BT.device)
        for _ in range(self._most):
            logits_BV = self._forward(ids_BT, mask_BT)
            all_BV = torch.log_softmax(logits_BV / (self._temperature or 1.0), -1)
            token_B = (
                all_BV.argmax(-1)
                if self._temperature == GREEDY
                else torch.multinomial(all_BV.exp(), 1)[:, 0]
            )
            chosen_B = all_BV.gather(1, token_B[:, None])[:, 0].tolist()
            tokens_B = token_B.tolist()  # at once: on a GPU each number read costs a wait
            for row in live_B.nonzero()[:, 0].tolist():
                answers[row].append(tokens_B[row])
                logprobs[row].append(chosen_B[row])
            live_B &= ~torch.isin(token_B, ends)
            if not live_B.any():
                break
            ids_BT, mask_BT = token_B[:, None], live_B.long()[:, None]
        self._said = [[*c, *a] for c, a in zip(contexts, answers, strict=True)]
        return [
            Completion(tuple(a), tuple(p), truncated=a[-1] not in self._ends)
            for a, p in zip(answers, logprobs, strict=True)
        ]

    def _forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """The logits after the last column; the cache and the masks grow by these columns."""
        fed_B = torch.tensor(self._fed, device=mask_BT.device)
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
        rows = self._continued(contexts)
        if rows is None:
            self._begin(len(contexts))
            return
        if len(rows) < len(self._said):
            index = torch.tensor(rows, device=self._seen_BC.device)
            self._cache.batch_select_indices(index)
            self._seen_BC = self._seen_BC[index]
        self._fed = [self._fed[r] for r in rows]

    def _continued(self, contexts: Sequence[Sequence[int]]) -> list[int] | None:
        """The row that each context continues, or None where these are other conversations."""
        rows: list[int] = []
        left = iter(enumerate(self._said))
        for context in contexts:
            found = next((r for r, said in left if list(context[: len(said)]) == said), None)
            if found is None:
                return None
            rows.append(found)
        return rows
