"""Whether `make run` keeps its word: GRPO above its warm start and the heuristic, in minutes on two cores.

Judges the records that are committed, or, with `--run`, a demo made now and timed.
Knows the record's fields; how a demo is run is `training.demo`'s business.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.promise import Figure, report

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "results" / "demo" / "before_after.json"
TIMED = ROOT / "bench" / "results" / "demo.json"  # of `--run --json`
LIMIT_S = 360.0
WHOLE = "make run, all of it"
PATIENTS = 500


def learned(record: dict[str, Any]) -> list[Figure]:
    """The gain over the warm start, by the end of its paired interval; the mean beside the heuristic's."""
    task, n, gain = record["task"], record["n"], record["grpo_minus_sft"]
    score = {row["agent"]: row["score"] for row in record["rows"]}
    ends = gain["low"], gain["high"]
    return [
        Figure(f"{task}: GRPO less warm start", gain["mean"], "score", n, None, None, *ends),
        Figure(f"{task}: lower end of that paired interval", gain["low"], "score", n, "least", 0.0),
        Figure(
            f"{task}: GRPO less heuristic",
            score["grpo"] - score["heuristic"],
            "score",
            n,
            "least",
            0.0,
        ),
    ]


def recorded() -> list[Figure]:
    """What the committed demo learned, and how long the committed run of all of it took."""
    record: dict[str, Any] = json.loads(RECORD.read_text("utf-8"))
    timed: dict[str, Any] = json.loads(TIMED.read_text("utf-8"))
    whole = next(figure for figure in timed["figures"] if figure["name"] == WHOLE)
    name = f"record of {timed['machine']['date']}: {WHOLE}"
    return [*learned(record), Figure(name, whole["value"], "s", 1, "most", LIMIT_S)]


def run_now(folder: Path) -> list[Figure]:
    """The demo from nothing to its table, by the clock. Raises RuntimeError where it fails."""
    if folder.exists():
        raise RuntimeError(f"{folder} exists: a demo that goes on is not timed; choose another")
    command = [sys.executable, "-m", "training.demo", "--init", "tiny", "--output", str(folder)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--patients", str(PATIENTS)], cwd=ROOT, stdout=sys.stderr, check=False
    )
    took_s = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"training.demo ended with {done.returncode}")
    record: dict[str, Any] = json.loads((folder / RECORD.name).read_text("utf-8"))
    return [*learned(record), Figure(WHOLE, took_s, "s", 1, "most", LIMIT_S)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    add = parser.add_argument
    add("--run", action="store_true", help="run it now and time it, instead of reading the record")
    add("--folder", type=Path, help="with --run: keep the demo's folder here (default: nowhere)")
    add("--json", action="store_true", help="print JSON with the machine")
    asked = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="rounds-demo-") as nowhere:
            folder = asked.folder or Path(nowhere) / "demo"
            figures = run_now(folder) if asked.run else recorded()
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seeds = f"test patients 0 to {PATIENTS - 1}; training seed of configs/grpo/demo.yaml"
    return report("bench.demo", figures, as_json=asked.json, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
