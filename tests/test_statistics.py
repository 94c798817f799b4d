"""The simulations that judge the table's statistics: what they plant is there, and what breaks is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench import statistics
from bench.promise import Figure
from bench.statistics import PLANTED, Spread, simulated_tables
from env_server import registry

ROOT = Path(__file__).resolve().parents[1]


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


def test_the_page_shows_the_figures_of_the_committed_run():
    kept = json.loads((ROOT / "bench/results/statistics.json").read_text("utf-8"))["figures"]
    told = {figure["name"]: 100 * figure["value"] for figure in kept}
    page = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    covered = 0
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        shape = re.split(r": (?:bounded|skewed)", cells[0])[0]
        for n, cell in zip((30, 100, 500), cells[1:], strict=False):
            if (expected := told.get(f"covered, n {n}: {shape}")) is not None:
                assert float(cell.rstrip(" %")) == pytest.approx(expected, abs=0.051), (line, n)
                covered += 1
    assert covered == 18
    for name in ("one slips: 0.03 found", "both slip, one improves: 0.03 found"):
        assert f"{told[name]:.1f} %" in page or f"{told[name] + 1e-9:.1f} %" in page, name
    for name in ("both slip", "skewed gaps"):
        assert f"{told[f'{name}: 0 called a difference'] + 1e-9:.1f} %" in page, name
        assert f"{told[f'{name}: sd of a gap'] / 100:.3f}".lstrip("0") in page, name
