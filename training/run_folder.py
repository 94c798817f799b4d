"""The folder of one run: writable, holding one config, so that the same command resumes it.

Knows nothing of what runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from configs.loader import dump, read
from env_server.contract import RoundsError


class BadRun(RoundsError, RuntimeError):
    """The run cannot go where it was sent: says which path or model, and what to do."""


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
