"""A trainer whose disk is full, and whether it goes on to the same bytes once there is room.

Knows file systems of a given size; how a run is started and what it must leave is `kills.py`'s.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.kills import LIMIT_S, Alone, ended_well, evidence, last_step, launch, tail
from bench.promise import Figure


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A file system of so many bytes; None where this user may not mount one."""
    folder.mkdir(exist_ok=True)
    mounted = _mount(folder, f"size={size}")
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def first_fits(alone: Path) -> int:
    """Bytes of a disk on which a run can write its first checkpoint, and not its second.

    All that the undisturbed run has left but its model: that is two checkpoints, and a run wants a
    little more than a checkpoint free before it begins one.
    """
    left = (path for path in alone.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in left if alone / "model" not in path.parents)


def full_disk_figures(alone: Alone) -> list[Figure]:
    """A run whose disk is full at its second checkpoint; then the disk grows, and the run is to end.

    The disk is too small from the start, so that nothing has to happen at the right moment. Where none
    may be mounted nothing is shown, and that is no promise kept.
    """
    stopped, same, why = False, False, ""
    with small_disk(alone.folder / "disk", first_fits(alone.run)) as disk:
        if disk is None:
            why = " (not measured: no small disk may be mounted here)"
        else:
            run = disk / "run"
            code = launch(alone.nursery, alone.model, run).wait(LIMIT_S)
            stopped = code == 2 and "Make room" in tail(run) and last_step(run) == 1
            _mount(disk, "remount,size=64m")
            ended_well(launch(alone.nursery, alone.model, run), run)
            same = evidence(run) == alone.left
    return [
        _once(f"run stopped and said the way out{why}", stopped),
        _once(f"run resumed to the same bytes{why}", same),
    ]


def _once(what: str, held: bool) -> Figure:
    name = f"disk full at the second checkpoint: {what}"
    return Figure(name, float(held), "times", 1, "least", 1)
