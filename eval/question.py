"""What is to be compared, with every name known to be right before the first episode.

Knows tasks, splits, seeds and who is asked to play; nothing is played here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from env_server import registry
from env_server.contract import (
    BadSplit,
    Family,
    JsonObject,
    RoundsError,
    Split,
    Task,
    UnknownAgent,
    did_you_mean,
    nearest,
)
from eval import roster
from eval.heldout import Patients, refuse_overlap
from eval.roster import NotReady, Options, Player


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be compared: every agent plays seeds seed0 .. seed0+episodes-1 of each task."""

    family: Family
    tasks: tuple[Task, ...]
    split: Split
    seed0: int
    episodes: int

    @property
    def seeds(self) -> range:
        return range(self.seed0, self.seed0 + self.episodes)

    def patients(self) -> list[Patients]:
        seeds = self.seed0, self.seed0 + self.episodes
        return [Patients(self.family.name, task.name, self.split, *seeds) for task in self.tasks]


@dataclass(frozen=True, slots=True)
class Absent:
    """An agent that cannot play yet: it keeps its row, which says how to make it."""

    name: str
    why: str
    role: str = "model"


def ask(
    family: Family | str,
    tasks: Sequence[str] | None = None,
    split: Split = "test",
    seed0: int = 0,
    episodes: int = 200,
) -> Question:
    """The question, with every name known to be right."""
    home = registry.get(family) if isinstance(family, str) else family
    if episodes < 1 or seed0 < 0:
        raise RoundsError(
            f"episodes = {episodes}, seed0 = {seed0}: at least one episode, and no seed below 0"
        )
    chosen = tuple(registry.task(home, name) for name in tasks or _measured_tasks(home))
    for task in chosen:
        if split not in task.splits:
            known = ", ".join(task.splits)
            raise BadSplit(
                f"{task.name} has no split {split!r}{nearest(split, task.splits)}; splits: {known}"
            )
    return Question(home, chosen, split, seed0, episodes)


def enrol(
    question: Question, agents: Sequence[str | Player], options: Options
) -> list[Player | Absent]:
    """Who plays, in the order named; whoever is not ready keeps a place.

    Raises UnknownAgent, SameName, and TrainedOnTest where a model knows the patients already.
    """
    players: list[Player | Absent] = []
    for agent in agents:
        found = _enrol(question.family, agent, options)
        if any(found.name == other.name for other in players):
            raise roster.SameName(
                f"two agents are called {found.name!r}; give one a label: other={found.name}"
            )
        if not isinstance(found, Absent):
            refuse_overlap(found.name, found.trained_on, question.patients())
        players.append(found)
    if not players:
        raise UnknownAgent(
            f"no agent to compare; {question.family.name} has {question.family.agents}"
        )
    return players


def choose_baseline(players: Sequence[Player | Absent], wanted: str | None) -> str | None:
    """`wanted` if it plays; without a wish the heuristic, else the first of its role, else none."""
    names = [player.name for player in players]
    if wanted is not None:
        if wanted not in names:
            raise UnknownAgent(did_you_mean("baseline", wanted, tuple(names)))
        return wanted
    if "heuristic" in names:
        return "heuristic"
    return next((player.name for player in players if player.role == "heuristic"), None)


def default_agents(question: Question, canaries: bool) -> list[str]:
    """The defaults of every task asked for, each agent once."""
    named = [roster.default(question.family, task, canaries) for task in question.tasks]
    return list(dict.fromkeys(name for names in named for name in names))


def settings(
    question: Question, players: Sequence[Player | Absent], options: Options
) -> JsonObject:
    """Everything that two halves of one run must agree on."""
    present = [player for player in players if not isinstance(player, Absent)]
    return {
        "family": question.family.name,
        "version": question.family.version,
        "tasks": [task.name for task in question.tasks],
        "split": question.split,
        "seed0": question.seed0,
        "episodes": question.episodes,
        "agents": [player.name for player in players],
        "identities": {player.name: player.identity() for player in present},
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_new_tokens": options.max_new_tokens,
    }


def _measured_tasks(family: Family) -> list[str]:
    return [t.name for t in family.tasks.values() if not t.seed] or list(family.tasks)


def _enrol(family: Family, agent: str | Player, options: Options) -> Player | Absent:
    if not isinstance(agent, str):
        return agent
    try:
        return roster.find(agent, family, options)
    except NotReady as why:
        return Absent(roster.label_of(agent)[0], str(why))
