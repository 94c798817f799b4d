"""Prescribing cascades: a drug whose unwanted effect is taken for a disease and given another drug.

Knows which drugs stand in such a relation, not what it costs.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from data.polypharmacy.tables import BadTable, Tables

HEADER = ["root", "downstream", "via"]


@dataclass(frozen=True, slots=True)
class Cascade:
    """`root` (a drug or group) explains why `downstream` (a drug or group) is taken."""

    root: str
    downstream: str
    via: str


def load(tables: Tables) -> dict[str, frozenset[str]]:
    """drug_id of a root -> drug_ids it may explain. Raises BadTable with file, line, value, remedy.

    Empty where the tables' directory, a hospital's own, has no cascades.csv.
    """
    path = tables.directory / "cascades.csv"
    if not path.exists():
        return {}
    found: dict[str, set[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if next(rows, None) != HEADER:
            raise BadTable(f"{path.name} line 1: the header must be {','.join(HEADER)}")
        for line, row in enumerate(rows, start=2):
            if len(row) != len(HEADER):
                raise BadTable(f"{path.name} line {line}: {len(row)} fields; write {len(HEADER)}")
            roots, downstream = (_members(tables, path, line, word) for word in row[:2])
            for root in roots:
                found.setdefault(root, set()).update(downstream - {root})
    return {root: frozenset(drugs) for root, drugs in found.items()}


def _members(tables: Tables, path: Path, line: int, word: str) -> set[str]:
    """The drug of that id, or the drugs of that substitution group."""
    if word in tables.drugs:
        return {word}
    group = {d.drug_id for d in tables.drugs.values() if d.substitution_group == word}
    if not group:
        raise BadTable(
            f"{path.name} line {line}: {word!r} is neither a drug_id nor a substitution_group;"
            " use one of drug_metadata.csv"
        )
    return group
