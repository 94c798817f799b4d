"""Weights between two policies: counted by Kish, chosen by length."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from training.importance import EFFECTIVE, chosen, effective_share, mode_for, weighed  # noqa: E402


def test_equal_weights_all_count() -> None:
    ratio = torch.full((3, 4), 0.7)
    assert effective_share(ratio, torch.ones(3, 4)) == pytest.approx(1.0)


def test_one_weight_among_n_counts_as_one() -> None:
    ratio = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert effective_share(ratio, torch.ones(1, 4)) == pytest.approx(1 / 4)


def test_masked_tokens_do_not_count() -> None:
    ratio, mask = torch.tensor([[1.0, 1.0, 99.0]]), torch.tensor([[1, 1, 0]])
    assert effective_share(ratio, mask) == pytest.approx(1.0)
    assert effective_share(ratio, torch.zeros(1, 3)) == 1.0


def test_a_weight_a_sequence_counts_once_a_row_that_says_something() -> None:
    ratio, mask = torch.tensor([[1.0], [3.0], [50.0]]), torch.tensor([[1, 1], [1, 0], [0, 0]])
    assert effective_share(ratio, mask) == pytest.approx(16 / (2 * 10))


def test_a_lognormal_ratio_has_the_share_theory_gives() -> None:
    noise = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0)) * 0.5
    assert effective_share(noise.exp(), torch.ones_like(noise)) == pytest.approx(
        float(torch.exp(torch.tensor(-0.25))), abs=0.01
    )


def test_long_episodes_are_weighed_token_by_token() -> None:
    assert (mode_for(40), mode_for(1500)) == ("sequence_mask", "token_truncate")
    assert chosen([], answer_tokens=24, turns=2) == "sequence_mask"
    assert chosen([], answer_tokens=96, turns=12) == "token_truncate"
    assert chosen(["vllm_importance_sampling_mode"], 96, 12) is None


def test_the_trainer_notes_the_share_and_changes_nothing_else() -> None:
    class Base:
        model = SimpleNamespace(training=True)

        def __init__(self) -> None:
            self._metrics: Any = {"train": defaultdict(list)}

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            return inputs

    trainer = weighed(Base)()
    batch = {
        "importance_sampling_ratio": torch.tensor([[1.0, 0.0]]),
        "completion_mask": torch.ones(1, 2),
    }
    assert trainer._generate_and_score_completions(batch) is batch
    assert trainer._metrics["train"][EFFECTIVE] == [pytest.approx(0.5)]
    assert trainer._generate_and_score_completions({}) == {}
