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
)
from eval import roster
from eval.engine import Elsewhere, Engine, seated
from eval.heldout import Patients, TrainedOnTest, refuse_overlap
from eval.roster import NotReady, Options, Player

EVERY = "all"  # the name of no task: of all of them


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
    """The question, with every name known to be right. tasks: `["all"]` is every one, seed tasks too."""
    home = registry.get(family) if isinstance(family, str) else family
    if episodes < 1 or seed0 < 0:
        raise RoundsError(
            f"episodes = {episodes}, seed0 = {seed0}: at least one episode, and no seed below 0"
        )
    named = home.tasks if tasks == [EVERY] else tasks or _measured_tasks(home)
    chosen = tuple(registry.task(home, name) for name in dict.fromkeys(named))
    for task in chosen:
        if split not in task.splits:
            raise BadSplit(did_you_mean(f"split of {task.name}", split, task.splits))
    return Question(home, chosen, split, seed0, episodes)


def enrol(
    question: Question,
    agents: Sequence[str | Player],
    options: Options,
    engine: Engine | None = None,
    by_name: bool = True,
) -> list[Player | Absent]:
    """Who plays, in the order named; whoever is not ready keeps a place.

    engine: where they play; None is here. by_name: somebody asked for these agents, so that one who
    knows the patients already is an error; a default one merely keeps an empty row.
    Raises UnknownAgent, SameName, and TrainedOnTest.
    """
    players: list[Player | Absent] = []
    for agent in agents:
        found = _enrol(question, agent, options, engine, by_name)
        if any(found.name == other.name for other in players):
            raise roster.SameName(
                f"two agents are called {found.name!r}; give one a label: other={found.name}"
            )
        players.append(found)
    if not players:
        raise UnknownAgent(
            f"no agent to compare; {question.family.name} has {', '.join(question.family.agents)}"
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


def chosen_agents(
    question: Question,
    named: Sequence[str | Player] | None,
    canaries: bool = False,
    shipped: bool = False,
) -> list[str | Player]:
    """Those named, else the defaults of every task; each once, those that know everything last.

    canaries: with every degenerate policy. shipped: the defaults without what training makes.
    """
    family, tasks = question.family, question.tasks
    if named is not None:
        added = [c for task in tasks for c in roster.canaries(family, task)] if canaries else []
        return [*named, *dict.fromkeys(c for c in added if c not in named)]
    each = [n for task in tasks for n in roster.default(family, task, canaries, shipped)]
    ordered = sorted(dict.fromkeys(each), key=lambda name: roster.place(family, name))
    return [*ordered]


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


def who(players: Sequence[Player | Absent], command: str | None) -> JsonObject:
    """Who played and where it lies, for whoever reads the run later; `command` asked for it."""
    told: dict[str, JsonObject] = {}
    for player in players:
        player = player.player if isinstance(player, Elsewhere) else player
        folder = getattr(player, "folder", None)
        told[player.name] = {"role": player.role} | ({"folder": str(folder)} if folder else {})
    return {"players": told} | ({"command": command} if command else {})


def _measured_tasks(family: Family) -> list[str]:
    return [t.name for t in family.tasks.values() if not t.seed] or list(family.tasks)


def _enrol(
    question: Question,
    agent: str | Player,
    options: Options,
    engine: Engine | None,
    by_name: bool,
) -> Player | Absent:
    name = roster.label_of(agent)[0] if isinstance(agent, str) else agent.name
    try:
        player = roster.find(agent, question.family, options) if isinstance(agent, str) else agent
        refuse_overlap(name, player.trained_on, question.patients())
    except NotReady as why:
        return Absent(name, str(why))
    except TrainedOnTest as why:
        if by_name:
            raise
        return Absent(name, str(why))
    return seated(player, agent, engine)
