"""`ppo:FOLDER`: policies that training.ppo left, one sub-folder a task; played greedily.

The folder may also be that of one task. MaskablePPO, PPO and DQN are all read here: plain layers, played with
numpy, and networks of places, which need torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from env_server.contract import AgentCard, Family, Split
from eval import actor
from eval.episode import play
from eval.network_play import holds_network, made_for, play_together
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
    return f"python -m training.ppo --preset best --task {task}"


def _demand_torch() -> None:
    if find_spec("torch") is None:
        raise NotReady("playing a network of places needs torch: pip install 'rounds[train]'")


@dataclass(slots=True)
class PpoPlayer(TaskPolicies):
    """A policy a task, each in its own folder. Loaded when first needed."""

    _actors: dict[tuple[str, str], actor.Actor] = field(default_factory=dict)
    _networks: dict[tuple[str, str], Path] = field(default_factory=dict)

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        self._sort()
        mine = (family.name, task)
        if mine in self._networks:
            yield from self._together(family, task, split, seeds)
        elif mine in self._actors:
            yield from self._one_by_one(family, task, split, seeds)
        else:
            raise NotReady(f"no policy for {task} in {self.folder}; make one with: {how(task)}")

    def _sort(self) -> None:
        """Find out, once, which task each file plays, and whether it is layers or a network of places."""
        if self._actors or self._networks:
            return
        for place in self.places:
            path = place / POLICY
            if holds_network(path):
                _demand_torch()
                self._networks[made_for(path)] = path
            else:
                found = actor.read(path)
                self._actors[found.about.family, found.about.task] = found

    def _one_by_one(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        policy = actor.agent(self._actors[family.name, task], family)
        # the policy keeps nothing between steps, so that all episodes may share it
        card = AgentCard(self.name, "heuristic", lambda _: policy, "a trained policy")
        for seed in seeds:
            yield play(family, task, seed, split, card)

    def _together(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        path = self._networks[family.name, task]
        yield from play_together(self.name, path, family, task, split, seeds)
