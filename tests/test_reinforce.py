"""REINFORCE: the mask holds, a killed run ends as if never killed, and what was learned can be played."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import NumberLine
from safetensors.torch import load_file, save_file

from configs.loader import ConfigError, load
from env_server import registry
from env_server.contract import UnknownTask
from eval import policy_net
from eval.agents import reinforce as kind
from eval.compare import compare
from eval.heldout import TrainedOnTest, trained_on
from eval.policy_net import NoLayout, UnreadablePolicy
from eval.roster import NotReady, Options
from training import imitation, reinforce
from training.classical_rollout import Patients, greedy, roll, sample, to_go
from training.progress import Interrupted
from training.reinforce import train_on
from training.reinforce_learner import Learner
from training.reinforce_settings import ReinforceConfig
from training.run_folder import BadRun

LINE = NumberLine()
REVIEWS = registry.get("polypharmacy")
ROOT = Path(__file__).resolve().parents[1]


def short(output: Path, **knobs: object) -> ReinforceConfig:
    """A run of a second on the line."""
    chosen = ReinforceConfig(
        task="near",
        family="number_line",
        output=str(output),
        hidden_dim=32,
        episodes=80,
        batch_size=8,
        lr=3e-3,
        validate_every=4,
        validation_patients=20,
        save_every=3,
    )
    return replace(chosen, **knobs)  # type: ignore[arg-type]


def untimed(path: Path) -> list[dict[str, object]]:
    notes = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    return [{k: v for k, v in note.items() if k != "seconds"} for note in notes]


# -- playing ------------------------------------------------------------------------------------


def test_reward_to_go_is_discounted_from_the_end():
    rewards_TE = np.array([[1.0, 8.0], [2.0, 0.0], [4.0, 0.0]])
    assert to_go(rewards_TE, 0.5).tolist() == [[3.0, 8.0], [4.0, 0.0], [4.0, 0.0]]
    assert to_go(np.zeros((0, 2)), 0.9).shape == (0, 2)


@pytest.mark.parametrize("task", ["easy_screening", "review_budgeted"])
@pytest.mark.parametrize("network", ["mlp", "places"])
def test_sampled_play_stays_within_the_mask(task: str, network: str) -> None:
    config = ReinforceConfig(task=task, encoding="drugs", network=network, hidden_dim=16)  # type: ignore[arg-type]
    learner = Learner(config, REVIEWS)
    episodes = Patients(REVIEWS, task, "train").batch(0, 4, 2)

    batch = roll(learner.policy, learner.encoding, episodes, sample(learner.generator))

    assert batch.mask_NA.gather(1, batch.actions_N[:, None]).all()
    assert all(not episode.refusals for episode in episodes)  # type: ignore[attr-defined]
    assert batch.steps == sum(episode.steps for episode in episodes)
    assert len(batch.scores_E) == 8


def test_a_batch_plays_as_its_episodes_alone_do() -> None:
    learner = Learner(ReinforceConfig(task="review_easy", encoding="seed16"), REVIEWS)
    patients = Patients(REVIEWS, "review_easy", "train")
    together = roll(learner.policy, learner.encoding, patients.batch(0, 6, 1), greedy)
    alone = [
        roll(learner.policy, learner.encoding, patients.batch(seed, 1, 1), greedy)
        for seed in range(6)
    ]

    assert torch.cat([one.actions_N for one in alone]).tolist() == together.actions_N.tolist()
    assert [one.scores_E[0] for one in alone] == together.scores_E


def test_attempts_share_a_patient_and_nothing_else() -> None:
    first, second, other = Patients(REVIEWS, "easy_screening", "train").batch(5, 2, 2)[:3]
    first.step(first.legal_actions()[0])

    assert (first.seed, second.seed, other.seed) == (5, 5, 6)
    assert (first.steps, second.steps) == (1, 0)


# -- networks -----------------------------------------------------------------------------------


def test_the_network_of_places_follows_a_drug_to_another_place() -> None:
    """Swapping two rows of the list, with their pairs, swaps their actions and nothing else."""
    encoding = REVIEWS.encoding("review_complex", "drugs")
    layout = encoding.layout  # type: ignore[attr-defined]
    shape = policy_net.Shape("polypharmacy", "review_complex", "drugs", "places", 16, 685, 166)
    net = policy_net.build(shape, encoding)
    features = encoding.features(REVIEWS.begin("review_complex", 3, "validation").observe())
    order = [1, 0, *range(2, 15)]
    swapped = features.copy()
    end = layout.head + layout.places * layout.width
    rows = features[layout.head : end].reshape(15, -1)
    swapped[layout.head : end] = rows[order].ravel()
    at = {pair: i for i, pair in enumerate(layout.pairs)}
    pairs = [at[tuple(sorted((order[a], order[b])))] for a, b in layout.pairs]

    with torch.no_grad():
        plain = net(torch.from_numpy(features)[None])[0][0].numpy()
        moved = net(torch.from_numpy(swapped)[None])[0][0].numpy()

    changes = plain[105:165].reshape(15, 4)[order].ravel()
    expected = np.concatenate((plain[:105][pairs], changes, plain[165:]))
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_the_network_of_places_says_which_encoding_it_needs(tmp_path: Path) -> None:
    with pytest.raises(NoLayout, match="take network mlp"):
        train_on(LINE, short(tmp_path, network="places"))


# -- learning -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_to_review_a_short_list(tmp_path: Path) -> None:
    config = ReinforceConfig(
        task="easy_screening",
        output=str(tmp_path),
        encoding="seed16",
        hidden_dim=64,
        episodes=1000,
        batch_size=50,
        lr=5e-3,
        validate_every=10,
        validation_patients=60,
    )
    run = train_on(REVIEWS, config)

    scores = [n["score"] for n in untimed(run / "metrics.jsonl") if n["stage"] == "validation"]
    assert scores[-1] > scores[0] + 0.1  # type: ignore[operator]
    assert (run / "curve.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_run_killed_and_resumed_ends_as_if_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_on(LINE, short(tmp_path / "whole", imitate=("heuristic",), imitate_patients=20))
    learned, killed_at = Learner.learn, 7

    def dies(self: Learner, batch: object, progress: float, acting: bool) -> object:
        if progress >= killed_at / 10:
            raise SystemExit("killed")  # between two checkpoints: update 6 was the last one kept
        return learned(self, batch, progress, acting)  # type: ignore[arg-type]

    config = short(tmp_path / "killed", imitate=("heuristic",), imitate_patients=20)
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", dies)
        with pytest.raises(SystemExit):
            train_on(LINE, config)
    killed = train_on(LINE, config)

    for name in ("checkpoint", "policy", "last"):
        ours, theirs = (load_file(run / f"{name}.safetensors") for run in (killed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert untimed(killed / "metrics.jsonl") == untimed(whole / "metrics.jsonl")


def test_teaching_the_baseline_first_leaves_the_policy_alone(tmp_path: Path) -> None:
    learner = Learner(short(tmp_path), LINE)
    policy, value = (
        [w.clone() for w in module.parameters()] for module in learner.modules.values()
    )
    episodes = Patients(LINE, "near", "train").batch(0, 8, 1)
    batch = roll(learner.policy, learner.encoding, episodes, sample(learner.generator))

    learner.learn(batch, 0.0, acting=False)

    assert all(map(torch.equal, policy, learner.policy.parameters()))
    assert not all(map(torch.equal, value, learner.value.parameters()))


def test_ctrl_c_keeps_what_was_reached(tmp_path: Path) -> None:
    config = short(tmp_path, episodes=800)
    import signal

    def interrupt(stage: str, done: int, of: int, figures: object) -> None:
        if done == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="update 5 of 100"):
        train_on(LINE, config, interrupt)
    assert (tmp_path / "near" / "checkpoint.safetensors").is_file()


def test_another_config_does_not_go_into_the_same_folder(tmp_path: Path) -> None:
    train_on(LINE, short(tmp_path))
    with pytest.raises(BadRun, match=r"lr = 0\.003"):
        train_on(LINE, short(tmp_path, lr=0.1))


def test_a_lesson_says_a_named_substitute_as_a_substitute() -> None:
    encoding = REVIEWS.encoding("review_easy", "drugs")
    lesson = imitation.collect(
        REVIEWS, "review_easy", encoding, ("reference",), range(40), lambda *_: None
    )
    substitutions = [i for i in lesson.actions_N.tolist() if 105 <= i < 165 and (i - 105) % 4 == 2]

    assert substitutions
    assert lesson.mask_NA.gather(1, lesson.actions_N[:, None]).all()


def test_a_run_notes_the_train_patients_it_plays(tmp_path: Path) -> None:
    config = short(tmp_path, seed_from=7, imitate=("heuristic",), imitate_patients=30)
    run = train_on(LINE, config)
    (seen,) = trained_on(run)

    assert (seen.split, seen.seed_from, seen.seed_to) == ("train", 7, 7 + 30 + 80)


# -- in the table -------------------------------------------------------------------------------


def test_what_was_trained_plays_in_the_table_and_the_rest_says_how(tmp_path: Path) -> None:
    train_on(LINE, short(tmp_path))
    rows = compare(
        LINE, ["near", "far"], ["heuristic", f"learned=reinforce:{tmp_path}"], episodes=5
    )
    by_task = {row.task: row for row in rows if row.agent == "learned"}

    assert by_task["near"].n == 5 and not by_task["near"].note
    assert by_task["far"].score is None
    assert "python -m training.reinforce --preset best --task far" in by_task["far"].note


def test_a_policy_is_not_measured_on_its_own_train_patients(tmp_path: Path) -> None:
    train_on(LINE, short(tmp_path))
    with pytest.raises(TrainedOnTest, match="seeds 0 to 79"):
        compare(LINE, ["near"], [f"reinforce:{tmp_path}"], episodes=5, split="train")


def test_the_table_repeats_what_validation_measured(tmp_path: Path) -> None:
    run = train_on(LINE, short(tmp_path))
    told = policy_net.about(run / "policy.safetensors")
    player = kind.player(str(run), "p", Options())
    played = list(player.play(LINE, "near", "validation", range(20)))

    assert np.mean([t.score for t in played]) == pytest.approx(told["validation_score"])


def test_a_folder_without_a_policy_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"training\.reinforce --preset best"):
        kind.player(str(tmp_path), "p", Options())


def test_a_file_that_is_no_policy_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "policy.safetensors")
    with pytest.raises(UnreadablePolicy, match=r"policy\.safetensors holds no policy of ours"):
        policy_net.read(tmp_path / "policy.safetensors", LINE)


def test_a_policy_for_other_features_is_refused(tmp_path: Path) -> None:
    run = train_on(LINE, short(tmp_path))

    class Longer(type(LINE.encoding("near"))):  # type: ignore[misc]
        pass

    class Line(NumberLine):
        def encoding(self, task: str, name: str = "default") -> Longer:
            return Longer(size=4)

    with pytest.raises(UnreadablePolicy, match="3 features"):
        policy_net.read(run / "policy.safetensors", Line())


# -- presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "reinforce").glob("*.yaml")), ids=str)
def test_a_preset_is_a_valid_config(path: Path) -> None:
    config = load(path, ReinforceConfig)
    assert path.stem.partition(".")[2] in ("", config.task)
    task = "easy_screening" if config.family == REVIEWS.name else config.task
    Learner(replace(config, task=task), registry.get(config.family))


def test_a_task_of_another_family_is_found_by_its_name() -> None:
    (run,) = reinforce.runs_of(asked(task="target_medium"))
    assert (run.family, run.encoding) == ("drug_target", "readings")


def test_the_seed_preset_is_what_the_source_documents_trained() -> None:
    config = load(ROOT / "configs" / "reinforce" / "seed.yaml", ReinforceConfig)
    learner = Learner(config, REVIEWS)
    shapes = [tuple(w.shape) for w in learner.policy.parameters() if w.ndim == 2]
    baseline = [tuple(w.shape) for w in learner.value.parameters() if w.ndim == 2]

    assert shapes == [(128, 16), (128, 128), (166, 128)]
    assert baseline == [(128, 16), (64, 128), (1, 64)]
    assert (config.lr, config.gamma, config.entropy_coeff) == (3e-4, 0.99, 0.02)
    assert (config.episodes, config.batch_size, config.print_every) == (200, 5, 10)


def asked(**given: str) -> argparse.Namespace:
    flags = dict.fromkeys(f.name for f in fields(ReinforceConfig))
    return argparse.Namespace(**{**flags, "preset": "best", "config": "", **given})


def test_all_means_every_task_and_an_unknown_one_stops_before_the_first() -> None:
    assert [c.task for c in reinforce.runs_of(asked(task="all"))] == list(REVIEWS.tasks)
    with pytest.raises(UnknownTask, match="did you mean 'review_easy'"):
        reinforce.runs_of(asked(task="easy_screening,review_eazy"))


def test_a_task_with_a_preset_of_its_own_gets_it_and_flags_win() -> None:
    review, seed = reinforce.runs_of(asked(task="review_easy,easy_screening", lr="0.5"))

    assert review.imitate == ("reference",) and seed.imitate == ()
    assert review.lr == seed.lr == 0.5
    assert review.output == seed.output == "runs/reinforce"


def test_a_wrong_knob_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="multiple of attempts"):
        ReinforceConfig(task="near", batch_size=5, attempts=2)
    assert reinforce.main(["--preset", "seed", "--network", "transformer"]) == 2
    assert "'mlp', 'places'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_grad_norm is 0"):
        ReinforceConfig(task="near", max_grad_norm=0.0)
    with pytest.raises(ValueError, match="seed_from is -5"):
        ReinforceConfig(task="near", seed_from=-5)
    path = tmp_path / "wrong.yaml"
    path.write_text("task: near\ngamma: 2\n")
    with pytest.raises(ConfigError, match="gamma is 2"):
        load(path, ReinforceConfig)


def test_a_run_that_was_refused_before_it_began_leaves_its_folder_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--preset", "seed", "--task", "easy_screening", "--output", str(tmp_path)]
    for wrong in (["--encoding", "nope"], ["--imitate", "[nope]", "--validation-patients", "2"]):
        assert reinforce.main([*command, *wrong]) == 2
        assert "nope" in capsys.readouterr().err
        assert list((tmp_path / "easy_screening").iterdir()) == []
    small = ["--episodes", "5", "--validation-patients", "2"]
    assert reinforce.main([*command, *small]) == 0  # the same folder, corrected
    assert reinforce.main([*command, *small, "--lr", "0.5"]) == 2  # a run that has begun keeps it
    assert "lr = " in capsys.readouterr().err
