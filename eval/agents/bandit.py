"""`bandit[:FOLDER]`: the neural Thompson sampler over drug pairs that training/pair_bandit.py leaves on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from env_server.contract import AgentCard, Family, Split, Task
from eval.episode import play
from eval.heldout import Patients, trained_on
from eval.pair_risk import ABOUT, GAIN, RISK, PairRisk, Reviewer, load
from eval.roster import NotReady, Options, Player
from eval.trajectory import Trajectory

USAGE = "bandit[:FOLDER]"
DEFAULT = "runs/bandit"
IN_TABLE = 25
FAMILIES = ("polypharmacy",)
HOW = "make one with: python -m training.bandit --environment polypharmacy --task"


def player(argument: str, name: str, options: Options) -> Player:
    """The bandit in a run's folder, or one for each task in folders of the tasks' names. Raises NotReady."""
    folder = Path(argument)
    if not (folder / ABOUT).is_file() and not list(folder.glob(f"*/{RISK}")):
        raise NotReady(f"{name}: no bandit in {folder}; {HOW} TASK")
    return BanditPlayer(name, folder)


@dataclass(slots=True)
class BanditPlayer:
    """Loads the model of a task when it is first played."""

    name: str
    folder: Path
    role: str = "model"
    _models: dict[Path, PairRisk] = field(default_factory=dict)

    @property
    def trained_on(self) -> Sequence[Patients]:
        return tuple(p for place in self._places() for p in trained_on(place))

    def identity(self) -> str:
        """A fingerprint of every model it may play with."""
        mark = blake2b(digest_size=8)
        for place in self._places():
            for name in (ABOUT, RISK, GAIN):
                mark.update((place / name).read_bytes())
        return mark.hexdigest()

    def plays(self, task: Task) -> bool:
        return task.family == "polypharmacy"

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        model = self._model(task)
        card = AgentCard(
            self.name,
            "heuristic",
            lambda episode: Reviewer(model, episode.task.name, episode.split, episode.seed),
            "neural Thompson sampling over drug pairs",
        )
        for seed in seeds:
            yield replace(play(family, task, seed, split, card), agent=self.name)

    def _places(self) -> list[Path]:
        if (self.folder / ABOUT).is_file():
            return [self.folder]
        return sorted(
            p.parent for p in self.folder.glob(f"*/{RISK}") if (p.parent / ABOUT).is_file()
        )

    def _model(self, task: str) -> PairRisk:
        place = self.folder if (self.folder / RISK).is_file() else self.folder / task
        if not (place / ABOUT).is_file():
            raise NotReady(f"{self.name}: no bandit for {task} in {place}; {HOW} {task}")
        if place not in self._models:
            self._models[place] = load(place)
        return self._models[place]
