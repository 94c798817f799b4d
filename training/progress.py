"""The line on the screen, Ctrl-C, and reading back what was noted: for any trainer, without a library.

Knows nothing of what is trained; `watch.py` ties it to the trainers of transformers.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

Progress = Callable[[str, int, int, Mapping[str, float]], None]  # stage, done, of, figures

# what a command says that was stopped before, or in the middle of, a step
AT_ONCE = "stopped at once; the same command goes on from the last checkpoint, or begins again"


class Interrupted(RuntimeError):
    """The run was stopped on request; what it had reached is saved."""


@contextmanager
def stoppable(asked: threading.Event) -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM set `asked`, for an orderly end; a second Ctrl-C ends at once.

    A SIGTERM after it does not: launchers send one behind every Ctrl-C.
    """

    def ask(number: int) -> None:
        if asked.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        print("stopping after this step; Ctrl-C again to stop at once", file=sys.stderr)
        asked.set()

    with handed_to(ask):
        yield asked


@contextmanager
def handed_to(tell: Callable[[int], None]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM call `tell` with their number instead of ending the process.

    Signals belong to the main thread; in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        tell(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
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


_SHOWN = (
    "precision",
    "recall",
    "loss",
    "reward",
    "mean_token_accuracy",
    "refusal_share",
    "tied_groups",
)


def _said(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {figures[name]:.3f}" for name in _SHOWN if name in figures)
