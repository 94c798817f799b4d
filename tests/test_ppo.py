"""Stable-Baselines3 learns any task through the Gymnasium view, and its policies play in the table."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fakes import NumberLine

from env_server.contract import Family, UnknownTask
from eval import actor
from eval.agents import ppo as players
from eval.compare import compare
from eval.heldout import Patients, TrainedOnTest, refuse_overlap, trained_on
from eval.roster import NotReady, Options
from training import ppo, ppo_learner
from training.ppo import PpoConfig
from training.progress import Interrupted, lines
from training.run_folder import BadRun

LINE = cast(Family, NumberLine())


def config(folder: Path, **settings: Any) -> PpoConfig:
    small: dict[str, Any] = {
        "task": "near",
        "output": str(folder),
        "steps": 2_000,
        "environments": 8,
        "rollout": 64,
        "batch": 128,
        "hidden": (32,),
        "lr": 5e-3,
        "validation_patients": 40,
        "validate_every": 1_000,
    }
    return PpoConfig(**{**small, **settings})


def random_score(patients: int) -> float:
    rows = compare(LINE, ["near"], ["random"], episodes=patients, split="validation")
    assert rows[0].score is not None
    return rows[0].score


def validations(run: Path) -> list[float]:
    return [line["validation"] for line in lines(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ppo.train(config(tmp_path_factory.mktemp("ppo")), family=LINE)


@pytest.mark.slow
def test_maskable_ppo_learns_to_walk_to_the_mark(tmp_path: Path) -> None:
    longer = config(tmp_path, steps=20_000, hidden=(64, 64), entropy=0.003, validate_every=2_000)
    policy = actor.read(ppo.train(longer, family=LINE) / ppo.POLICY)
    fresh = range(1_000, 1_200)  # validation patients that did not choose the checkpoint

    score = ppo_learner.score_of(policy, LINE, "validation", fresh)

    assert score > random_score(200) + 0.05


def test_the_policy_that_is_kept_is_the_best_on_validation_patients(learned: Path) -> None:
    policy = actor.read(learned / ppo.POLICY)

    assert policy.about.masked and policy.about.score == max(validations(learned))


def test_a_run_leaves_its_curve_its_config_and_whom_it_has_seen(learned: Path) -> None:
    assert {"config.yaml", "seeds.json", "metrics.jsonl", "policy.safetensors",
            "checkpoint.zip", "learning_curve.png"} <= {p.name for p in learned.iterdir()}  # fmt: skip
    line = lines(learned / "metrics.jsonl")[-1]
    assert line["step"] >= 2_000 and line["refusal_share"] == 0.0
    assert trained_on(learned) == (Patients("number_line", "near", "train", 0, 1_000_000),)


def test_a_policy_is_refused_on_the_patients_it_was_trained_on(learned: Path) -> None:
    asked = [Patients("number_line", "near", "train", 5, 10)]

    with pytest.raises(TrainedOnTest):
        refuse_overlap("ppo", players.player(str(learned), "ppo", Options()).trained_on, asked)


@pytest.mark.parametrize("algo", ["maskable_ppo", "ppo", "dqn"])
def test_the_numbers_that_are_kept_play_as_the_learner_does(algo: Any, tmp_path: Path) -> None:
    settings = config(tmp_path, algo=algo, steps=600, validate_every=600, warmup=100)
    run = ppo.train(settings, family=LINE)
    model = ppo_learner.LEARNERS[algo].load(run / "checkpoint.zip")
    kept = ppo_learner.exported(model, settings, LINE, 0.0)
    encoding = LINE.encoding("near")

    for seed in range(30):
        seen = LINE.begin("near", seed, "validation").observe()
        features, mask = encoding.features(seen), encoding.mask(seen)
        extra = {"action_masks": mask} if algo == "maskable_ppo" else {}
        assert kept.choose(features, mask) == int(
            model.predict(features, deterministic=True, **extra)[0]
        )


def test_a_stopped_run_goes_on_from_its_checkpoint_to_its_last_step(tmp_path: Path) -> None:
    settings = config(tmp_path, steps=3_000, validate_every=500)
    run = tmp_path / "near"
    with pytest.raises(Interrupted, match="the same command goes on"):
        ppo.train(settings, family=LINE, asked=AfterSteps(run / "metrics.jsonl", 1_000))
    before = lines(run / "metrics.jsonl")
    assert 1_000 <= before[-1]["step"] < 3_000

    ppo.train(settings, family=LINE)

    after = lines(run / "metrics.jsonl")
    assert after[: len(before)] == before and after[-1]["step"] >= 3_000
    steps = [line["step"] for line in after]
    assert steps == sorted(set(steps))
    assert actor.read(run / ppo.POLICY).about.score == max(validations(run))


class AfterSteps(threading.Event):
    """A request to stop that is made once the run has noted so many steps."""

    def __init__(self, journal: Path, steps: int) -> None:
        super().__init__()
        self._journal, self._steps = journal, steps

    def is_set(self) -> bool:
        told = lines(self._journal)
        return bool(told) and bool(told[-1]["step"] >= self._steps)


def test_a_finished_run_is_left_as_it_is(learned: Path) -> None:
    before = (learned / ppo.POLICY).read_bytes()

    ppo.train(config(learned.parent), family=LINE)

    assert (learned / ppo.POLICY).read_bytes() == before


def test_another_setting_in_the_same_folder_is_refused(learned: Path) -> None:
    with pytest.raises(BadRun, match=r"lr = 0\.005"):
        ppo.train(config(learned.parent, lr=1e-4), family=LINE)


def test_a_broken_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    settings = config(tmp_path)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "checkpoint.zip").write_bytes(b"no archive")

    with pytest.raises(BadRun, match="delete"):
        ppo.train(settings, family=LINE)


# -- in the table -----------------------------------------------------------------------------------


def test_the_table_plays_a_folder_of_policies_and_says_how_to_make_what_is_missing(
    learned: Path,
) -> None:
    rows = compare(LINE, ["near", "far"], ["random", f"ppo=ppo:{learned.parent}"], episodes=40)
    near, far = (next(r for r in rows if r.agent == "ppo" and r.task == t) for t in ("near", "far"))

    assert near.score is not None and near.score > 0.6 and near.refusal_share == 0.0
    assert far.score is None and "python -m training.ppo" in far.note and "--task far" in far.note


def test_no_folder_is_not_ready_and_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"python -m training\.ppo"):
        players.player(str(tmp_path / "nothing"), "ppo", Options())


def test_a_file_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / ppo.POLICY).write_bytes(b"not a policy at all")

    with pytest.raises(actor.UnreadableActor, match=r"policy\.safetensors"):
        list(players.player(str(tmp_path), "ppo", Options()).play(LINE, "near", "test", [0]))


def test_a_policy_of_another_shape_is_refused(learned: Path) -> None:
    policy = actor.read(learned / ppo.POLICY)
    (weights, biases), *rest = policy.layers
    wider = np.pad(weights, ((0, 0), (0, 2)))

    with pytest.raises(actor.UnreadableActor, match="5 features"):
        actor.agent(actor.Actor(policy.about, ((wider, biases), *rest)), LINE)


# -- the command ------------------------------------------------------------------------------------


def test_the_command_trains_a_real_task_and_the_table_plays_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    flags = ["--task", "easy_screening", "--family", "polypharmacy", "--steps", "600", "--rollout", "32", "--output", str(output),
             "--validation-patients", "20", "--validate-every", "600"]  # fmt: skip

    assert ppo.main(flags) == 0
    assert capsys.readouterr().out.strip() == str(output / "easy_screening")

    (row,) = compare("polypharmacy", ["easy_screening"], [f"ppo:{output}"], episodes=10)
    assert row.score is not None and row.n == 10 and row.refusal_share == 0.0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--algo", "a2c"], "one of 'maskable_ppo', 'ppo', 'dqn'"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "many"], "expected int"),
        (["--lr", "-1"], "lr is -1"),
        (["--gamma", "2"], "between 0 and 1"),
        (["--hidden", "[0]"], "width"),
        (["--config", "configs/ppo/none.yaml"], "configs/ppo holds"),
        (["--family", "polypharmcy", "--output", "OUT"], "did you mean 'polypharmacy'"),
        (["--encoding", "slot", "--output", "OUT"], "slots"),
        (["--task", "revew_easy", "--output", "OUT"], "did you mean"),
        (["--output", "/dev/null/runs"], "choose another folder"),
    ],
)
def test_a_wrong_flag_is_an_error_that_names_it(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ppo.main([flag.replace("OUT", str(tmp_path)) for flag in flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said


def test_a_task_that_no_family_has_is_unknown() -> None:
    with pytest.raises(UnknownTask):
        ppo.train(PpoConfig(task="near"))


def test_every_preset_is_a_valid_config() -> None:
    from configs.loader import load

    presets = sorted(Path("configs/ppo").glob("*.yaml"))
    assert {p.stem for p in presets} == {"demo", "best", "target_medium"}
    assert all(load(p, PpoConfig).task for p in presets)
    assert json.dumps([load(p, PpoConfig).steps for p in presets])
