"""The folder of one run: writable, holding one config, so that the same command resumes it.

Knows nothing of what runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from configs.loader import dump, read
from env_server.contract import RoundsError

BEFORE_ANYTHING = ("config.yaml", "seeds.json")  # written before a run does anything


class BadRun(RoundsError, RuntimeError):
    """The run cannot go where it was sent: says which path or model, and what to do."""


@contextmanager
def opened(output: str | Path, config: Any) -> Iterator[Path]:
    """`open_run`; a run that is refused before it has left anything does not keep its folder.

    So a misspelt setting can be corrected and the command repeated.
    """
    run = open_run(output, config)
    try:
        yield run
    except RoundsError:
        _let_go(run)
        raise


def _let_go(run: Path) -> None:
    left = list(run.iterdir())
    if all(path.name in BEFORE_ANYTHING for path in left):
        for path in left:
            path.unlink()


def open_run(output: str | Path, config: Any) -> Path:
    """`output`, made if need be, with the resolved `config` in config.yaml.

    Raises BadRun where it cannot be written, or holds a run with another config.
    """
    run = Path(output)
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadRun(
            f"cannot write to {run} ({error.strerror or error}); choose another folder with --output"
        ) from error
    written = run / "config.yaml"
    if written.is_file():
        _same(run, read(written), yaml.safe_load(dump(config)))
    else:
        written.write_text(dump(config), encoding="utf-8")
    return run


def _same(run: Path, before: dict[str, Any], asked: dict[str, Any]) -> None:
    changed = sorted(key for key in asked if before.get(key) != asked[key])
    if changed:
        there = ", ".join(f"{key} = {before.get(key)!r}" for key in changed)
        raise BadRun(
            f"{run} holds a run with {there}; give that, choose another --output, or delete the folder"
        )
