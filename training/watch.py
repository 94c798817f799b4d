"""What is noted while a trainer runs, and how it is stopped without losing a step.

Lines of metrics.jsonl, the line on the screen, Ctrl-C. Knows nothing of what is trained.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Progress = Callable[[str, int, int, Mapping[str, float]], None]  # stage, done, of, figures


class Interrupted(RuntimeError):
    """The run was stopped on request; what it had reached is saved."""


def hush() -> None:
    """Silence the libraries' own progress bars: a run has one line of its own."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()


class Journal(TrainerCallback):
    """Writes one JSON line a log to `path`, and tells `progress` of every step.

    After a resume, lines of steps that are played again are dropped first.
    """

    def __init__(self, path: Path, stage: str, progress: Progress | None = None) -> None:
        self._path, self._stage, self._progress = path, stage, progress
        self._figures: dict[str, float] = {}
        self._began = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._began = time.monotonic()
        kept = [line for line in lines(self._path) if line.get("step", 0) <= state.global_step]
        with self._path.open("w", encoding="utf-8") as journal:
            journal.writelines(json.dumps(line) + "\n" for line in kept)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        figures = {name: value for name, value in (logs or {}).items() if _finite(value)}
        if "train_runtime" in figures or not figures:  # the trainer's own summary of the whole run
            return
        self._figures = figures
        seconds = round(time.monotonic() - self._began, 3)
        line = {"stage": self._stage, "step": state.global_step, "seconds": seconds, **figures}
        with self._path.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._progress:
            self._progress(self._stage, state.global_step, state.max_steps, self._figures)


class StopOnRequest(TrainerCallback):
    """Ends the run after the current step, checkpoint written, once `asked` is set."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.asked.is_set():
            control.should_save = True
            control.should_training_stop = True


@contextmanager
def stoppable() -> Iterator[StopOnRequest]:
    """Let Ctrl-C and SIGTERM ask for an orderly end; a second Ctrl-C ends at once."""
    callback = StopOnRequest()
    if threading.current_thread() is not threading.main_thread():
        yield callback  # signals belong to the main thread; only `asked` works here
        return

    def ask(number: int, _: FrameType | None) -> None:
        if callback.asked.is_set():
            raise KeyboardInterrupt
        print("stopping after this step; Ctrl-C again to stop at once", file=sys.stderr)
        callback.asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield callback
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    records = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return records


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None."""
    found = sorted(
        (int(path.name.rpartition("-")[2]), path)
        for path in directory.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit() and (path / "trainer_state.json").is_file()
    )
    return found[-1][1] if found else None


@contextmanager
def line() -> Iterator[Progress]:
    """A progress line on stderr with time left; plain lines, a few a stage, where it is no terminal."""
    if not sys.stderr.isatty():
        yield _plain_line()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, of: int, figures: Mapping[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=of, figures="")
            bar.update(tasks[stage], completed=done, total=of, figures=_said(figures))

        yield show


def _plain_line() -> Progress:
    began: dict[str, float] = {}
    shown: dict[str, int] = {}

    def show(stage: str, done: int, of: int, figures: Mapping[str, float]) -> None:
        start = began.setdefault(stage, time.monotonic())
        tenth = 10 * done // max(of, 1)
        if tenth == shown.get(stage, 0):
            return
        shown[stage] = tenth
        left = (time.monotonic() - start) * (of - done) / max(done, 1)
        print(f"{stage} {done}/{of}  {left:.0f} s left  {_said(figures)}".rstrip(), file=sys.stderr)

    return show


_SHOWN = ("loss", "reward", "mean_token_accuracy", "refusal_share", "tied_groups")


def _said(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {figures[name]:.3f}" for name in _SHOWN if name in figures)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
