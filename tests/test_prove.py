"""The prover passes what is sound and catches what is not: one planted fault, one named check."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from env_server import registry  # noqa: E402
from env_server.contract import Episode, Step  # noqa: E402
from eval.chat import ChatTokens  # noqa: E402
from eval.dialogue import Limits, converse  # noqa: E402
from eval.door import LocalDoor, Lost, Move, Request  # noqa: E402
from eval.generate import TransformersGenerate  # noqa: E402
from eval.trajectory import Trajectory  # noqa: E402
from training.ledger import Violation, audit  # noqa: E402
from training.prove import ENOUGH_GROUPS, NotProved, Proof, demand, main, probe  # noqa: E402
from training.tiny import build  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
TASK = "review_easy"
FAMILY = registry.get("polypharmacy")
LIMITS = Limits(8, 500)
(REQUESTS,) = probe([TASK], groups=2, attempts=2, seed_from=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: it says every kind of nonsense, which is what masks have to survive."""
    return build(tmp_path_factory.mktemp("tiny"), "polypharmacy", [TASK])


@pytest.fixture(scope="module")
def policy(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def played(policy: tuple[Any, Any], door: LocalDoor) -> list[Trajectory]:
    torch.manual_seed(1)
    generate = TransformersGenerate(*policy, max_new_tokens=LIMITS.answer_tokens)
    return converse(door, REQUESTS, generate, policy[1], LIMITS, style="brief")


@pytest.fixture(scope="module")
def sound(policy: tuple[Any, Any]) -> list[Trajectory]:
    return played(policy, LocalDoor(FAMILY))


def audited(batch: Sequence[Trajectory], policy: tuple[Any, Any]) -> list[Violation]:
    return audit(FAMILY, REQUESTS, batch, ChatTokens(policy[1]), "brief", policy[0])


def caught(batch: Sequence[Trajectory], policy: tuple[Any, Any]) -> set[str]:
    return {violation.check for violation in audited(batch, policy)}


def test_a_sound_batch_has_no_violation(sound: Any, policy: Any) -> None:
    assert audited(sound, policy) == []
    assert sum(sum(t.tokens.mask) for t in sound) > 100, "there was something to check"


def _with(sound: Sequence[Trajectory], change: Callable[[Any], dict[str, Any]]) -> list[Trajectory]:
    tokens = sound[0].tokens
    return [replace(sound[0], tokens=replace(tokens, **change(tokens))), *sound[1:]]


def test_a_mask_shifted_by_one_token_is_caught(sound: Any, policy: Any) -> None:
    def shifted(tokens: Any) -> dict[str, Any]:
        return {
            "mask": (0, *tokens.mask[:-1]),
            "logprobs": (0.0, *tokens.logprobs[:-1]),
        }

    assert {"mask", "likelihood"} <= caught(_with(sound, shifted), policy)


def test_model_text_that_was_tokenised_again_is_caught(sound: Any, policy: Any) -> None:
    """The same words as other ids: probabilities that nobody sampled."""
    tokenizer = policy[1]

    def again(tokens: Any) -> dict[str, Any]:
        said = list(tokens.completion_ids[:8])
        letters = tokenizer.decode(said)
        anew = [i for c in letters for i in tokenizer.encode(c, add_special_tokens=False)]
        assert anew != said and tokenizer.decode(anew) == letters
        rest = len(tokens.completion_ids[8:])
        return {
            "completion_ids": (*anew, *tokens.completion_ids[8:]),
            "mask": (*[1] * len(anew), *tokens.mask[-rest:]),
            "logprobs": (*[-1.0] * len(anew), *tokens.logprobs[-rest:]),
        }

    assert "likelihood" in caught(_with(sound, again), policy)


class _OtherPatient(LocalDoor):
    """Gives the second attempt of the first group somebody else."""

    def begin_many(self, requests: Sequence[Request]) -> list[Episode | Lost]:
        wrong = replace(requests[1], seed=99)
        return super().begin_many([requests[0], wrong, *requests[2:]])


def test_a_model_that_gives_no_number_after_a_while_is_caught(sound: Any, policy: Any) -> None:
    def spoil(_: Any, __: Any, told: Any) -> Any:
        told.logits[:, -8:] = float("nan")  # of the last tokens alone
        return told

    hook = policy[0].register_forward_hook(spoil)
    try:
        assert "likelihood" in caught(sound, policy)
    finally:
        hook.remove()


def test_two_patients_in_one_group_are_caught(policy: Any) -> None:
    assert {"patient", "replay"} <= caught(played(policy, _OtherPatient(FAMILY)), policy)


class _LateReply(LocalDoor):
    """Answers the first episode with the step of the second, as a connection out of step would."""

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        steps = super().step_many(moves)
        return [steps[2], *steps[1:]] if len(steps) > 3 else steps


def test_a_reply_that_belongs_to_another_episode_is_caught(policy: Any) -> None:
    assert "replay" in caught(played(policy, _LateReply(FAMILY)), policy)


def test_a_reward_that_was_not_paid_is_caught(sound: Any, policy: Any) -> None:
    turns = (replace(sound[0].turns[0], reward=1.0), *sound[0].turns[1:])
    assert "replay" in caught([replace(sound[0], turns=turns), *sound[1:]], policy)


def test_a_row_too_few_and_rows_in_another_order_are_caught(sound: Any, policy: Any) -> None:
    assert "count" in caught(sound[:-1], policy)
    assert "patient" in caught([sound[2], sound[1], sound[0], sound[3]], policy)


def test_tokens_after_the_last_answer_are_caught(sound: Any, policy: Any) -> None:
    def longer(tokens: Any) -> dict[str, Any]:
        return {
            "completion_ids": (*tokens.completion_ids, 5),
            "mask": (*tokens.mask, 0),
            "logprobs": (*tokens.logprobs, 0.0),
        }

    assert "mask" in caught(_with(sound, longer), policy)


def test_a_log_probability_on_the_environments_token_is_caught(sound: Any, policy: Any) -> None:
    def wrong(tokens: Any) -> dict[str, Any]:
        at = tokens.mask.index(0)
        return {"logprobs": (*tokens.logprobs[:at], -0.5, *tokens.logprobs[at + 1 :])}

    assert "shape" in caught(_with(sound, wrong), policy)


def _proof(tied: float, groups: int, violations: tuple[Violation, ...] = ()) -> Proof:
    return Proof(TASK, 8, groups, 0, 40, tied, 200, 500, 0, 300, True, violations)


def test_a_run_that_has_nothing_to_learn_is_refused_with_advice() -> None:
    with pytest.raises(NotProved, match="temperature"):
        demand([_proof(1.0, ENOUGH_GROUPS)])
    demand([_proof(1.0, ENOUGH_GROUPS - 1)])  # may be chance
    demand([_proof(1.0, ENOUGH_GROUPS), _proof(0.5, ENOUGH_GROUPS)])


def test_a_run_whose_rollout_is_not_sound_is_refused() -> None:
    with pytest.raises(NotProved, match="1 more"):
        demand([_proof(0.0, 4, (Violation("mask", "a", "b"), Violation("end", "a", "b")))])


def test_the_command_proves_a_model_over_a_real_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model", "tiny", "--groups", "1", "--attempts", "2", "--answer-tokens", "8"]
    assert main([*flags, "--tasks", TASK, "easy_screening", "--json"]) == 0
    proofs = json.loads(capsys.readouterr().out)
    assert [p["task"] for p in proofs] == [TASK, "easy_screening"]
    assert all(p["likelihood"] and p["tokens"] and not p["violations"] for p in proofs)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--temperature", "0.0"), ("--temperature", "-1.0"), ("--answer-tokens", "0")],
)
def test_a_number_nothing_could_be_proved_with_is_refused(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "tiny", "--tasks", TASK, f"{flag}={value}"]) == 2
    assert f"error: {flag} is {value}; it must be" in capsys.readouterr().err


def test_a_model_that_never_gets_to_speak_is_not_proved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(folder), "--tasks", TASK, "--in-process", "--groups", "1"]
    assert main([*flags, "--attempts", "1", "--context-tokens", "100"]) == 1
    assert "nothing was sampled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--model", "tiny", "--tasks", "review_eazy"], "review_easy"),
        (["--model", "tiny", "--groups", "0"], "--groups is 0"),
        (["--model", "tiny", "--family", "polyfarmacy"], "polypharmacy"),
    ],
)
def test_wrong_flags_are_named(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert says in capsys.readouterr().err
