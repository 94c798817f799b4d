"""How an agent learned, as far as the folder it was loaded from tells.

Knows the journals that trainers leave: metrics.jsonl, and validation looks beside it or inside it.
Nothing of how a curve is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_server.contract import JsonObject
from eval.heldout import LEVELS_UP

METRICS, LOOKS = "metrics.jsonl", "validation.jsonl"
STEPS = ("step", "update", "evaluations", "episodes", "patients")  # the first that is there
FIGURES = ("score", "return", "reward", "gain", "recall", "loss")
LOOK = "validation"  # a stage of its own, or a figure beside the others

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Training:
    """One curve: points of (step, figure)."""

    agent: str
    folder: Path
    unit: str  # what a step is
    figure: str  # what was measured
    noisy: Points  # every logged step, as sampled
    looks: Points  # at validation patients


def trainings(players: Mapping[str, Mapping[str, Any]]) -> Iterator[Training]:
    """The curves of all players that name a folder, each journal once."""
    seen: set[Path] = set()
    for name, told in players.items():
        for home in journals(Path(told["folder"])) if told.get("folder") else ():
            found = None if home in seen else training(name, home)
            seen.add(home)
            if found is not None:
                yield found


def journals(folder: Path) -> Iterator[Path]:
    """Folders with a metrics.jsonl: the model's, the nearest of two above it, or each one inside it."""
    near = (folder, *folder.resolve().parents[:LEVELS_UP])
    home = next((place for place in near if (place / METRICS).is_file()), None)
    if home is not None:
        yield home
    else:
        yield from (path.parent for path in sorted(folder.glob(f"*/{METRICS}")))


def training(agent: str, home: Path) -> Training | None:
    """The curve that the journal in `home` holds; None where it tells no figure we know."""
    steps, looks = lines(home / METRICS), lines(home / LOOKS)
    beside = [line for line in steps if line.get("stage") == LOOK]
    steps = [line for line in steps if line.get("stage") != LOOK]
    unit = _first(STEPS, steps or beside)
    figure = _first(FIGURES, [*looks, *beside]) or _first(FIGURES, steps)
    if unit is None or figure is None:
        return None
    seen = _points([*looks, *beside], unit, figure) or _points(steps, unit, LOOK)
    return Training(agent, home, unit, figure, _points(steps, unit, figure), seen)


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


def _first(names: Sequence[str], records: Iterable[JsonObject]) -> str | None:
    told = {key for record in records for key in record}
    return next((name for name in names if name in told), None)


def _points(records: Sequence[JsonObject], unit: str, figure: str) -> Points:
    return tuple(
        (float(r[unit]), float(r[figure]))
        for r in records
        if isinstance(r.get(unit), int | float) and isinstance(r.get(figure), int | float)
    )
