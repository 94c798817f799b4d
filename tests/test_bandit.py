"""The search asks what it may, learns what is there, resumes to the bit, and says what is wrong."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import neural_ts
from eval.screening import UnknownDrug, open_screen
from training import bandit
from training.bandit import BanditConfig, train
from training.combinations import Combinations, Recipe, generate
from training.flagging import Asked, expected_precision, judged, probability_of
from training.optim_neural_ts import OptimNeuralTS, Search, standing_out
from training.plain_screens import marginal, remembered, ridge_line, ridge_search
from training.progress import Interrupted, lines

SMALL = Recipe("paper", "protective", 2000, 120, 6, seed=3)


@pytest.fixture(scope="module")
def data() -> Combinations:
    return generate(SMALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, where sets are kept too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(output: Path, **knobs: Any) -> BanditConfig:
    chosen: dict[str, Any] = {
        "background": "protective",
        "combinations": 2000,
        "drugs": 120,
        "patterns": 6,
        "set_seed": 3,
        "warmup": 200,
        "evaluations": 500,
        "hidden": 8,
        "lam": 100.0,
        "over": "pool",
        "refresh": True,
        "noise_scaled": True,
        "repeats": False,
        "rows_a_step": 50,
        "retrain_every": 1,
        "epochs": 3,
        "leg": True,
        "pairs": 20,
        "skip_sure": True,
        "remember": True,
        "precision": 0.95,
        "report_every": 100,
    }
    return BanditConfig(str(output), **(chosen | knobs))


def test_a_search_finds_more_than_asking_at_random(data: Combinations, here: Path) -> None:
    line = train(small(here / "run"))
    flags, asked = remembered(data, 500, np.random.default_rng(0))
    assert line["recall"] > 1.3 * judged(data, flags, asked)["recall"]
    assert line["precision"] > 0.9
    assert line["never_asked"] > 0


@pytest.mark.parametrize("knobs", [{}, {"cap": 1.3, "bold": True}])
def test_what_was_stopped_goes_on_to_the_same_bits(here: Path, knobs: Any) -> None:
    whole, halves = small(here / "whole", **knobs), small(here / "halves", **knobs)
    train(whole)
    stop = threading.Event()
    with pytest.raises(Interrupted, match="goes on from there"):
        train(halves, lambda *_: stop.set(), stop)
    assert len(lines(here / "halves" / "metrics.jsonl")) == 1
    train(halves)
    assert (here / "whole" / bandit.MODEL).read_bytes() == (
        here / "halves" / bandit.MODEL
    ).read_bytes()
    told = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in lines(run)]
        for run in (here / "whole" / "metrics.jsonl", here / "halves" / "metrics.jsonl")
    ]
    assert told[0] == told[1]


def test_a_search_by_evolution_resumes_to_the_same_bits(here: Path) -> None:
    knobs = {"over": "evolution", "rows_a_step": 1, "retrain_every": 5, "warmup": 60}
    knobs |= {"evaluations": 80, "repeats": True, "leg": False, "pairs": 0, "refresh": False}
    knobs |= {"precision": None, "remember": False, "ensemble_every": 5, "report_every": 10}
    whole, halves = small(here / "whole", **knobs), small(here / "halves", **knobs)
    train(whole)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        train(halves, lambda *_: stop.set(), stop)
    train(halves)
    kept = [(here / run / "state.safetensors").read_bytes() for run in ("whole", "halves")]
    assert kept[0] == kept[1]


def test_another_config_in_the_same_folder_is_refused(here: Path) -> None:
    run = small(here / "run", evaluations=200)
    train(run)
    code = bandit.main(["--config", str(_written(here, replace(run, seed=7)))])
    assert code == 2


def _written(folder: Path, config: BanditConfig) -> Path:
    from configs.loader import dump

    path = folder / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"warmup": 900}, "warmup is 900"),
        ({"evaluations": 5000}, "there are 2000 combinations"),
        ({"leg": False}, "set leg to true"),
        ({"cap": 1.0}, "cap is 1.0"),
        ({"bold": True, "over": "evolution"}, "set leg, over pool"),
        ({"population": 2}, "population is 2"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"patterns": 0}, "patterns is 0"),
        ({"reward_noise": -2.0}, "reward_noise is -2.0"),
        ({"precision": 2.0}, "precision is 2.0"),
    ],
)
def test_knobs_that_contradict_one_another_are_refused(knobs: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(Path("unused"), **knobs)


def test_the_agents_flags_are_told_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bandit.main(["--task", "review_easy"])
    assert "go with --environment polypharmacy" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["paper", "demo", "best"])
def test_every_preset_is_read(name: str) -> None:
    from configs.loader import load

    config = load(Path(__file__).parents[1] / "configs" / "bandit" / f"{name}.yaml", BanditConfig)
    assert config.search().warmup == config.warmup


def test_the_papers_preset_is_the_papers_algorithm() -> None:
    from configs.loader import load

    path = Path(__file__).parents[1] / "configs" / "bandit" / "paper.yaml"
    knobs = load(path, BanditConfig).search()
    assert knobs == Search()
    assert (knobs.fit.epochs, knobs.fit.batch, knobs.fit.lr, knobs.fit.decay) == (100, 64, 0.01, 1)
    evolution = knobs.evolution
    assert (evolution.population, evolution.steps) == (32, 16)
    assert (evolution.differential, evolution.crossover) == (1.0, 0.9)


def test_without_repeats_no_row_is_asked_twice(data: Combinations) -> None:
    knobs = Search(
        warmup=100, over="pool", refresh=True, repeats=False, rows_a_step=30, retrain_every=1
    )
    knobs = replace(knobs, fit=replace(knobs.fit, epochs=1), hidden=4)
    search = OptimNeuralTS(data, knobs, seed=0)
    while len(search.rows) < 300:
        search.advance(300)
    assert len(np.unique(search.rows)) == len(search.rows) == 300


def test_the_bold_line_asks_a_tenth_at_least_and_more_the_more_danger_it_finds(
    data: Combinations,
) -> None:
    knobs = small(Path("unused"), cap=1.3, bold=True).search()
    search = OptimNeuralTS(data, knobs, seed=0)
    assert search._boldly(50) == 0  # no line yet
    search.advance(500)

    shares = []
    for search.yields in (np.array(y) for y in ([1.0, 0.0], [0.4, 0.4], [0.26, 0.74], [0.0, 0.0])):
        shares.append(search._boldly(50))

    assert shares == [5, 25, 37, 5]


def test_a_cap_is_as_if_nothing_were_more_dangerous(data: Combinations) -> None:
    """With exact answers, the capped search asks what a search of the capped set would ask."""
    capped = small(Path("unused"), reward_noise=0.0, cap=1.3).search()
    level = replace(data, risk=np.minimum(data.risk, np.float32(1.3)))
    pair = OptimNeuralTS(data, capped, 0), OptimNeuralTS(level, replace(capped, cap=None), 0)
    for search in pair:
        while len(search.rows) < 500:
            search.advance(500)

    assert pair[0].rows.tolist() == pair[1].rows.tolist()
    assert (data.risk > 1.3).any()


def test_warm_up_rewards_are_exact_and_later_ones_are_not(data: Combinations) -> None:
    knobs = Search(warmup=100, over="pool", rows_a_step=100, hidden=4)
    search = OptimNeuralTS(data, replace(knobs, fit=replace(knobs.fit, epochs=1)), seed=0)
    search.advance(300)
    search.advance(300)
    error = search.rewards - data.risk[search.rows]
    assert np.abs(error[:100]).max() < 1e-6
    assert 0.05 < error[100:].std() < 0.15


def test_pairs_that_leave_more_than_chance_stand_out() -> None:
    rng = np.random.default_rng(0)
    bits = (rng.random((3000, 30)) < 0.1).astype(np.float32)
    left = rng.normal(0, 0.1, 3000) + 1.0 * bits[:, 4] * bits[:, 17]
    pairs = standing_out(neural_ts.with_pairs(bits, np.zeros((0, 2), np.int64)), left, 5)
    assert pairs[0].tolist() == [4, 17]


# -- flags ------------------------------------------------------------------------------------


def test_flags_are_the_largest_set_of_the_precision_asked_for() -> None:
    flags = expected_precision(np.array([0.2, 1.0, 0.9, 0.95]), 0.95)
    assert flags.tolist() == [False, True, True, True]
    assert expected_precision(np.array([0.2, 0.3]), 0.95).sum() == 0


def test_many_sure_rows_let_no_unlikely_one_in() -> None:
    chance = np.array([1.0] * 98 + [0.6, 0.4, 0.1])
    assert chance.mean() > 0.98
    assert expected_precision(chance, 0.98).tolist() == [True] * 99 + [False] * 2


def test_an_exact_answer_settles_and_a_noisy_one_moves() -> None:
    mean, variance = np.full(3, 1.0), np.full(3, 0.01)
    asked = Asked(np.array([0, 1]), np.array([2.0, 2.0]), np.array([0.0, 0.1]))
    chance = probability_of(mean, variance, asked)
    assert chance[0] == 1
    assert chance[2] < 0.5 < chance[1] < 1


def test_precision_of_no_flags_is_not_a_number(data: Combinations) -> None:
    figures = judged(data, np.zeros(len(data.risk), bool), np.zeros(0, np.int64))
    assert np.isnan(figures["precision"])
    assert figures["recall"] == 0


@pytest.mark.parametrize("screen", [remembered, ridge_line, marginal, ridge_search])
def test_a_plain_screen_spends_its_budget_and_no_more(data: Combinations, screen: Any) -> None:
    flags, asked = screen(data, 600, np.random.default_rng(0))
    assert len(asked) == 600
    assert flags.shape == data.risk.shape


# -- screening --------------------------------------------------------------------------------


def test_a_trained_search_screens_combinations_of_numbers(here: Path) -> None:
    train(small(here / "run", evaluations=200))
    screen = open_screen(str(here / "run"))
    verdicts = screen.screen([[0, 5], [1]])
    assert [v["drugs"] for v in verdicts] == [[0, 5], [1]]
    assert all(0 <= v["probability"] <= 1 and v["sd"] > 0 for v in verdicts)
    assert screen.metrics()["metrics"][-1]["evaluations"] == 200
    with pytest.raises(UnknownDrug, match="0 to 119"):
        screen.screen([[120]])


def test_the_command_prints_the_last_line_of_its_metrics(here: Path, capsys: Any) -> None:
    config = _written(here, small(here / "run", evaluations=200))
    assert bandit.main(["--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"] == 200


def test_the_page_shows_the_results_that_are_kept() -> None:
    from bench.bandit import kept

    root = Path(__file__).parents[1]
    page = (root / "docs" / "bandit.md").read_text("utf-8")
    assert kept(root / "bench" / "results" / "bandit.json") in page, (
        "put in what this prints: python -m bench.bandit --kept"
    )
