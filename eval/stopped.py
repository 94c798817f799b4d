"""Ctrl-C at a command that keeps nothing half done: one line and 130, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

INTERRUPTED = 130  # as shells tell it: 128 and the signal's number


def stoppable(main: Callable[[], int]) -> int:
    """What `main` returns; 130 where it was interrupted."""
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted; the same command begins again", file=sys.stderr)
        return INTERRUPTED
