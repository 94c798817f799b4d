"""Keeping the cache changes nothing but the time: the same answers, the same probabilities."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from eval.dialogue import Limits, converse  # noqa: E402
from eval.door import LocalDoor, Request  # noqa: E402
from eval.generate import TransformersGenerate  # noqa: E402
from eval.kept_cache import KeptCache  # noqa: E402
from training.tiny import build  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
CASES = [Request("review_easy", seed, "train") for seed in range(12)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """An untrained model: answers of every length, cut ones included."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = build(tmp_path_factory.mktemp("tiny"), "polypharmacy", ["review_easy"])
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def played(policy: tuple[Any, Any], sample: Any) -> list[Any]:
    door = LocalDoor("polypharmacy")
    door.seats = 5  # three tables: conversations that continue nothing
    return converse(door, CASES, sample, policy[1], limits=Limits(12, 420), style="brief")


def test_the_greedy_policy_says_the_same_with_the_same_probabilities(
    policy: tuple[Any, Any],
) -> None:
    again = played(policy, TransformersGenerate(*policy, temperature=0.0, max_new_tokens=12))
    kept = played(policy, KeptCache(*policy, 0.0, 12))
    assert [t.turns for t in kept] == [t.turns for t in again]
    for one, other in zip(kept, again, strict=True):
        assert one.tokens.completion_ids == other.tokens.completion_ids
        assert one.tokens.logprobs == pytest.approx(other.tokens.logprobs, abs=1e-4)


def test_a_sampled_answer_has_the_probability_that_a_plain_forward_pass_gives(
    policy: tuple[Any, Any],
) -> None:
    model, _ = policy
    torch.manual_seed(0)
    for one in played(policy, KeptCache(*policy, 0.7, 12)):
        prompt, said = list(one.tokens.prompt_ids), list(one.tokens.completion_ids)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1] / 0.7
        logp = torch.log_softmax(logits, -1).gather(1, torch.tensor(said)[:, None])[:, 0]
        mask = torch.tensor(one.tokens.mask, dtype=torch.float)
        assert ((logp - torch.tensor(one.tokens.logprobs)).abs() * mask).max() < 1e-4


def test_nobody_is_asked_for_nothing(policy: tuple[Any, Any]) -> None:
    assert KeptCache(*policy)([]) == []
