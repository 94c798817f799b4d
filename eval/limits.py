"""Numbers of a command line that have a least value. Knows argparse; no command."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """A `type` for argparse: a whole number, refused below `least` with both of them named."""

    def whole(given: str) -> int:
        if not given.isdecimal() or int(given) < least:
            raise argparse.ArgumentTypeError(f"{given!r} is not a whole number of {least} or more")
        return int(given)

    return whole
