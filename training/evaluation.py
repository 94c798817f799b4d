"""What was measured of a trained model, as a run's folder keeps it.

Reads the two forms there are: before_after.json of `training.evidence`, and the folder of a kept
`eval.compare --run`. Knows rows and where they came from; plays nothing and computes nothing anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from env_server.contract import JsonObject, RoundsError
from eval.rows import ALL_TASKS, Row

BEFORE_AFTER, TABLE = "before_after.json", "table.json"


class NotEvaluated(RoundsError, FileNotFoundError):
    """Nothing says how good the model is; the message holds the command that measures it."""

    __str__ = Exception.__str__


class NotInTable(RoundsError, KeyError):
    """The evaluation has no row of the model that is to be published."""

    __str__ = Exception.__str__


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The rows of a table, and what they were measured with.

    subject: the agent in the table that is the model. seeds: of the patients, first and last, or
    None where the record does not tell. files: what is published as the record itself. identity: of
    the weights that were measured (`eval.language.fingerprint`), and version: of the environment it was
    measured in; None where nobody wrote it down.
    """

    rows: tuple[Row, ...]
    subject: str
    seeds: tuple[int, int] | None
    temperature: float
    machine: JsonObject
    files: tuple[Path, ...]
    identity: str | None = None
    version: str | None = None

    @property
    def own(self) -> tuple[Row, ...]:
        """The model's rows, one a task."""
        return tuple(r for r in self.rows if r.agent == self.subject and r.task != ALL_TASKS)

    @property
    def day(self) -> str:
        """When it was measured, as far as the file's date can tell: YYYY-MM-DD."""
        return datetime.fromtimestamp(self.files[0].stat().st_mtime, UTC).date().isoformat()


def read(places: Sequence[Path], subject: str, how: str) -> Evaluation:
    """The evaluation in the first place that has one.

    subject: the agent whose rows are the model's. how: the command that makes an evaluation.
    Raises NotEvaluated, NotInTable.
    """
    for place in places:
        if (place / BEFORE_AFTER).is_file():
            found = _before_after(place / BEFORE_AFTER, subject)
            break
        if (place / TABLE).is_file():
            found = _table(place, subject)
            break
    else:
        looked = ", ".join(map(str, places))
        raise NotEvaluated(
            f"no evaluation in {looked}: a model is not published without one. Make it with:\n  {how}"
        )
    if not [row for row in found.own if row.score is not None]:
        known = ", ".join(dict.fromkeys(row.agent for row in found.rows))
        raise NotInTable(
            f"{found.files[0]} has no score of {subject!r}; its agents: {known}."
            " Name the one that is this model with --agent"
        )
    return found


def how_to_evaluate(run: Path, config: Mapping[str, Any], task: str) -> str:
    """The command that measures this run's model."""
    if "num_generations" in config:
        start = Path(str(config.get("model", "runs/sft/model")))
        warm = start.parent if start.name == "model" else start
        return (
            f"python -m training.evidence --sft {quote(str(warm))} --grpo {quote(str(run))}"
            f" --to {quote(str(run))} --task {quote(task)}"
        )
    players = quote(f"random,heuristic,sft=local:{run},reference")
    return (
        f"python -m eval.compare --tasks {quote(task)} --episodes 300 --agents {players}"
        f" --run {quote(run.name)}_table, then publish with --evidence runs/{run.name}_table"
    )


def _before_after(path: Path, subject: str) -> Evaluation:
    body = json.loads(path.read_text("utf-8"))
    rows = tuple(Row.from_json(row) for row in body["rows"])
    return Evaluation(
        rows=rows,
        subject=subject,
        seeds=(0, int(body["n"]) - 1),  # evidence plays the split from its first patient
        temperature=float(body.get("temperature", 0.0)),
        machine=body.get("machine", {}),
        files=_present(path, path.with_suffix(".md")),
    )


def _table(folder: Path, subject: str) -> Evaluation:
    path = folder / TABLE
    rows = tuple(Row.from_json(row) for row in json.loads(path.read_text("utf-8")))
    settings, seeds = _json(folder / "settings.json"), _json(folder / "seeds.json")
    ranges = seeds.get("evaluated_on", [])
    return Evaluation(
        rows=rows,
        subject=subject,
        seeds=(ranges[0]["seed_from"], ranges[0]["seed_to"] - 1) if ranges else None,
        temperature=float(settings.get("temperature", 0.0)),
        machine=_json(folder / "versions.json"),
        files=_present(path, folder / "seeds.json", folder / "settings.json"),
        identity=settings.get("identities", {}).get(subject),
        version=settings.get("version"),
    )


def _present(*paths: Path) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.is_file())


def _json(path: Path) -> JsonObject:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
