"""`reinforce:FOLDER`: policies that training.reinforce left, one sub-folder a task; plays greedily.

The folder may also be that of one task. Many episodes advance together, one forward pass a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from env_server.contract import Episode, Family, Split
from eval.episode import take_turn
from eval.policies import POLICY, TaskPolicies, places_in
from eval.roster import NotReady, Options, Player
from eval.trajectory import Trajectory, Turn, plain

USAGE = "reinforce[:FOLDER]"
DEFAULT = "runs/reinforce"
IN_TABLE = 20
BATCH = 256  # episodes that advance together


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
        from eval import policy_net

        policy, encoding, _ = policy_net.read(place / POLICY, family)
        for start in range(0, len(seeds), BATCH):
            episodes = [family.begin(task, seed, split) for seed in seeds[start:][:BATCH]]
            turns, seconds = _play_out(policy, encoding, episodes)
            for episode, taken in zip(episodes, turns, strict=True):
                yield _trajectory(self.name, family, episode, taken, seconds / len(episodes))


def made_for(path: Path) -> tuple[str, str]:
    """(family, task) that the policy in `path` plays. Raises UnreadablePolicy."""
    from eval.policy_net import about

    shape = about(path)["shape"]
    return str(shape["family"]), str(shape["task"])


def _play_out(
    policy: Any, encoding: Any, episodes: Sequence[Episode]
) -> tuple[list[tuple[Turn, ...]], float]:
    """(the turns of every episode, the seconds the policy took to decide them all)."""
    import numpy as np
    import torch

    from eval.policy_net import masked

    turns: list[list[Turn]] = [[] for _ in episodes]
    live, seconds = list(range(len(episodes))), 0.0
    while live:
        seen = [episodes[i].observe() for i in live]
        begun = perf_counter()
        features = torch.from_numpy(np.stack([encoding.features(o) for o in seen]))
        mask = torch.from_numpy(np.stack([encoding.mask(o) for o in seen]))
        with torch.no_grad():
            chosen = masked(policy(features)[0], mask).argmax(1).tolist()
        moves = [encoding.action(o, index) for o, index in zip(seen, chosen, strict=True)]
        seconds += perf_counter() - begun
        for i, move in zip(live, moves, strict=True):
            turns[i].append(take_turn(episodes[i], move))
        live = [i for i in live if not episodes[i].done]
    return [tuple(taken) for taken in turns], seconds


def _trajectory(
    name: str, family: Family, episode: Episode, turns: tuple[Turn, ...], seconds: float
) -> Trajectory:
    return Trajectory(
        family=family.name,
        task=episode.task.name,
        split=episode.split,
        seed=episode.seed,
        version=family.version,
        agent=name,
        turns=turns,
        final=episode.observe().to_json(),
        score=episode.score(),
        outcome=plain(episode.outcome()),
        seconds=seconds,
    )
