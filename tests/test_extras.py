"""A command whose extra is not installed says which package is missing and what brings it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from training import bandit, extras, ppo, prove, reinforce


def test_what_is_installed_is_no_complaint() -> None:
    extras.demand("json", "numpy")
    with pytest.raises(
        extras.NotInstalled, match=r"no_such_package not installed.*'rounds\[gpu\]'"
    ):
        extras.demand("json", "no_such_package", extra="gpu")


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (reinforce.main, ["--preset", "seed", "--task", "easy_screening", "--output"]),
        (ppo.main, ["--output"]),
        (bandit.main, ["--output"]),
        (prove.main, ["--model", "tiny", "--style"]),
    ],
    ids=["reinforce", "ppo", "bandit", "prove"],
)
def test_without_torch_a_command_ends_with_a_remedy_and_leaves_nothing(
    main: Callable[[list[str]], int],
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def without_torch(name: str) -> Any:
        return None if name == "torch" else find_spec(name)

    monkeypatch.setattr(extras, "find_spec", without_torch)
    last = "brief" if "--style" in flags else str(tmp_path / "run")
    assert main([*flags, last]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: torch") and "pip install" in said
    assert not (tmp_path / "run").exists()
