"""Stable-Baselines3 learns any task through the Gymnasium view, and its policies play in the table."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fakes import NumberLine

from env_server import registry
from env_server.contract import Family, UnknownTask
from eval import actor
from eval.agents import ppo as players
from eval.compare import compare
from eval.heldout import Patients, TrainedOnTest, refuse_overlap, trained_on
from eval.roster import NotReady, Options
from training import flags, ppo, ppo_kept, ppo_learner
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
    return [n["validation"] for n in lines(run / "metrics.jsonl") if "validation" in n]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ppo.train(config(tmp_path_factory.mktemp("ppo")), family=LINE)


@pytest.mark.slow
def test_maskable_ppo_learns_to_walk_to_the_mark(tmp_path: Path) -> None:
    longer = config(tmp_path, steps=20_000, hidden=(64, 64), entropy=0.003, validate_every=2_000)
    policy = actor.read(ppo.train(longer, family=LINE) / ppo.POLICY)
    fresh = range(1_000, 1_200)  # validation patients that did not choose the checkpoint

    score = ppo_kept.score_of(policy, LINE, "validation", fresh)

    assert score > random_score(200) + 0.05


@pytest.mark.slow
def test_the_policy_that_is_kept_is_the_best_on_validation_patients(learned: Path) -> None:
    policy = actor.read(learned / ppo.POLICY)

    assert policy.about.masked and policy.about.score == max(validations(learned))


@pytest.mark.slow
def test_a_run_leaves_its_curve_its_config_and_whom_it_has_seen(learned: Path) -> None:
    assert {"config.yaml", "seeds.json", "metrics.jsonl", "policy.safetensors",
            "checkpoint.zip", "learning_curve.png"} <= {p.name for p in learned.iterdir()}  # fmt: skip
    line = lines(learned / "metrics.jsonl")[-1]
    assert line["step"] >= 2_000 and line["refusal_share"] == 0.0
    assert trained_on(learned) == (Patients("number_line", "near", "train", 0, 1_000_000),)


@pytest.mark.slow
def test_a_policy_is_refused_on_the_patients_it_was_trained_on(learned: Path) -> None:
    asked = [Patients("number_line", "near", "train", 5, 10)]

    with pytest.raises(TrainedOnTest):
        refuse_overlap("ppo", players.player(str(learned), "ppo", Options()).trained_on, asked)


@pytest.mark.parametrize(
    "algo",
    ["maskable_ppo", *(pytest.param(a, marks=pytest.mark.slow) for a in ("ppo", "dqn"))],
)
def test_the_numbers_that_are_kept_play_as_the_learner_does(algo: Any, tmp_path: Path) -> None:
    settings = config(tmp_path, algo=algo, steps=600, validate_every=600, warmup=100)
    run = ppo.train(settings, family=LINE)
    model = ppo_learner.LEARNERS[algo].load(run / "checkpoint.zip")
    kept = ppo_kept.exported(model, settings, LINE, 0.0)
    encoding = LINE.encoding("near")

    for seed in range(30):
        seen = LINE.begin("near", seed, "validation").observe()
        features, mask = encoding.features(seen), encoding.mask(seen)
        extra = {"action_masks": mask} if algo == "maskable_ppo" else {}
        assert kept.choose(features, mask) == int(
            model.predict(features, deterministic=True, **extra)[0]
        )


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(learned: Path) -> None:
    before = (learned / ppo.POLICY).read_bytes()

    ppo.train(config(learned.parent), family=LINE)

    assert (learned / ppo.POLICY).read_bytes() == before


@pytest.mark.slow
def test_another_setting_in_the_same_folder_is_refused(learned: Path) -> None:
    with pytest.raises(BadRun, match=r"lr = 0\.005"):
        ppo.train(config(learned.parent, lr=1e-4), family=LINE)


def test_a_broken_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    settings = config(tmp_path)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "checkpoint.zip").write_bytes(b"no archive")

    with pytest.raises(BadRun, match="delete"):
        ppo.train(settings, family=LINE)


# -- the network of places, and imitation -----------------------------------------------------------

REVIEWS = registry.get("polypharmacy")


def reviews(folder: Path, **settings: Any) -> PpoConfig:
    """A run of seconds on easy_screening, taught by the reference first."""
    small: dict[str, Any] = {
        "task": "easy_screening",
        "output": str(folder),
        "encoding": "drugs",
        "network": "places",
        "hidden": (16,),
        "imitate": ("reference",),
        "imitate_patients": 60,
        "imitate_epochs": 2,
        "steps": 1_024,
        "environments": 8,
        "rollout": 32,
        "attempts": 2,
        "critic_first": 256,
        "validation_patients": 10,
        "validate_every": 512,
    }
    return PpoConfig(**{**small, **settings})


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ppo.train(reviews(tmp_path_factory.mktemp("places")))


@pytest.mark.slow
def test_the_network_of_places_is_kept_and_plays_in_the_table_as_it_did_in_training(
    taught: Path,
) -> None:
    agents = ["random", f"ppo=ppo:{taught.parent}"]
    rows = compare(REVIEWS, ["easy_screening"], agents, episodes=10, split="validation")

    played = next(row.score for row in rows if row.agent == "ppo")
    assert played == pytest.approx(max(validations(taught)))


@pytest.mark.slow
def test_the_lesson_comes_first_and_is_noted(taught: Path) -> None:
    first = lines(taught / "metrics.jsonl")[0]
    assert first["stage"] == "imitate" and first["positions"] > 100 and first["loss"] < 3


@pytest.mark.slow
def test_the_policy_stays_as_it_was_taught_while_the_critic_is_ignorant(tmp_path: Path) -> None:
    run = ppo.train(reviews(tmp_path, steps=512, critic_first=512, validate_every=256))
    looks = validations(run)
    assert len(looks) == 3 and len(set(looks)) == 1


@pytest.mark.slow
def test_a_stopped_run_of_places_goes_on(tmp_path: Path) -> None:
    settings, run = reviews(tmp_path, validate_every=256), tmp_path / "easy_screening"
    with pytest.raises(Interrupted, match="the same command goes on"):
        ppo.train(settings, asked=AfterSteps(run / "metrics.jsonl", 500))
    before = lines(run / "metrics.jsonl")

    ppo.train(settings)

    after = lines(run / "metrics.jsonl")
    assert after[: len(before)] == before and after[-1]["step"] >= 1_024


@pytest.mark.slow
def test_plain_layers_can_imitate_too(tmp_path: Path) -> None:
    settings = reviews(tmp_path, network="mlp", hidden=(32,), critic_first=0, steps=256)
    untaught = replace(settings, output=str(tmp_path / "untaught"), imitate=())

    assert validations(ppo.train(settings))[0] != validations(ppo.train(untaught))[0]


# -- in the table -----------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_policy_of_another_shape_is_refused(learned: Path) -> None:
    policy = actor.read(learned / ppo.POLICY)
    (weights, biases), *rest = policy.layers
    wider = np.pad(weights, ((0, 0), (0, 2)))

    with pytest.raises(actor.UnreadableActor, match="5 features"):
        actor.agent(actor.Actor(policy.about, ((wider, biases), *rest)), LINE)


# -- the command ------------------------------------------------------------------------------------


@pytest.mark.slow
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
        (["--network", "places"], "one width"),
        (["--network", "places", "--algo", "dqn"], "maskable_ppo alone"),
        (["--critic-first", "100"], "network to places"),
        (["--imitate", "[heuristic]", "--algo", "dqn"], "leave imitate empty"),
        (["--attempts", "0"], "attempts is 0"),
        (["--preset", "best", "--task", "revew_easy", "--output", "OUT"], "did you mean"),
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
    assert {"demo", "best", "target_medium"} <= {p.stem for p in presets}
    for path in presets:
        preset, _, task = path.stem.partition(".")
        assert load(path, PpoConfig).task == (task or load(path, PpoConfig).task), preset


def test_a_preset_takes_the_file_of_its_task_where_there_is_one() -> None:
    def chosen(*flags_given: str) -> str:
        parser = flags.parser(PpoConfig, "", "", config="")
        parser.add_argument("--preset")
        asked = parser.parse_args(["--preset", "best", *flags_given])
        ppo.asked_for(asked)
        return str(asked.config)

    assert chosen("--task", "review_easy") == "configs/ppo/best.review_easy.yaml"
    assert chosen("--task", "easy_screening") == "configs/ppo/best.yaml"
    assert chosen() == "configs/ppo/best.yaml"
