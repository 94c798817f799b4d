"""Writes the exported sample of patients: the first train patients of the three seed tasks, as one CSV.

Patients are generated, and the generator lives above this room, which may import nothing above itself:
it is named here by a dotted path and looked up when the command runs, never when `data` is imported.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

GENERATOR = "env_server.envs.polypharmacy.seed_case:begin"  # (task, seed, split) -> GeneratedCase
TASKS = ("easy_screening", "budgeted_screening", "complex_tradeoff")
SPLIT = (
    "train"  # an exported patient may be looked at, so it is never one that agents are tested on
)
SHIPPED = Path(__file__).parent / "polypharmacy" / "patients.csv"
COLUMNS = (
    "episode_id",
    "age",
    "sex",
    "conditions",
    "eGFR_category",
    "liver_function_category",
    "medication_ids",
    "baseline_risk_score",
)


class _Prescription(Protocol):
    @property
    def drug_id(self) -> str: ...


class _Patient(Protocol):
    @property
    def age(self) -> int: ...
    @property
    def sex(self) -> str: ...
    @property
    def conditions(self) -> Sequence[str]: ...
    @property
    def egfr_category(self) -> str: ...
    @property
    def liver_function_category(self) -> str: ...
    @property
    def prescriptions(self) -> Sequence[_Prescription]: ...


class GeneratedCase(Protocol):
    """What the generator must return: a patient and the risk of the first list, in [0, 1]."""

    @property
    def patient(self) -> _Patient: ...
    @property
    def first_risk(self) -> float: ...


class Generate(Protocol):
    def __call__(self, task: str, seed: int, split: str, /) -> GeneratedCase: ...


def generator(path: str = GENERATOR) -> Generate:
    """The generator at `module:function`."""
    module, _, name = path.partition(":")
    found: Generate = getattr(import_module(module), name)
    return found


def rows(n: int, seed: int, generate: Generate) -> Iterator[tuple[str, ...]]:
    """`n` patients, shared evenly among the three tasks, from consecutive seeds beginning at `seed`."""
    for at, task in enumerate(TASKS):
        share = n // len(TASKS) + (at < n % len(TASKS))
        for one in range(seed, seed + share):
            yield _row(task, one, generate(task, one, SPLIT))


def _row(task: str, seed: int, case: GeneratedCase) -> tuple[str, ...]:
    patient = case.patient
    return (
        f"{task}-{SPLIT}-{seed}",
        str(patient.age),
        patient.sex,
        ";".join(patient.conditions),
        patient.egfr_category,
        patient.liver_function_category,
        ";".join(p.drug_id for p in patient.prescriptions),
        f"{case.first_risk:.4f}",
    )


def export(n: int, seed: int) -> str:
    """The CSV text, header first, lines ended by a single newline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows(n, seed, generator()))
    return text.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="data.patients", description=__doc__)
    parser.add_argument("--n", type=int, default=120, help="patients, a third for each seed task")
    parser.add_argument("--seed", type=int, default=0, help="the first seed of each task")
    parser.add_argument(
        "--out", default=str(SHIPPED), help="file to write, - for stdout (default: the shipped one)"
    )
    asked = parser.parse_args(argv)
    if asked.n < 0:
        parser.error(f"--n {asked.n} is below 0; ask for 0 or more patients")
    text = export(asked.n, asked.seed)
    if asked.out == "-":
        sys.stdout.write(text)
    else:
        Path(asked.out).write_text(text, encoding="utf-8", newline="\n")
        print(asked.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
