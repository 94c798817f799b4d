"""What a room above the server may lend it: an object named by a dotted path, fetched when first asked for.

The routes `/bandit/*` and `/agent/suggest` need players that live above `env_server`; they know a
protocol of one or two methods and a path. Knows nothing of what is lent.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from env_server.contract import RoundsError


class NotProvided(RoundsError):
    """The route is there, but not what answers it: says what to install or which command to run."""


def provided(path: str, remedy: str) -> Any:
    """The object at `package.module:name`. Raises NotProvided, ending in `remedy`, where it cannot be had."""
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise NotProvided(f"{path!r} is not of the form package.module:name; {remedy}")
    try:
        return getattr(import_module(module), name)
    except ImportError as missing:
        raise NotProvided(f"{path} cannot be imported ({missing}); {remedy}") from missing
    except AttributeError:
        raise NotProvided(f"{module} has no {name!r}; {remedy}") from None
