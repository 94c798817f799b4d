"""`make run` in miniature: every stage for real, and evidence that can be checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from configs.loader import ConfigError
from eval.rows import Row
from training import demo, evidence

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert demo.main([*SHORT, "--output", str(folder)]) == 0
    return folder


SHORT = ["--init", "tiny", "--fast", "--patients", "12", "--ranks", "2"]


def test_the_demo_leaves_table_curve_and_record(output: Path) -> None:
    found = json.loads((output / evidence.JSON).read_text())
    agents = [row["agent"] for row in found["rows"]]
    assert agents[0] == "random"
    assert {"heuristic", "sft", "grpo", "reference"} <= set(agents)
    assert found["n"] == 12
    assert found["split"] == "test"
    assert found["summary"] in (output / evidence.MARKDOWN).read_text()
    assert (output / evidence.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_difference_is_grpo_less_sft_on_the_same_patients(output: Path) -> None:
    found = json.loads((output / evidence.JSON).read_text())
    rows = {row["agent"]: row for row in found["rows"]}
    gained = found["grpo_minus_sft"]
    assert rows["grpo"]["baseline"] == "sft"
    assert gained["mean"] == pytest.approx(rows["grpo"]["score"] - rows["sft"]["score"])
    assert gained["low"] <= gained["mean"] <= gained["high"]


def test_the_demo_again_trains_nothing_and_measures_the_same(output: Path) -> None:
    models = [output / stage / "model" / "model.safetensors" for stage in ("sft", "grpo")]
    written = [path.stat().st_mtime_ns for path in models]
    rows = json.loads((output / evidence.JSON).read_text())["rows"]
    assert demo.main([*SHORT, "--output", str(output)]) == 0
    assert [path.stat().st_mtime_ns for path in models] == written
    again = json.loads((output / evidence.JSON).read_text())["rows"]
    assert [row["score"] for row in again] == [row["score"] for row in rows]


@pytest.mark.parametrize("flag", ["--ranks", "--patients"])
def test_the_demo_refuses_none_of_them_before_it_trains(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([flag, "0", "--output", str(tmp_path / "run")]) == 2
    assert f"{flag} is 0; it must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ranks_that_cannot_share_a_step_equally_are_refused_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--init", "tiny", "--ranks", "3", "--output", str(tmp_path / "run")]) == 2
    assert "--ranks 3 cannot share batch 16 equally" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_model_has_no_evidence(tmp_path: Path) -> None:
    with pytest.raises(evidence.NothingToShow, match="no model yet"):
        evidence.players(tmp_path, tmp_path, "polypharmacy", "review_easy")


def test_the_summary_says_by_how_much_and_how_sure() -> None:
    before = Row("f", "t", "sft", "model", "test", n=200, score=0.6)
    after = Row("f", "t", "grpo", "model", "test", n=200, score=0.7, diff=0.1, diff_low=0.05)
    said = evidence.summary([before, Row(**{**_fields(after), "diff_high": 0.15})])
    assert "0.600 after the warm start, 0.700 after GRPO" in said
    assert "+0.100 (95 % interval +0.050 to +0.150, paired)" in said


def _fields(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


def test_an_unknown_task_or_a_gpu_model_without_a_gpu_is_a_clear_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import torch

    assert demo.main(["--init", "tiny", "--task", "review_esy", "--output", str(tmp_path)]) == 2
    assert "did you mean 'review_easy'" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="wants a GPU"):
            demo.choose("Qwen/Qwen2.5-0.5B-Instruct")
