"""Answers from TRL's vLLM engine, colocated or on a server, one turn at a time.

In server mode and under tensor parallelism TRL slices one common result by each rank's own count, so
every rank must ask the same number of times for the same number of answers. Ranks agree on the
number before every call, and the ones that have finished keep asking for nothing until all have.
An answer can be held to a JSON schema; its probabilities stay those of the free policy, which is what
the trainer recomputes. Knows TRL's engine; nothing of episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from env_server.contract import JsonObject
from eval.generate import Completion


class VllmGenerate:
    """A `Generate` on `trainer.vllm_generation`; call `finish` when this rank's episodes are over.

    Samples with the trainer's temperature and top-p, which the engine was built with.
    """

    def __init__(
        self, trainer: Any, answer_tokens: int, answer_schema: JsonObject | None = None
    ) -> None:
        """answer_schema: what every answer must fit; None leaves the policy free."""
        self._engine = trainer.vllm_generation
        self._accelerator = trainer.accelerator
        self._answer_tokens = answer_tokens
        self._answer_schema = answer_schema
        self._ends = frozenset(trainer.eos_token_ids)
        self._dummy = [trainer.processing_class.eos_token_id]

    def __call__(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        """One completion a context. Blocks until every rank asks, or has called `finish`."""
        most = self._most(len(contexts))
        if most == 0:
            return []
        return self._ask(contexts, most)[: len(contexts)]

    def finish(self) -> None:
        """Keep the other ranks company until none has an episode left."""
        while most := self._most(0):
            self._ask([], most)

    def _most(self, own: int) -> int:
        """The largest count of any rank."""
        if self._accelerator.num_processes == 1:
            return own
        import torch

        counts = self._accelerator.gather(torch.tensor([own], device=self._accelerator.device))
        return int(counts.max())

    def _ask(self, contexts: Sequence[Sequence[int]], count: int) -> list[Completion]:
        prompts = [list(context) for context in contexts]
        prompts += [self._dummy] * (count - len(prompts))
        with _asked_for(self._engine, self._answer_tokens, self._answer_schema):
            _, answers, logprobs, _ = self._engine.generate(
                prompts=prompts, images=None, num_generations=1
            )
        return [
            Completion(tuple(ids), tuple(map(_sampled, row)), truncated=ids[-1] not in self._ends)
            for ids, row in zip(answers, logprobs, strict=True)
        ]


def _sampled(token: Sequence[float | None]) -> float:
    """The sampled token's log-probability; NaN, which TRL leaves uncorrected, where vLLM has none."""
    first = token[0]
    return float("nan") if first is None else first


@contextmanager
def _asked_for(engine: Any, answer_tokens: int, schema: JsonObject | None) -> Iterator[None]:
    """The engine with an answer's cap and form instead of an episode's, and as it was on leaving."""
    before = engine.max_completion_length, engine.generation_kwargs
    engine.max_completion_length = answer_tokens
    if schema is not None:
        # read at each call by both of the engine's modes: colocate makes StructuredOutputsParams of
        # it, server mode sends it as the request's own field
        engine.generation_kwargs = {**before[1], "structured_outputs": {"json": schema}}
    try:
        yield
    finally:
        engine.max_completion_length, engine.generation_kwargs = before
