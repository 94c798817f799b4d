"""Which processes run and who started them, as Linux's /proc tells; nothing of what they do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path


def children(pid: int) -> list[int]:
    """Processes that `pid` has started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(entry.name))
    return found


def descendants(pid: int) -> list[int]:
    """The children of `pid`, theirs, and so on."""
    found = children(pid)
    return found + [one for child in found for one in descendants(child)]


def still_running(pids: Sequence[int], within_s: float = 5.0) -> int:
    """How many of them still run after `within_s`."""
    ends = time.monotonic() + within_s
    while (left := [pid for pid in pids if _runs(pid)]) and time.monotonic() < ends:
        time.sleep(0.05)
    return len(left)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
