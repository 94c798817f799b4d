"""The module that `openenv`, a Space or `uvicorn server.app:app` looks for; the server is env_server's.

Knows nothing of environments: it only passes the call on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; the flags are those of `python -m env_server.app`."""
    from env_server.app import main as serve

    return serve(argv)


def __getattr__(name: str) -> Any:
    # built when first asked for: importing this module must stay cheap for `--help` and validators
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has main and app")
    from env_server.app import create_app

    globals()["app"] = create_app()
    return globals()["app"]


if __name__ == "__main__":
    raise SystemExit(main())
