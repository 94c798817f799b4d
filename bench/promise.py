"""A figure beside what was promised of it, and the machine it was taken on.

Knows how to print and judge figures; how they are taken is each script's business.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from operator import ge, le
from os import cpu_count
from typing import Any, Literal

PACKAGES = (
    *("numpy", "scipy", "pydantic", "torch", "transformers", "trl", "openenv-core"),
    *("uvicorn", "uvloop", "websockets"),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `at` with `bound` is the promise; neither where nothing was promised.

    sampled: the value is a simulation's, so that a promise is broken only by its whole interval.
    """

    name: str
    value: float
    unit: str
    n: int
    at: Literal["least", "most"] | None = None
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    sampled: bool = False

    @property
    def kept(self) -> bool:
        if self.at is None or self.bound is None:
            return True
        judged = {"least": self.high, "most": self.low}[self.at] if self.sampled else None
        value = self.value if judged is None else judged
        return {"least": ge, "most": le}[self.at](value, self.bound)

    @property
    def promise(self) -> str:
        return "" if self.at is None else f"at {self.at} {self.bound:g}"


def machine() -> dict[str, Any]:
    """What the figures were taken on: processor, cores, Python and the packages that matter."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": found,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def report(title: str, figures: Sequence[Figure], *, as_json: bool, seeds: str) -> int:
    """Print the figures (JSON on request) and return the exit code: 1 where a promise falls short."""
    broken = [f for f in figures if not f.kept]
    if as_json:
        body = {
            "title": title,
            "machine": machine(),
            "seeds": seeds,
            "figures": [{**asdict(f), "promise": f.promise, "kept": f.kept} for f in figures],
        }
        print(json.dumps(body, indent=1))
    else:
        _table(title, figures)
    for figure in broken:
        print(
            f"promise not kept: {figure.name} is {figure.value:.4g} {figure.unit}, {figure.promise}",
            file=sys.stderr,
        )
    return 1 if broken else 0


def _table(title: str, figures: Sequence[Figure]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("figure", "value", "95 %", "unit", "n", "promise", ""):
        table.add_column(column, justify="right" if column in ("value", "n") else "left")
    for f in figures:
        interval = "" if f.low is None or f.high is None else f"{f.low:.3f} - {f.high:.3f}"
        mark = "" if f.at is None else "kept" if f.kept else "BROKEN"
        row = (f.name, f"{f.value:.4g}", interval, f.unit, str(f.n), f.promise, mark)
        table.add_row(*row)
    Console(width=120).print(table)
