"""Models that were trained for one task each, as `make run` leaves them: the right one plays.

A small model trained on one task says nothing sensible about another, so each plays where it has
learned, and elsewhere the row says how to make one. Knows folders; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from env_server import registry
from env_server.contract import Family, Split, Task
from eval.heldout import Patients
from eval.language import LanguagePlayer, model_folder
from eval.roster import NotReady, Options
from eval.trajectory import Trajectory

HOME = "demo"  # the folder of the task that `make run` takes by default
HOME_TASK = "review_easy"


@dataclass(frozen=True, slots=True)
class ByTask:
    """One stage (`sft` or `grpo`) of every run of `make run` under `runs`."""

    name: str
    stage: str
    runs: Path
    options: Options
    role: str = "model"

    @property
    def trained_on(self) -> Sequence[Patients]:
        return tuple(p for player in self._made().values() for p in player.trained_on)

    def identity(self) -> str:
        return "+".join(f"{task}:{p.identity()}" for task, p in sorted(self._made().items()))

    def plays(self, task: Task) -> bool:
        return True

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        """Raises NotReady where no run has this task."""
        yield from self._player(task).play(family, task, split, seeds)

    def _player(self, task: str) -> LanguagePlayer:
        asked = "" if task == HOME_TASK else f' ARGS="--task {task}"'
        folder = model_folder(
            str(self._folder(task)), "config.json", f"make one with: make run{asked}"
        )
        return LanguagePlayer(self.name, folder, self.options)

    def _folder(self, task: str) -> Path:
        return self.runs / (HOME if task == HOME_TASK else f"{HOME}_{task}") / self.stage

    def _made(self) -> dict[str, LanguagePlayer]:
        """The players there are, by task."""
        made = {}
        for task in {task for name in registry.names() for task in registry.get(name).tasks}:
            try:
                made[task] = self._player(task)
            except NotReady:
                continue
        return made
