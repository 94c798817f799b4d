"""What is noted while one of the trainers of transformers runs, and how it is stopped without losing a step.

Lines of metrics.jsonl, Ctrl-C; the line on the screen is `progress.py`. Knows nothing of what is trained.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training import extras, progress, ranks
from training.progress import AT_ONCE, Interrupted, Progress, line, lines

extras.demand("torch", "transformers", "trl")  # the next line's own complaint has no remedy
from transformers import (  # noqa: E402
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

__all__ = [
    "AT_ONCE",
    "Interrupted",
    "Journal",
    "Progress",
    "StopOnRequest",
    "hush",
    "last_checkpoint",
    "line",
    "lines",
    "stoppable",
]


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
        if not state.is_world_process_zero:
            return
        kept = [line for line in lines(self._path) if line.get("step", 0) <= state.global_step]
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.rename(self._path)  # killed here, it still has every line

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
        if not state.is_world_process_zero:
            return
        seconds = round(time.monotonic() - self._began, 3)
        line = {"stage": self._stage, "step": state.global_step, "seconds": seconds, **figures}
        with self._path.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._progress and state.is_world_process_zero:
            self._progress(self._stage, state.global_step, state.max_steps, self._figures)


class StopOnRequest(TrainerCallback):
    """Ends the run after the current step, checkpoint written, once `asked` is set on any rank."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if ranks.agree(self.asked.is_set(), args.device):  # all of them, after the same step
            self.asked.set()
            control.should_save = True
            control.should_training_stop = True


@contextmanager
def stoppable() -> Iterator[StopOnRequest]:
    """Let Ctrl-C and SIGTERM ask for an orderly end; a second Ctrl-C ends at once."""
    callback = StopOnRequest()
    with progress.stoppable(callback.asked):
        yield callback


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None."""
    found = sorted(
        (int(path.name.rpartition("-")[2]), path)
        for path in directory.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit()
    )
    return next((path for _, path in reversed(found) if _whole(path)), None)


def _whole(checkpoint: Path) -> bool:
    """Whether the file that the trainer writes last is there, to its last brace."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
