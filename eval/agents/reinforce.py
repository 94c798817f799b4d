"""`reinforce:FOLDER`: policies that training.reinforce left, one sub-folder a task; plays greedily.

The folder may also be that of one task. Many episodes advance together, one forward pass a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from env_server.contract import Family, Split
from eval.network_play import made_for, play_together
from eval.policies import POLICY, TaskPolicies, places_in
from eval.roster import NotReady, Options, Player
from eval.trajectory import Trajectory

USAGE = "reinforce[:FOLDER]"
DEFAULT = "runs/reinforce"
IN_TABLE = 20


def player(argument: str, name: str, options: Options) -> Player:
    """The policies in the folder or in its sub-folders. Raises NotReady where there is none."""
    if find_spec("torch") is None:
        raise NotReady("playing a trained policy needs torch: pip install -e '.[train]'")
    return ReinforcePlayer(name, Path(argument), places_in(argument, how))


def how(task: str) -> str:
    """The command that makes a policy for `task`."""
    return f"python -m training.reinforce --preset best --task {task}"


@dataclass(slots=True)
class ReinforcePlayer(TaskPolicies):
    """A policy a task, each in its own folder. Loaded when first needed."""

    _tasks: dict[tuple[str, str], Path] = field(default_factory=dict)

    def _place_of(self, family: str, task: str) -> Path:
        if not self._tasks:
            self._tasks = {made_for(place / POLICY): place for place in self.places}
        place = self._tasks.get((family, task))
        if place is None:
            raise NotReady(f"no policy for {task} in {self.folder}; make one with: {how(task)}")
        return place

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        place = self._place_of(family.name, task)
        if not seeds:
            return
        yield from play_together(self.name, place / POLICY, family, task, split, seeds)
