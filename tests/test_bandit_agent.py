"""The bandit that reviews lists learns from what it asked and did, and plays by what it believes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from env_server import registry
from eval import roster
from eval.heldout import Patients, TrainedOnTest, refuse_overlap, trained_on
from eval.pair_risk import Look, change_row, load, matrix, pair_row
from training import bandit
from training.pair_bandit import HEARD, PairBanditConfig, train
from training.progress import Interrupted

FAMILY = registry.get("polypharmacy")
TASK = "review_easy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("bandit")
    return train(PairBanditConfig(output=str(run), patients=200, validation=12, hidden=8, epochs=5))


def scores(spec: str, n: int = 40) -> list[float]:
    player = roster.find(spec, FAMILY)
    return [t.score for t in player.play(FAMILY, TASK, "validation", range(1000, 1000 + n))]


def test_two_hundred_patients_teach_it_to_beat_random_clearly(folder: Path) -> None:
    assert fmean(scores(f"bandit:{folder}")) > fmean(scores("random")) + 0.2


def test_the_same_patients_are_played_the_same_again(folder: Path) -> None:
    assert scores(f"bandit:{folder}", 5) == scores(f"bandit:{folder}", 5)


def test_training_again_from_the_same_seed_gives_the_same_bandit(
    folder: Path, tmp_path: Path
) -> None:
    knobs: dict[str, Any] = {"patients": 30, "validation": 3, "hidden": 4, "epochs": 1}
    runs = [train(PairBanditConfig(output=str(tmp_path / name), **knobs)) for name in "ab"]
    assert same(*runs)


def same(one: Path, other: Path) -> bool:
    names = ("model.json", "risk.safetensors", "gain.safetensors", "metrics.jsonl", "seeds.json")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


class After(threading.Event):
    """A request to stop that is made once so much was told."""

    def __init__(self, stage: str, done: int) -> None:
        super().__init__()
        self._at = stage, done

    def progress(self, stage: str, done: int, of: int, figures: Any) -> None:
        if (stage, done) == self._at:
            self.set()


@pytest.mark.parametrize("at", [("play", 1), ("play", 15), ("play", 23), ("settle", 4)])
def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(
    at: tuple[str, int], tmp_path: Path
) -> None:
    knobs: dict[str, Any] = {"patients": 30, "validation": 3, "hidden": 4, "epochs": 1}
    whole = train(PairBanditConfig(output=str(tmp_path / "whole"), **knobs))
    config, stop = PairBanditConfig(output=str(tmp_path / "parts"), **knobs), After(*at)
    with pytest.raises(Interrupted, match="the same command goes on"):
        train(config, stop.progress, stop)

    assert same(train(config), whole)


def test_a_journal_cut_short_costs_the_patient_it_was_cut_in(tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"patients": 30, "validation": 3, "hidden": 4, "epochs": 1}
    whole = train(PairBanditConfig(output=str(tmp_path / "whole"), **knobs))
    config, stop = PairBanditConfig(output=str(tmp_path / "parts"), **knobs), After("play", 20)
    with pytest.raises(Interrupted):
        train(config, stop.progress, stop)
    journal = tmp_path / "parts" / HEARD
    journal.write_bytes(journal.read_bytes()[:-40])

    assert same(train(config), whole)
    assert not journal.exists()


def test_it_is_never_measured_on_a_patient_it_learned_from(folder: Path) -> None:
    learned = trained_on(folder)
    assert Patients("polypharmacy", TASK, "train", 0, 200) in learned
    with pytest.raises(TrainedOnTest):
        refuse_overlap("bandit", learned, [Patients("polypharmacy", TASK, "validation", 0, 5)])
    refuse_overlap("bandit", learned, [Patients("polypharmacy", TASK, "test", 0, 500)])


def test_only_what_was_asked_in_training_was_heard(folder: Path) -> None:
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert told[-1]["patients"] == 200
    assert len(load(folder).heard) == told[-1]["pairs"] <= told[-1]["queries"]


def test_what_it_looks_at_is_only_what_is_shown(folder: Path) -> None:
    episode = FAMILY.begin(TASK, 3, "validation")
    seen = json.loads(json.dumps(episode.observe().to_json()))
    look = Look.at(seen, load(folder))
    told = {
        "target_drug_id": seen["current_medications"][0]["drug_id"],
        "intervention_type": "stop",
    }
    row = change_row(look, told, load(folder))
    assert all(name.startswith("stop|") for name in row)
    assert row["stop|asked"] == 0


def test_a_feature_that_was_never_met_weighs_nothing() -> None:
    assert matrix([{"a": 1.0, "never": 5.0}], {"a": 0}).toarray().tolist() == [[1.0]]


def test_a_pair_looks_the_same_from_both_sides() -> None:
    drugs = FAMILY.begin(TASK, 3, "validation").observe().to_json()["current_medications"]
    assert pair_row(drugs[0], drugs[1]) == pair_row(drugs[1], drugs[0])


def test_the_terms_of_a_pair_are_always_summed_in_the_same_order() -> None:
    drug: dict[str, Any] = {
        "drug_id": "d",
        "drug_class": "c",
        "group": "g",
        "is_high_risk_elderly": 0,
    }
    drug["effects"] = ["sedating", "falls", "qt", "bleeding", "acb"]
    shared = [name for name in pair_row(drug, drug) if name.startswith("shared:")]
    assert shared == sorted(shared) and len(shared) == 5


def test_a_missing_bandit_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(roster.NotReady, match=r"python -m training\.bandit --environment"):
        roster.find(f"bandit:{tmp_path}", FAMILY)


def test_the_command_trains_the_agent_of_the_environment(tmp_path: Path, capsys: Any) -> None:
    asked = ["--environment", "polypharmacy", "--task", "easy_screening", "--patients", "20"]
    asked += ["--validation", "2", "--hidden", "4", "--epochs", "1", "--output", str(tmp_path)]
    config = Path(__file__).parents[1] / "configs" / "bandit" / "polypharmacy.yaml"
    assert bandit.main([*asked, "--config", str(config)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"environment": "hub"}, "only polypharmacy"),
        ({"patients": 0}, "patients is 0"),
        ({"explore": 2.0}, "explore is 2.0"),
    ],
)
def test_what_cannot_be_trained_is_refused(knobs: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PairBanditConfig(**knobs)
