"""A finished comparison, read back from its folder: who was asked, who scored what, who failed worst.

Reads episodes one at a time, because a run may hold gigabytes. Knows files and ranks; nothing of
how a run is shown.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from env_server.contract import JsonObject, RoundsError
from eval.learned import Training, trainings
from eval.record import AGENTS, EPISODES, read_episodes
from eval.result import result
from eval.rows import Row
from eval.trajectory import Trajectory

NEGLIGIBLE = 0.002  # of a score: no failure worth a page


class NotFinished(RoundsError, FileNotFoundError):
    """The folder holds no finished run."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A run's folder in memory, without the bulk of its episodes.

    scores: by (task, agent), then seed; lost episodes are left out. worst: by agent, hardest first.
    """

    folder: Path
    settings: JsonObject
    versions: JsonObject
    agents: JsonObject
    scores: Mapping[tuple[str, str], Mapping[int, float]]
    worst: Mapping[str, tuple[Trajectory, ...]]
    trainings: tuple[Training, ...]


def read(folder: Path, worst: int = 3) -> Finished:
    """Everything a report shows of `folder` beside its rows; `worst` episodes an agent are kept whole.

    Raises NotFinished, BadLine.
    """
    if not (folder / EPISODES).is_file():
        raise NotFinished(
            f"{folder} holds no {EPISODES}: keep a comparison with python -m eval.compare --run NAME"
        )
    agents = _json(folder / AGENTS)
    scores: dict[tuple[str, str], dict[int, float]] = {}
    failures: dict[str, list[tuple[float, int, str, Trajectory]]] = {}
    for played in read_episodes(folder / EPISODES):
        if played.lost is not None:
            continue
        scores.setdefault((played.task, played.agent), {})[played.seed] = played.score
        missed = shortfall(played)
        if missed > NEGLIGIBLE:
            hardest = failures.setdefault(played.agent, [])
            heapq.heappush(hardest, (missed, -played.seed, played.task, played))
            if len(hardest) > worst:
                heapq.heappop(hardest)
    return Finished(
        folder=folder,
        settings=_json(folder / "settings.json"),
        versions=_json(folder / "versions.json"),
        agents=agents,
        scores=scores,
        worst={
            name: tuple(t for *_, t in sorted(kept, reverse=True, key=lambda f: f[:3]))
            for name, kept in failures.items()
        },
        trainings=tuple(trainings(agents.get("players", {}))),
    )


def shortfall(played: Trajectory) -> float:
    """How much was missed: regret where the outcome tells it, else what the score lacks of 1."""
    regret = result(played).regret
    return 1.0 - played.score if regret is None else regret


def read_rows(folder: Path) -> list[Row]:
    """The rows that a finished run has written down. Raises NotFinished."""
    path = folder / "table.json"
    if not path.is_file():
        raise NotFinished(
            f"{folder} has no table.json: the run has not finished;"
            f" go on with python -m eval.compare --run {folder.name} --resume and the same flags"
        )
    return [Row.from_json(row) for row in json.loads(path.read_text("utf-8"))]


def _json(path: Path) -> JsonObject:
    """What a file of the run says; nothing where an older run did not write it."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
