"""What must stop a run before it does harm: numbers that are none, and a disk that is full.

Stops with the last good checkpoint in place and says the way out. Knows the trainer's callbacks;
nothing of what is trained.
"""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from env_server.contract import RoundsError

WATCHED = ("loss", "grad_norm", "reward")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SPARE = 4 << 20  # bytes that logs and validation need beside a checkpoint


class Diverged(RoundsError, ArithmeticError):
    """The run computes numbers that are not finite; going on would only save broken weights."""


class DiskFull(RoundsError, OSError):
    """There is no room for the next checkpoint."""

    __str__ = Exception.__str__


class Guards(TrainerCallback):
    """Looks at every log line, and at the disk before every checkpoint."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Raise Diverged before the trainer can save what it has now."""
        for name in WATCHED:
            value = (logs or {}).get(name)
            if isinstance(value, int | float) and not math.isfinite(value):
                raise Diverged(
                    f"{name} is {value} at step {state.global_step}; nothing of this step was saved."
                    f" The last checkpoint in {self._run / 'checkpoints'} is sound: lower"
                    " learning_rate or max_grad_norm and begin again under another --output"
                )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Raise DiskFull where a checkpoint is due that would not fit."""
        if not control.should_save:
            return
        needed, free = checkpoint_bytes(model) + _SPARE, shutil.disk_usage(self._run).free
        if free < needed:
            raise DiskFull(
                f"{self._run}: {_mib(free)} MiB free, a checkpoint needs {_mib(needed)}; stopped"
                f" after step {state.global_step}. Make room, then run the same command again:"
                " it goes on from the last checkpoint"
            )


def checkpoint_bytes(model: Any) -> int:
    """At most what a checkpoint weighs: all weights, and two moments of those that learn."""
    weights = list(model.parameters())
    whole = sum(w.numel() * w.element_size() for w in weights)
    return int(whole + sum(2 * w.numel() * 4 for w in weights if w.requires_grad))


@contextmanager
def disk_full_explained(run: Path) -> Iterator[None]:
    """Turn whatever a library raises on a full disk into DiskFull; all else passes.

    torch and safetensors do not raise OSError: what tells is that nothing can be written.
    """
    try:
        yield
    except RoundsError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _FULL or _nothing_fits(run):
            raise DiskFull(
                f"{run}: the disk is full ({error}). Make room, then run the same command again:"
                " it goes on from the last whole checkpoint"
            ) from error
        raise


def _nothing_fits(run: Path) -> bool:
    probe = run / ".probe"
    try:
        probe.write_bytes(bytes(1 << 16))
    except OSError as error:
        return error.errno in _FULL
    finally:
        with suppress(OSError):  # what could not be written need not be taken away
            probe.unlink()
    return False


def _mib(count: int) -> int:
    return -(-count // (1 << 20))
