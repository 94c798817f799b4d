"""A finished comparison, read back from its folder: who was asked, who scored what, who failed worst.

Reads episodes one at a time, because a run may hold gigabytes. Knows files and ranks; nothing of
how a run is shown.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from env_server.contract import JsonObject, RoundsError
from eval.heldout import LEVELS_UP
from eval.record import AGENTS, EPISODES, read_episodes
from eval.result import result
from eval.rows import KEYS, Row
from eval.trajectory import Trajectory

STEPS = ("step", "update", "episodes", "episode", "patients", "timesteps")
NEGLIGIBLE = 0.002  # of a score: no failure worth a page
FIGURES = ("score", "return", "episode_return", "reward", "regret", "loss")


class NotFinished(RoundsError, FileNotFoundError):
    """The folder holds no finished run."""


@dataclass(frozen=True, slots=True)
class Training:
    """What an agent's own folder tells of how it learned: points of (step, figure)."""

    agent: str
    folder: Path
    unit: str  # what a step is
    figure: str  # what was measured
    noisy: tuple[tuple[float, float], ...]  # every logged step, as sampled
    looks: tuple[tuple[float, float], ...]  # validation


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
        trainings=tuple(_trainings(agents)),
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
    known = {KEYS.get(f.name, f.name): f.name for f in fields(Row)}
    body = json.loads(path.read_text("utf-8"))
    return [Row(**{known[key]: v for key, v in row.items() if key in known}) for row in body]


# -- how agents learned --------------------------------------------------------------------------


def _trainings(agents: Mapping[str, Any]) -> Iterable[Training]:
    seen: set[Path] = set()
    for name, told in agents.get("players", {}).items():
        folder = told.get("folder")
        found = training(name, Path(folder)) if folder else None
        if found is not None and found.folder not in seen:
            seen.add(found.folder)
            yield found


def training(agent: str, folder: Path) -> Training | None:
    """The curve kept in a model's folder or up to two above it; None where there is none."""
    inside = folder if folder.is_dir() else folder.parent
    places = (inside, *inside.resolve().parents[:LEVELS_UP])
    home = next((place for place in places if (place / "metrics.jsonl").is_file()), None)
    if home is None:
        return None
    steps, looks = lines(home / "metrics.jsonl"), lines(home / "validation.jsonl")
    unit = _first(STEPS, steps)
    figure = _first(FIGURES, looks if looks and _first(FIGURES, looks) else steps)
    if unit is None or figure is None:
        return None
    return Training(
        agent, home, unit, figure, _points(steps, unit, figure), _points(looks, unit, figure)
    )


def lines(path: Path) -> list[JsonObject]:
    """The records of a .jsonl file; none without one. A last line cut short is left out."""
    if not path.is_file():
        return []
    found: list[JsonObject] = []
    for line in path.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # the run is being written, or was killed while it was
            break
    return found


def _first(names: Sequence[str], records: Sequence[JsonObject]) -> str | None:
    told = {key for record in records for key in record}
    return next((name for name in names if name in told), None)


def _points(
    records: Sequence[JsonObject], unit: str, figure: str
) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(r[unit]), float(r[figure]))
        for r in records
        if isinstance(r.get(unit), int | float) and isinstance(r.get(figure), int | float)
    )


def _json(path: Path) -> JsonObject:
    """What a file of the run says; nothing where an older run did not write it."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
