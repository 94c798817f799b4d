"""The curriculum spends its draws where groups still teach, and a resumed run draws the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from env_server.seeds import Stream  # noqa: E402
from training.curriculum import (  # noqa: E402
    FLOOR,
    TARGET,
    Curriculum,
    Group,
    KeepsCurriculum,
    groups_of,
)

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = pytest.mark.slow
TASKS = ("mastered", "hopeless", "ripe")
TEACHES = {"mastered": 0.3, "hopeless": 0.1, "ripe": 0.95}


def batch(curriculum: Curriculum, start: int, size: int = 8) -> list[Group]:
    """A batch as such a policy would play it: each task's groups teach as often as TEACHES says."""
    drawn = [curriculum.request(slot) for slot in range(start, start + size)]
    chance = Stream("test", start)
    return [Group(r.task, chance.chance(TEACHES[r.task]), 0.5) for r in drawn]


def trained(steps: int) -> tuple[Curriculum, list[Group]]:
    curriculum, seen = Curriculum(TASKS, seed=3), []
    for step in range(steps):
        groups = batch(curriculum, step * 8)
        curriculum.learn(groups)
        seen += groups
    return curriculum, seen


def test_most_groups_come_to_teach_although_most_tasks_do_not() -> None:
    curriculum, seen = trained(60)
    late = seen[-240:]
    assert sum(g.teaches for g in seen[:16]) / 16 < TARGET
    assert sum(g.teaches for g in late) / len(late) >= TARGET
    weights = curriculum.weights()
    assert max(weights, key=weights.__getitem__) == "ripe"


def test_no_task_is_given_up() -> None:
    curriculum, seen = trained(60)
    assert min(curriculum.weights().values()) >= FLOOR / (1 + 2 * FLOOR) - 1e-9
    assert set(Counter(g.task for g in seen[-240:])) == set(TASKS)


def test_a_task_that_begins_to_teach_is_drawn_again() -> None:
    curriculum, _ = trained(40)
    before = curriculum.weights()["hopeless"]
    for _ in range(20):
        curriculum.learn([Group("hopeless", True, 0.4), Group("ripe", True, 0.6)])
    assert curriculum.weights()["hopeless"] > 2 * before


def test_where_all_groups_teach_tasks_are_drawn_alike() -> None:
    curriculum = Curriculum(TASKS)
    for _ in range(20):
        curriculum.learn([Group(task, True, 0.5) for task in TASKS])
    assert curriculum.steep == 1.0
    assert max(curriculum.weights().values()) == pytest.approx(1 / 3)


def test_a_slot_is_one_patient_and_no_two_slots_share_one() -> None:
    curriculum = Curriculum(TASKS, seed=1, seed_from=100)
    drawn = [curriculum.request(slot) for slot in range(50)]
    assert drawn == [curriculum.request(slot) for slot in range(50)]
    assert [r.seed for r in drawn] == list(range(100, 150))
    assert {r.split for r in drawn} == {"train"}


def test_groups_are_told_apart_by_patient_in_whatever_order_attempts_come() -> None:
    attempts = [("a", 1, 0.5, 0.2), ("a", 2, 0.5, 1.0), ("a", 1, 0.7, 0.4), ("a", 2, 0.5, 1.0)]
    first, second = groups_of(reversed(attempts))
    assert (first.teaches, first.solved) == (True, pytest.approx(0.3))
    assert (second.teaches, second.solved) == (False, 1.0)


def test_a_checkpoint_keeps_the_curriculum(tmp_path: Path) -> None:
    curriculum, _ = trained(7)
    state = {"stateful_callbacks": {"KeepsCurriculum": KeepsCurriculum(curriculum).state()}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    again = Curriculum(TASKS, seed=3)
    KeepsCurriculum(again).restore(tmp_path)
    assert again == curriculum


def steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("default")
def test_a_run_with_a_curriculum_resumes_to_the_same_weights(tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    from training.grpo import main
    from training.sft import SftConfig
    from training.sft import train as warm_start

    tasks = ["review_easy", "easy_screening"]
    start = warm_start(
        SftConfig(output=str(tmp_path / "sft"), tasks=tasks, episodes=60, steps=8, device="cpu")
    )
    run = tmp_path / "run"
    flags = ["--model", str(start), "--output", str(run), "--tasks", *tasks, "--curriculum", "true"]
    flags += ["--answer_tokens", "8", "--context_tokens", "1500", "--preflight_groups", "0"]
    flags += ["--per_device_train_batch_size", "8", "--num_generations", "4", "--max_steps", "3"]
    flags += ["--save_steps", "1", "--save_total_limit", "5", "--validation_patients", "0"]
    flags += ["--in_process", "true", "--learning_rate", "1e-3"]
    assert main(flags) == 0
    once = load_file(run / "checkpoints" / "checkpoint-3" / "model.safetensors")
    told = steps(run)
    assert sum(told[-1][f"curriculum/{task}/share"] for task in tasks) == pytest.approx(1.0)
    for gone in ("model", "best", "checkpoints/checkpoint-3", "checkpoints/checkpoint-2"):
        shutil.rmtree(run / gone)
    assert main(flags) == 0
    again = load_file(run / "checkpoints" / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(once[name], again[name]) for name in once)
    shares = [[line[f"curriculum/{task}/share"] for task in tasks] for line in told]
    assert [[line[f"curriculum/{t}/share"] for t in tasks] for line in steps(run)] == shares
