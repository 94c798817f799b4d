"""Ranks that share one vLLM engine ask it in step, whatever their episodes do.

vLLM itself needs a GPU; the engine here keeps TRL's contract: one common list of prompts from all
ranks, sliced by each rank's own count.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from training.vllm_answers import VllmGenerate  # noqa: E402

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = pytest.mark.slow
END = 9


class Ranks:
    """Three ranks as threads; `gather` meets at a barrier, as a collective does."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.meet = threading.Barrier(count, timeout=20)
        self.board: dict[int, Any] = {}

    def share(self, rank: int, value: Any) -> list[Any]:
        self.board[rank] = value
        self.meet.wait()
        everything = [self.board[r] for r in range(self.count)]
        self.meet.wait()
        return everything


def trainer(ranks: Ranks, rank: int, asked: list[int]) -> Any:
    def gather(tensor: Any) -> Any:
        return torch.cat(ranks.share(rank, tensor))

    def generate(prompts: list[list[int]], **_: Any) -> Any:
        common = [p for own in ranks.share(rank, prompts) for p in own]
        mine = common[rank * len(prompts) : (rank + 1) * len(prompts)]
        asked.append(len(prompts))
        answers = [[p[-1] + 1, END] for p in mine]
        return mine, answers, [[[-0.5], [None]]] * len(mine), None

    return SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=ranks.count, gather=gather, device="cpu"),
        vllm_generation=SimpleNamespace(
            generate=generate, max_completion_length=256, generation_kwargs={}
        ),
        processing_class=SimpleNamespace(eos_token_id=END),
        eos_token_ids=[END],
    )


def play(generate: VllmGenerate, live_by_turn: Sequence[int], rank: int) -> list[list[int]]:
    """As many turns as the rank has, each with as many live episodes as it says."""
    heard = []
    for live in live_by_turn:
        contexts = [[100 * rank + i] for i in range(live)]
        heard.append([c.ids[0] for c in generate(contexts)])
    generate.finish()
    return heard


def test_every_rank_gets_its_own_answers_and_all_ask_alike() -> None:
    plans = [[4, 2, 1], [3], [4, 4, 4, 4, 2]]
    ranks = Ranks(3)
    asked: list[list[int]] = [[], [], []]
    heard: dict[int, list[list[int]]] = {}

    def run(rank: int) -> None:
        generate = VllmGenerate(trainer(ranks, rank, asked[rank]), answer_tokens=8)
        heard[rank] = play(generate, plans[rank], rank)

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert asked[0] == asked[1] == asked[2] == [4, 4, 4, 4, 2]
    for rank, plan in enumerate(plans):
        assert heard[rank] == [[100 * rank + i + 1 for i in range(live)] for live in plan]


def test_a_missing_probability_is_nan_and_the_cap_is_given_back() -> None:
    one = trainer(Ranks(1), 0, [])
    (said,) = VllmGenerate(one, answer_tokens=8)([[1]])
    assert said.logprobs[0] == -0.5
    assert said.logprobs[1] != said.logprobs[1]
    assert not said.truncated
    assert one.vllm_generation.max_completion_length == 256
