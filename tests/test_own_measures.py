"""Columns that a family offers itself, how honest stated chances are, and what another split costs."""

from __future__ import annotations

import csv
import io
import json
from math import log
from pathlib import Path
from typing import ClassVar

import pytest
from fakes import NumberLine
from hypothesis import given
from hypothesis import strategies as st

from env_server import registry
from env_server.contract import Measure, Refusal
from eval import table, transfer
from eval.calibration import brier, calibration_error, log_loss, reliability
from eval.compare import compare
from eval.finished import read_rows
from eval.report import write
from eval.rows import Extras, Played, Row, rows
from eval.transfer import drop, drops

FORECASTS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


class Forecasting(NumberLine):
    """The number line, whose mark lies to the right with a chance that everybody is said to state."""

    measures: ClassVar[dict[str, Measure]] = {
        "far": Measure(lambda told: float(told["optimum"])),
        "a step": Measure(lambda told: told["optimum"], per=lambda told: 2.0),
        "untold": Measure(lambda told: None),
    }

    def forecast(self, told):  # type: ignore[no-untyped-def]
        return 0.75, told["regret"] < 0.05


# -- columns of a family -------------------------------------------------------------------------


def test_a_familys_own_columns_stand_in_every_form_of_the_table() -> None:
    found = compare(Forecasting(), ["near"], ["heuristic", "random"], episodes=6)
    assert list(found[0].measures) == ["far", "a step", "untold", "Brier", "log loss", "ECE"]
    assert "| far | a step | Brier |" in table.markdown(found)
    line = next(csv.DictReader(io.StringIO(table.as_csv(found))))
    assert float(line["far"]) == found[0].measures["far"]
    assert json.loads(table.as_json(found))[0]["measures"]["Brier"] == found[0].measures["Brier"]


def test_a_measure_is_a_mean_and_with_per_a_ratio_of_sums() -> None:
    row = compare(Forecasting(), ["near"], ["heuristic"], episodes=6)[0]
    assert row.measures["a step"] == pytest.approx((row.measures["far"] or 0) / 2)
    assert row.measures["untold"] is None


def test_differences_in_a_measure_are_taken_on_the_same_patients() -> None:
    ours, theirs = compare(Forecasting(), ["near"], ["random", "heuristic"], episodes=9)
    assert ours.measure_diffs["far"] == (0.0, 0.0, 0.0)  # it belongs to the patient, not the player
    assert "a step" not in ours.measure_diffs
    assert theirs.measure_diffs == {}


def test_a_family_without_measures_has_no_more_columns() -> None:
    row = compare(NumberLine(), ["near"], ["heuristic"], episodes=3)[0]
    assert (row.measures, row.reliability) == ({}, ())


def test_who_could_not_play_has_no_measures() -> None:
    kept = rows("f", "test", [Played("t", "absent", "model")], None, Extras(Forecasting.measures))
    assert kept[0].measures == {}


def test_measures_and_bins_are_read_back_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.story.registry.get", lambda name: Forecasting())
    found = compare(Forecasting(), ["near"], ["heuristic"], episodes=5, run=tmp_path / "r")
    assert read_rows(tmp_path / "r") == found
    page = write(tmp_path / "r", found).read_text("utf-8")
    assert 'id="reliability"' in page
    assert "5 forecasts: stated 0.75" in page


# -- stated chances ------------------------------------------------------------------------------


def test_calibration_figures_by_hand() -> None:
    forecasts = [(0.9, True), (0.9, False), (0.2, False), (0.2, False)]
    assert brier(forecasts) == pytest.approx((0.01 + 0.81 + 0.04 + 0.04) / 4)
    assert log_loss(forecasts) == pytest.approx(-(log(0.9) + log(0.1) + 2 * log(0.8)) / 4)
    assert reliability(forecasts) == ((2, 0.2, 0.0), (2, 0.9, 0.5))
    assert calibration_error(forecasts) == pytest.approx((0.2 + 0.4) / 2)


def test_certain_and_wrong_costs_much_and_not_everything() -> None:
    assert log_loss([(1.0, False)]) == pytest.approx(-log(1e-6))
    assert reliability([(1.0, True)]) == ((1, 1.0, 1.0),)
    assert brier([]) is None
    assert calibration_error([]) is None


@given(FORECASTS)
def test_bins_hold_every_forecast_once_and_the_error_lies_in_0_to_1(
    forecasts: list[tuple[float, bool]],
) -> None:
    bins = reliability(forecasts)
    assert sum(n for n, _, _ in bins) == len(forecasts)
    assert 0 <= (calibration_error(forecasts) or 0) <= 1 + 1e-12


# -- from one split to another -------------------------------------------------------------------


def test_a_drop_adds_the_distances_to_the_bounds_as_variances() -> None:
    here = Row("f", "t", "a", "model", "test", n=9, score=0.8, score_low=0.77, score_high=0.82)
    there = Row("f", "t", "a", "model", "swap", n=9, score=0.7, score_low=0.67, score_high=0.74)
    found = drop(here, there)
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - 0.05)
    assert found.high == pytest.approx(0.1 + (0.02**2 + 0.03**2) ** 0.5)


def test_agents_are_played_on_both_splits_and_the_command_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = drops("drug_target", ["target_easy"], ["heuristic"], "test", "swap", episodes=4)
    assert [(d.here.split, d.there.split, d.here.n) for d in found] == [("test", "swap", 4)]
    asked = ["--tasks", "target_easy", "--agents", "heuristic,null", "--episodes", "3"]
    assert transfer.main(asked) == 0
    said = capsys.readouterr().out
    assert "score, test | score, swap | drop [95 %] | skill" in said
    assert transfer.main([*asked, "--to", "nowhere"]) == 2


# -- target validation ---------------------------------------------------------------------------


def test_target_validation_offers_what_its_outcome_tells() -> None:
    found = compare("drug_target", ["target_medium"], ["null", "reference"], episodes=5)
    null, reference = (row.measures for row in found)
    assert (null["skill"], null["credits"], null["skill/credit"]) == (0.0, 0.0, None)
    assert null["Brier"] == pytest.approx(0.25)
    assert reference["off evidence"] == pytest.approx(0.0, abs=1e-4)
    assert reference["skill"] == pytest.approx(1 - 4 * (reference["Brier"] or 0))


@pytest.mark.parametrize("task", ["target_easy", "target_medium", "target_hard"])
def test_unreadable_answers_cost_a_step_each_and_end_below_saying_nothing(task: str) -> None:
    family = registry.get("drug_target")
    for seed in range(3):
        one, many = (family.begin(task, seed, "test") for _ in range(2))
        steps = [one.step(Refusal("malformed", "?")), one.step(Refusal("empty", ""))]
        assert all(step.reward < -0.001 for step in steps)  # .005 of skill, as every step
        while not many.done:
            many.step(Refusal("malformed", "?"))
        null = compare(family, [task], ["null"], episodes=1, seed0=seed)[0].score or 0
        assert many.score() < null - 0.01
