"""`ppo:FOLDER`: policies that training.ppo left, one sub-folder a task; played greedily.

The folder may also be that of one task. MaskablePPO, PPO and DQN are all read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from env_server.contract import AgentCard, Family, Split
from eval import actor
from eval.episode import play
from eval.policies import POLICY, TaskPolicies, places_in
from eval.roster import NotReady, Options
from eval.trajectory import Trajectory

USAGE = "ppo[:FOLDER]"
DEFAULT = "runs/ppo"
IN_TABLE = 30


def player(argument: str, name: str, options: Options) -> PpoPlayer:
    """The policies in the folder or its sub-folders. Raises NotReady where there is none."""
    if find_spec("safetensors") is None:
        raise NotReady("playing a trained policy needs safetensors: pip install 'rounds[agents]'")
    return PpoPlayer(name, Path(argument), places_in(argument, how))


def how(task: str) -> str:
    """The command that makes a policy for `task`."""
    return f"python -m training.ppo --config configs/ppo/best.yaml --task {task}"


@dataclass(slots=True)
class PpoPlayer(TaskPolicies):
    """A policy a task, each in its own folder. Loaded when first needed."""

    _actors: dict[tuple[str, str], actor.Actor] = field(default_factory=dict)

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        policy = actor.agent(self._actor_of(family.name, task), family)
        # the policy keeps nothing between steps, so that all episodes may share it
        card = AgentCard(self.name, "heuristic", lambda _: policy, "a trained policy")
        for seed in seeds:
            yield play(family, task, seed, split, card)

    def _actor_of(self, family: str, task: str) -> actor.Actor:
        if not self._actors:
            read = [actor.read(place / POLICY) for place in self.places]
            self._actors = {(one.about.family, one.about.task): one for one in read}
        found = self._actors.get((family, task))
        if found is None:
            raise NotReady(f"no policy for {task} in {self.folder}; make one with: {how(task)}")
        return found
