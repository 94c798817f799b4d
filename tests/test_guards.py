"""A run stops before it saves nonsense or fills the disk, and says what to do."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from training import guards  # noqa: E402
from training.sft import main as sft  # noqa: E402

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
NOW = SimpleNamespace(global_step=7)


@pytest.mark.parametrize("name", guards.WATCHED)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_stops_the_run(name: str, value: float, tmp_path: Path) -> None:
    guard = guards.Guards(tmp_path)
    guard.on_log(None, NOW, None, logs={"loss": 1.0, name: 2.0})  # type: ignore[arg-type]
    with pytest.raises(guards.Diverged, match=rf"{name} is {value} at step 7.*learning_rate"):
        guard.on_log(None, NOW, None, logs={name: value})  # type: ignore[arg-type]


def test_a_checkpoint_that_would_not_fit_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guard = torch.nn.Linear(1000, 1000), guards.Guards(tmp_path)
    assert guards.checkpoint_bytes(model) == 3 * 4 * 1_001_000
    due: Any = SimpleNamespace(should_save=True)
    guard.on_step_end(None, NOW, due, model=model)  # type: ignore[arg-type]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12 << 20))
    with pytest.raises(guards.DiskFull, match="12 MiB free, a checkpoint needs 16"):
        guard.on_step_end(None, NOW, due, model=model)  # type: ignore[arg-type]
    guard.on_step_end(None, NOW, SimpleNamespace(should_save=False), model=model)  # type: ignore[arg-type]


def test_a_run_folder_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder was")
    with (
        pytest.raises(ValueError, match="the real one"),
        guards.disk_full_explained(tmp_path / "run"),
    ):
        raise ValueError("the real one")


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as it was"), guards.disk_full_explained(tmp_path):
        raise ValueError("as it was")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a small file system here (wants root)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def test_a_run_on_a_full_disk_stops_in_words_and_goes_on_once_there_is_room(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_disk / "run"
    flags = ["--output", str(run), "--episodes", "40", "--steps", "4", "--save-every", "2"]
    flags += ["--device", "cpu", "--batch", "4"]
    filler = fill(small_disk, leave=4 << 20)  # room for the model to begin with, for no more
    assert sft(flags) == 2
    said = capsys.readouterr().err
    assert "run the same command again" in said and str(run) in said
    assert not (run / "model").exists()
    filler.unlink()
    assert sft(flags) == 0
    assert (run / "model" / "model.safetensors").is_file()


def test_a_learning_rate_that_breaks_the_weights_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output", str(tmp_path / "run"), "--episodes", "40", "--steps", "6", "--lr", "1e30"]
    flags += ["--device", "cpu", "--batch", "4", "--log-every", "1", "--warmup", "0"]
    assert sft([*flags, "--max-grad-norm", "1e30"]) == 2
    assert "is sound" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()
