"""The simulations that judge the table's statistics: what they plant is there, and what breaks is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import statistics
from bench.promise import Figure
from bench.statistics import PLANTED, Spread, simulated_tables
from env_server import registry


@pytest.fixture(scope="module")
def spread() -> Spread:
    return Spread(registry.get("polypharmacy"), 40)


def test_the_planted_difference_is_planted_and_the_null_is_null(spread: Spread):
    rng = np.random.default_rng(0)
    for draw, truth in (
        (spread.slips_less, PLANTED),
        (spread.improves, PLANTED),
        (spread.no_better, 0.0),
        (spread.no_better_but_skewed, 0.0),
    ):
        gaps = draw(500, 400, rng)
        assert gaps.shape == (500, 400)
        assert gaps.mean() == pytest.approx(truth, abs=4 * gaps.std() / gaps.size**0.5)


def test_what_is_planted_is_found_more_often_than_what_is_not(spread: Spread):
    p, means = simulated_tables(spread.improves, 300, 300, seed=1)
    null, _ = simulated_tables(spread.no_better, 300, 300, seed=1)
    assert p.shape == means.shape == (300,)
    assert (p < 0.05).mean() > 4 * (null < 0.05).mean()


def test_a_simulated_promise_is_broken_only_by_its_whole_interval():
    near = Figure("p", 0.053, "share", 400, "most", 0.05, 0.04, 0.07, sampled=True)
    far = Figure("p", 0.08, "share", 400, "most", 0.05, 0.06, 0.10, sampled=True)
    measured = Figure("p", 0.053, "share", 400, "most", 0.05, 0.04, 0.07)
    assert (near.kept, far.kept, measured.kept) == (True, False, False)


def test_the_command_prints_every_figure_with_its_promise(capsys: pytest.CaptureFixture[str]):
    code = statistics.main(["--patients", "40", "--samples", "40", "--n", "500", "--json"])
    told = json.loads(capsys.readouterr().out)
    names = {figure["name"] for figure in told["figures"]}
    assert {"one slips: 0.03 found", "both slip: 0 called a difference"} <= names
    assert {"covered, n 100: gaps, both slip", "covered, n 100: interquartile mean"} <= names
    with pytest.raises(SystemExit):
        statistics.main(["--patients", "3"])
    assert code == (0 if all(figure["kept"] for figure in told["figures"]) else 1)
