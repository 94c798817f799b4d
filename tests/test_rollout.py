"""The rows a trainer gets are the episodes that were played: same patients, same tokens, same worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from env_server import registry  # noqa: E402
from env_server.contract import Episode, Step  # noqa: E402
from eval.dialogue import Limits  # noqa: E402
from eval.door import LocalDoor, Lost, Move, RemoteDoor, Request  # noqa: E402
from eval.generate import TransformersGenerate  # noqa: E402
from training.own_server import ServerDidNotStart, own_server  # noqa: E402
from training.rollout import (  # noqa: E402
    NotATrainingCase,
    Rollout,
    RolloutSettings,
    TooManyLost,
    asking,
    case_prompt,
    episode_return,
    make_rollout_func,
    request_of,
)
from training.tiny import build  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
TASK = "review_easy"
FAMILY = registry.get("polypharmacy")
SETTINGS = RolloutSettings(limits=Limits(16, 600), style="brief")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """An untrained model: it says every kind of nonsense, which is what masks have to survive."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = build(tmp_path_factory.mktemp("tiny"), "polypharmacy", [TASK])
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_server(tmp_path_factory.mktemp("server") / "server.log") as url:
        yield url


def trainer_of(policy: tuple[Any, Any]) -> Any:
    """What a rollout asks of GRPOTrainer, around a real model and a real accelerator."""
    from accelerate import Accelerator

    return SimpleNamespace(
        model_wrapped=policy[0],
        processing_class=policy[1],
        accelerator=Accelerator(cpu=True),
        args=SimpleNamespace(temperature=1.0, top_p=1.0, ds3_gather_for_generation=True),
    )


def group_prompts(groups: int, attempts: int) -> list[Any]:
    """As TRL hands them over: every prompt repeated for each attempt of its group."""
    each = [case_prompt(Request(TASK, seed, "train")) for seed in range(groups)]
    return [prompt for prompt in each for _ in range(attempts)]


def played(door: Any, policy: tuple[Any, Any], settings: RolloutSettings = SETTINGS) -> Any:
    torch.manual_seed(7)
    rollout = make_rollout_func(door, settings)
    return rollout, rollout(group_prompts(3, 4), trainer_of(policy))


def test_a_group_shares_one_patient_and_its_attempts_differ(policy: tuple[Any, Any]) -> None:
    rollout, table = played(LocalDoor(FAMILY), policy)
    assert [t.seed for t in rollout.last] == [s for s in range(3) for _ in range(4)]
    for start in (0, 4, 8):
        group = slice(start, start + 4)
        assert len({tuple(ids) for ids in table["prompt_ids"][group]}) == 1
        assert len({tuple(ids) for ids in table["completion_ids"][group]}) > 1


def test_every_column_has_a_value_for_every_row(policy: tuple[Any, Any]) -> None:
    _, table = played(LocalDoor(FAMILY), policy)
    assert {len(column) for column in table.values()} == {12}
    for ids, mask, logprobs in zip(
        table["completion_ids"], table["env_mask"], table["logprobs"], strict=True
    ):
        assert len(ids) == len(mask) == len(logprobs) > 0


def test_the_trainers_forward_pass_finds_the_recorded_probabilities(
    policy: tuple[Any, Any],
) -> None:
    model, _ = policy
    _, table = played(LocalDoor(FAMILY), policy)
    for row in range(12):
        prompt, said = table["prompt_ids"][row], table["completion_ids"][row]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1]
        logp = torch.log_softmax(logits, -1).gather(1, torch.tensor(said)[:, None])[:, 0]
        mask = torch.tensor(table["env_mask"][row], dtype=torch.float)
        off = (logp - torch.tensor(table["logprobs"][row])).abs() * mask
        assert off.max() < 1e-4


def test_both_doors_play_the_same_episodes(policy: tuple[Any, Any], server: str) -> None:
    here, rows_here = played(LocalDoor(FAMILY), policy)
    door = RemoteDoor(server, FAMILY)
    there, rows_there = played(door, policy)
    door.close()
    assert [t.turns for t in here.last] == [t.turns for t in there.last]
    assert [t.score for t in here.last] == [t.score for t in there.last]
    assert {**rows_here, "batch": None} == {**rows_there, "batch": None}


def test_a_broken_socket_costs_nothing_but_a_replay(policy: tuple[Any, Any], server: str) -> None:
    class Clumsy(RemoteDoor):
        turn = 0

        def step_each(self, moves: Iterable[Move]) -> Iterator[Step | Lost]:
            made = list(moves)
            self.turn += 1
            if self.turn == 3:
                made[0][0].drop()  # type: ignore[attr-defined]
            return super().step_each(made)

    door = Clumsy(server, FAMILY)
    broken, _ = played(door, policy)
    door.close()
    whole, _ = played(LocalDoor(FAMILY), policy)
    assert [t.lost for t in broken.last] == [None] * 12
    assert [t.score for t in broken.last] == [t.score for t in whole.last]


class Losing(LocalDoor):
    """Loses the first `count` episodes of each batch."""

    count = 1

    def begin_many(self, wanted: Sequence[Request]) -> list[Episode | Lost]:
        begun = super().begin_many(wanted)
        return [Lost("server gone")] * self.count + begun[self.count :]


def test_a_lost_episode_has_no_reward_and_no_token_to_learn_from(policy: tuple[Any, Any]) -> None:
    rollout, table = played(Losing(FAMILY), policy)
    assert (table["episode_return"][0], table["score"][0]) == (None, None)
    assert sum(table["env_mask"][0]) == 0
    assert all(sum(mask) > 0 for mask in table["env_mask"][1:])
    assert rollout.report.lost == 1


def test_too_many_lost_episodes_stop_the_run(policy: tuple[Any, Any]) -> None:
    door = Losing(FAMILY)
    door.count = 2
    with pytest.raises(TooManyLost, match=r"2 of 12 .* server gone"):
        played(door, policy)


@pytest.mark.parametrize("split", ["validation", "test", "test_unseen_pairs"])
def test_nothing_but_train_can_be_learned_from(split: Any) -> None:
    with pytest.raises(NotATrainingCase, match="only train"):
        request_of(case_prompt(Request(TASK, 1, split)))


def test_a_prompt_without_a_case_is_refused() -> None:
    with pytest.raises(NotATrainingCase, match="without task, seed, split"):
        request_of([{"role": "user", "content": "hello"}])


def test_the_case_survives_a_dataset_and_no_template_prints_it(policy: tuple[Any, Any]) -> None:
    from datasets import Dataset

    request = Request(TASK, 12, "train")
    row = Dataset.from_list([{"prompt": case_prompt(request)}])[0]
    assert request_of(row["prompt"]) == request
    assert "seed" not in policy[1].apply_chat_template(row["prompt"], tokenize=False)


def test_reward_parts_and_the_batch_are_logged_beside_the_return(policy: tuple[Any, Any]) -> None:
    _, table = played(LocalDoor(FAMILY), policy)
    logged: dict[str, list[float]] = {}
    paid = episode_return(
        **{k: v for k, v in table.items() if k != "prompt_ids"},
        log_metric=lambda name, value: logged.setdefault(name, []).append(value),
    )
    assert paid == table["episode_return"]
    parts = sum(sum(values) for name, values in logged.items() if name.startswith("parts/"))
    assert parts == pytest.approx(sum(paid))
    assert logged["refusal_share"][0] > 0


def test_the_policys_training_mode_survives_a_rollout(policy: tuple[Any, Any]) -> None:
    model, _ = policy
    model.train()
    rollout = Rollout(LocalDoor(FAMILY), SETTINGS)
    rollout(group_prompts(1, 2), trainer_of(policy))
    assert model.training
    model.eval()


def test_the_own_server_is_gone_when_the_run_is(tmp_path: Path, server: str) -> None:
    with own_server(tmp_path / "server.log") as url:
        RemoteDoor(url, FAMILY).close()
    from env_server.client import ServerError

    with pytest.raises(ServerError, match="no server"):
        RemoteDoor(url, FAMILY)
    RemoteDoor(server, FAMILY).close()  # the other one is not disturbed


def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.own_server.free_port", lambda: 99_999)
    with (
        pytest.raises(ServerDidNotStart, match=r"server\.log"),
        own_server(tmp_path / "server.log"),
    ):
        pass


def test_generating_for_nobody_is_not_asked(policy: tuple[Any, Any]) -> None:
    generate = TransformersGenerate(*policy, max_new_tokens=4)
    assert generate([]) == []


def test_the_time_behind_the_door_is_told_apart_from_the_models(policy: tuple[Any, Any]) -> None:
    _, table = played(LocalDoor(FAMILY), policy)
    told = table["batch"][0]
    assert 0 < told["environment_s"] < told["rollout_s"]


def test_a_kept_cache_is_used_where_it_is_asked_for_and_keeps_the_rows_whole(
    policy: tuple[Any, Any],
) -> None:
    kept = RolloutSettings(limits=SETTINGS.limits, style="brief", keep_cache=True)
    with asking(trainer_of(policy), kept) as generate:
        assert type(generate).__name__ == "KeptCache"
    rollout, table = played(LocalDoor(FAMILY), policy, kept)
    assert rollout.report.lost == 0
    for row in range(12):
        size = len(table["completion_ids"][row])
        assert len(table["env_mask"][row]) == len(table["logprobs"][row]) == size
