"""Trainers forked from a process that is warm: started, heard, killed and counted like any other process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import warm
from bench.processes import descendants, still_running
from bench.warm import Nursery

TRAINER = """
import sys, time
def main(flags):
    print("told", *flags, flush=True)
    if "fails" in flags:
        raise ValueError("no such task")
    time.sleep(float(flags[0]))
    return int(flags[1])
"""


@pytest.fixture
def nursery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    """The real one, over a trainer that only sleeps, so that no learning library is imported."""
    real = Path(warm.__file__).parent
    for folder in ("bench", "training", "trl/trainer"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("__init__", "warm", "processes"):
        (tmp_path / "bench" / f"{name}.py").write_text((real / f"{name}.py").read_text())
    chatty = 'print("INFO a library says hello")'
    for name in ("__init__", "examiner", "guards", "importance", "rollout", "sft", "watch"):
        (tmp_path / "training" / f"{name}.py").touch()
    (tmp_path / "training" / "grpo.py").write_text(TRAINER)
    (tmp_path / "training" / "guards.py").write_text(chatty)
    for name in ("peft.py", "trl/__init__.py", "trl/trainer/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "trl" / "trainer" / "grpo_trainer.py").touch()
    monkeypatch.setattr(warm, "ROOT", tmp_path)
    with Nursery() as started:
        yield started


def test_a_trainer_gets_its_flags_and_its_exit_code_is_told(
    nursery: Nursery, tmp_path: Path
) -> None:
    log = tmp_path / "run.log"
    assert nursery.start(["0.0", "2"], log).wait(20.0) == 2
    assert nursery.start(["0.0", "0"], log).wait(20.0) == 0
    assert log.read_text() == "told 0.0 2\ntold 0.0 0\n"


def test_a_killed_trainer_is_gone_and_its_code_says_so(nursery: Nursery, tmp_path: Path) -> None:
    child = nursery.start(["60", "0"], tmp_path / "run.log")
    assert child.poll() is None
    with pytest.raises(TimeoutError, match="still runs"):
        child.wait(0.1)
    child.kill()
    assert child.wait(20.0) == -signal.SIGKILL
    child.kill()  # what has ended is not killed again


def test_what_a_trainer_raises_is_in_its_log(nursery: Nursery, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert nursery.start(["fails"], log).wait(20.0) == 1
    assert "ValueError: no such task" in log.read_text()


def test_no_trainer_outlives_the_nursery(nursery: Nursery, tmp_path: Path) -> None:
    child = nursery.start(["60", "0"], tmp_path / "run.log")
    nursery.__exit__(None, None, None)
    assert still_running([child.pid], 5.0) == 0
    assert descendants(os.getpid()) == []
    nursery.__enter__()  # for the fixture to leave
