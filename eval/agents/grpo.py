"""`grpo`: the models that `make run` reinforced, each on the task it was made for."""

from __future__ import annotations

from pathlib import Path

from eval.by_task import ByTask
from eval.roster import Options, Player

USAGE = "grpo[:RUNS]"
DEFAULT = "runs"
IN_TABLE = 60


def player(argument: str, name: str, options: Options) -> Player:
    """The models under the folder `argument`; what is missing is told task by task."""
    return ByTask(name, "grpo", Path(argument), options)
