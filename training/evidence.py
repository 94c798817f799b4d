"""Before and after: the proof that a run has learned, or has not, on patients nobody trained on.

One table by `eval.compare`, GRPO less SFT on the same patients, and the learning curve. Knows where
a run keeps its records; nothing of how it was trained.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from env_server import registry
from env_server.contract import JsonObject, RoundsError
from eval import stopped, table
from eval.compare import Tick, compare
from eval.roster import Options
from eval.rows import Row

SFT, GRPO = "sft", "grpo"
JSON, MARKDOWN, PICTURE = "before_after.json", "before_after.md", "learning_curve.png"


class NothingToShow(RoundsError, RuntimeError):
    """A run's folder lacks what the evidence is made of."""


def before_after(
    folder: Path,
    sft: Path,
    grpo: Path,
    family: str,
    task: str,
    patients: int = 200,
    tick: Tick | None = None,
    temperature: float = 0.0,
) -> list[Row]:
    """Play both models and the family's agents on test patients; write the evidence to `folder`.

    sft, grpo: the runs' folders. temperature: of both models; 0 is greedy. Differences are taken to the warm start: the question is what
    reinforcement added. Raises NothingToShow where a run has no model yet.
    """
    rows = compare(
        family,
        [task],
        players(sft, grpo, family, task),
        episodes=patients,
        split="test",
        baseline=SFT,
        options=Options(temperature),
        tick=tick,
    )
    folder.mkdir(parents=True, exist_ok=True)
    said = summary(rows)
    _write(
        folder / JSON,
        json.dumps(record(rows, sft, grpo) | {"temperature": temperature}, indent=2) + "\n",
    )
    _write(folder / MARKDOWN, f"{said}\n\n{table.markdown(rows)}\n![]({PICTURE})\n")
    picture(folder / PICTURE, grpo, rows)
    return rows


def players(sft: Path, grpo: Path, family: str, task: str) -> list[str]:
    """Who is in the table, in its order."""
    return [
        *_others(family, task, ("random", "canary", "heuristic")),
        f"{SFT}=local:{_model(sft)}",
        f"{GRPO}=local:{_model(grpo)}",
        *_others(family, task, ("reference",)),
    ]


def _model(run: Path) -> Path:
    path = run / "model"
    if not (path / "config.json").is_file():
        raise NothingToShow(f"{run} has no model yet; let its training finish first")
    return path


def _others(family: str, task: str, roles: Sequence[str]) -> list[str]:
    """The family's agents in these roles that play the task; of canaries, the one that plays most."""
    cards = [
        card
        for role in roles
        for card in registry.get(family).agents.values()
        if card.role == role and (not card.tasks or task in card.tasks)
    ]
    canaries = [card.name for card in cards if card.role == "canary"]
    shown = {"blind_stop"} & set(canaries) or set(canaries[:1])
    return [card.name for card in cards if card.role != "canary" or card.name in shown]


def row_of(rows: Sequence[Row], agent: str) -> Row:
    return next(row for row in rows if row.agent == agent)


def summary(rows: Sequence[Row]) -> str:
    """One sentence: from where to where, by how much, how sure, on how many patients."""
    sft, grpo = row_of(rows, SFT), row_of(rows, GRPO)
    return (
        f"{sft.task}, {grpo.n} test patients: score {sft.score:.3f} after the warm start, "
        f"{grpo.score:.3f} after GRPO; difference {grpo.diff:+.3f} "
        f"(95 % interval {grpo.diff_low:+.3f} to {grpo.diff_high:+.3f}, paired)."
    )


def record(rows: Sequence[Row], sft: Path, grpo: Path) -> JsonObject:
    """What `before_after.json` holds: the rows, the difference, the curve, where it was measured."""
    gained = row_of(rows, GRPO)
    return {
        "summary": summary(rows),
        "task": gained.task,
        "split": gained.split,
        "n": gained.n,
        "grpo_minus_sft": {
            "mean": gained.diff,
            "low": gained.diff_low,
            "high": gained.diff_high,
            "p": gained.p,
        },
        "rows": [row.to_json() for row in rows],
        "validation": read_lines(grpo / "validation.jsonl"),
        "seconds": {run.name: trained_s(run) for run in (sft, grpo)},
        "machine": machine(),
    }


def machine() -> JsonObject:
    """What the figures were taken on."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


def trained_s(run: Path) -> float | None:
    """Wall-clock seconds of the run's training loop, as far as its last process went."""
    lines = read_lines(run / "metrics.jsonl")
    return lines[-1]["seconds"] if lines else None


def read_lines(path: Path) -> list[JsonObject]:
    """The records of a .jsonl file; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def picture(path: Path, grpo: Path, rows: Sequence[Row]) -> None:
    """The learning curve as PNG: sampled training episodes, validation, and where others stand."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    steps = read_lines(grpo / "metrics.jsonl")
    looks = read_lines(grpo / "validation.jsonl")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    at, scores = [s["step"] for s in steps], [s["score"] for s in steps]
    axes.plot(at, scores, color="#9ec5e8", linewidth=0.8, label="train, sampled")
    axes.plot(at, _smooth(scores), color="#1f6fb2", label="train, running mean")
    axes.plot(
        [look["step"] for look in looks],
        [look["score"] for look in looks],
        "o-",
        color="#c4452f",
        label="validation, greedy",
    )
    _levels(axes, rows)
    axes.set(xlabel="GRPO step", ylabel="score", title=summary(rows).replace("; ", ";\n"))
    axes.title.set_fontsize(9)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _levels(axes: Any, rows: Sequence[Row]) -> None:
    """A line where each agent that learns nothing stands on the test patients."""
    styles = {"heuristic": "--", "reference": ":", "canary": "-."}
    for row in rows:
        if row.role in styles and row.score is not None:
            axes.axhline(row.score, color="#555555", linewidth=0.8, linestyle=styles[row.role])
            axes.annotate(
                f"{row.agent} (test)", (0, row.score), fontsize=7, color="#555555", va="bottom"
            )


def _smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """Centred running mean; shorter at both ends."""
    half = window // 2
    near = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(some) / len(some) for some in near]


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m training.evidence`: the table, the picture and the record of two finished runs."""
    parser = argparse.ArgumentParser(prog="python -m training.evidence", description=main.__doc__)
    add = parser.add_argument
    add("--sft", type=Path, required=True, help="folder of the warm start")
    add("--grpo", type=Path, required=True, help="folder of the GRPO run")
    add("--to", type=Path, required=True, help="folder to write the evidence to")
    add("--task", required=True, help="task whose test patients are played")
    add("--patients", type=int, default=300, help="how many (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="of both models; 0 is greedy (the default)")
    asked = parser.parse_args(argv)
    try:
        family = registry.owner(asked.task)
        rows = before_after(
            asked.to,
            asked.sft,
            asked.grpo,
            family.name,
            asked.task,
            asked.patients,
            temperature=asked.temperature,
        )
    except (RoundsError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(stopped.stoppable(main))
