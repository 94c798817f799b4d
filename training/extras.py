"""What `pip install rounds` alone leaves out, asked for before a command begins.

Knows names of packages and of our extras; imports none of them.
"""

from __future__ import annotations

from importlib.util import find_spec

from env_server.contract import RoundsError


class NotInstalled(RoundsError, ImportError):
    """A package that the command needs is not here; says which, and what installs it."""


def demand(*packages: str, extra: str = "train") -> None:
    """Raise NotInstalled where one of these is missing; `extra` is what brings them all."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise NotInstalled(
            f"{', '.join(missing)} not installed: pip install 'rounds[{extra}]',"
            f" or pip install -e '.[{extra}]' in this folder"
        )
