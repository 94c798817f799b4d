"""How a language model writes one answer to each of many conversations.

Knows token ids and probabilities; nothing of environments, prompts or rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from transformers import GenerationConfig, LogitsProcessorList

GREEDY = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """What was sampled, up to and including the end-of-turn token.

    `logprobs` are those of the sampled tokens under softmax(logits / temperature), before any
    top-p cut: the quantity a trainer recomputes. `truncated` says that no end came within the cap.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool


Generate: TypeAlias = Callable[[Sequence[Sequence[int]]], list[Completion]]


class TransformersGenerate:
    """`model.generate` over a left-padded batch.

    temperature: 0 is greedy. top_p: 1 cuts nothing. max_new_tokens: the cap of one answer.
    batch_size: rows a call, so that a wide evaluation fits in memory.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 64,
        batch_size: int = 256,
    ) -> None:
        self._model = model
        self._eos = _end_tokens(model, tokenizer)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self._eos[0]
        self._temperature = temperature
        self._batch_size = batch_size
        self._config = _explicit(
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            eos=self._eos,
            pad=self._pad,
        )

    def __call__(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        """One completion a context, in the same order."""
        written: list[Completion] = []
        with _evaluating(self._model), torch.no_grad():
            for start in range(0, len(contexts), self._batch_size):
                written += self._batch(contexts[start : start + self._batch_size])
        return written

    def _batch(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        device = next(self._model.parameters()).device
        ids_BT, attention_BT = _left_padded(contexts, self._pad, device)
        recorder = _SampledLogprobs(self._temperature or 1.0)
        sequence_BT = self._model.generate(
            input_ids=ids_BT,
            attention_mask=attention_BT,
            generation_config=self._config,
            logits_processor=LogitsProcessorList([recorder]),
        )
        new_BT = sequence_BT[:, ids_BT.shape[1] :].tolist()
        logprobs_BT = recorder.finish(sequence_BT).tolist()
        return [self._cut(ids, lps) for ids, lps in zip(new_BT, logprobs_BT, strict=True)]

    def _cut(self, ids: list[int], logprobs: list[float]) -> Completion:
        """The row up to its first end token; what follows is padding."""
        end = next((i for i, token in enumerate(ids) if token in self._eos), None)
        stop = len(ids) if end is None else end + 1
        return Completion(tuple(ids[:stop]), tuple(logprobs[:stop]), truncated=end is None)


class _SampledLogprobs:
    """Remembers, step by step, how likely the token was that got sampled.

    Keeps one row of the vocabulary a sequence instead of one a token: on a large vocabulary
    `output_logits` would hold gigabytes. Runs before temperature and top-p are applied.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._distribution_BV: torch.Tensor | None = None
        self._taken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._take(input_ids)
        self._distribution_BV = torch.log_softmax(scores.float() / self._temperature, dim=-1)
        return scores

    def _take(self, sequence_BT: torch.Tensor) -> None:
        if self._distribution_BV is not None:
            self._taken.append(self._distribution_BV.gather(1, sequence_BT[:, -1:]))

    def finish(self, sequence_BT: torch.Tensor) -> torch.Tensor:
        self._take(sequence_BT)
        return torch.cat(self._taken, dim=1)


def _explicit(
    temperature: float, top_p: float, max_new_tokens: int, eos: Sequence[int], pad: int
) -> GenerationConfig:
    """Every knob said aloud: a Hub model's own defaults (top-k 20, repetition penalty 1.1) would
    sample from another distribution than the one that is trained."""
    sampled = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        **(sampled if temperature > GREEDY else {"do_sample": False}),
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(eos),
        pad_token_id=pad,
        use_cache=True,
    )


def _end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's end of turn first, then any other end its model knows."""
    known = getattr(model.generation_config, "eos_token_id", None)
    more = known if isinstance(known, list) else [known]
    return tuple(dict.fromkeys(t for t in (tokenizer.eos_token_id, *more) if t is not None))


def _left_padded(
    contexts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask), both of shape (B, T), padded on the left to the longest context."""
    longest = max(map(len, contexts))
    ids = [[pad] * (longest - len(row)) + list(row) for row in contexts]
    attention = [[0] * (longest - len(row)) + [1] * len(row) for row in contexts]
    return torch.tensor(ids, device=device), torch.tensor(attention, device=device)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off and, with gradient checkpointing, the cache on; as it was before on leaving."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
