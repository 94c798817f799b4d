"""Ctrl-C at a command is an answer, not an error of ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.stopped import stoppable

ROOT = Path(__file__).resolve().parents[1]


def test_an_interrupted_command_says_so_and_ends_with_130(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert stoppable(interrupted) == 130
    assert capsys.readouterr().err.startswith("interrupted")
    assert stoppable(lambda: 7) == 7


def test_every_command_of_eval_takes_ctrl_c_as_an_answer() -> None:
    bare = [
        path.name
        for path in sorted((ROOT / "eval").glob("*.py"))
        if re.search(r"^if __name__ == .__main__.", path.read_text("utf-8"), re.M)
        and "KeyboardInterrupt" not in path.read_text("utf-8")
        and "stoppable(main)" not in path.read_text("utf-8")
    ]
    assert bare == []
