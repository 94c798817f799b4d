"""What is lost from one split to another: the same agents on both, and the drop with its interval.

`--to swap` asks what was remembered of names, `--to test_targets` what carries over to genes never seen.
The two splits hold different cases, so the drop is of two means, not of pairs. Knows rows alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from env_server.contract import JsonObject, RoundsError
from eval import stopped
from eval.compare import compare
from eval.roster import Options, Player
from eval.rows import ALL_TASKS, Row


@dataclass(frozen=True, slots=True)
class Drop:
    """One agent on one task: the row of each split, and how much less the second scores."""

    here: Row
    there: Row
    mean: float
    low: float | None
    high: float | None

    def to_json(self) -> JsonObject:
        return {
            "agent": self.here.agent,
            "task": self.here.task,
            "drop": {"mean": self.mean, "low": self.low, "high": self.high},
            self.here.split: self.here.to_json(),
            self.there.split: self.there.to_json(),
        }


def drops(
    family: str,
    tasks: Sequence[str] | None,
    agents: Sequence[str | Player] | None,
    here: str = "test",
    there: str = "swap",
    episodes: int = 300,
    seed0: int = 0,
    options: Options | None = None,
) -> list[Drop]:
    """Play both splits with the same seeds. Agents that cannot play are left out."""
    played = {
        split: compare(
            family,
            tasks,
            agents,
            episodes=episodes,
            split=split,
            seed0=seed0,
            shipped=agents is None,
            options=options,
        )
        for split in dict.fromkeys((here, there))
    }
    after = {(row.task, row.agent): row for row in played[there]}
    pairs = [(row, after[row.task, row.agent]) for row in played[here] if row.task != ALL_TASKS]
    return [drop(a, b) for a, b in pairs if a.score is not None and b.score is not None]


def drop(here: Row, there: Row) -> Drop:
    """How much less `there` scores, with a 95 % interval made of the two rows' own.

    The distances of each mean to its bounds are added as variances are (Zou and Donner 2008), so that
    skewed intervals stay skewed.
    """
    a, b = here.score or 0.0, there.score or 0.0
    bounds = here.score_low, here.score_high, there.score_low, there.score_high
    a_low, a_high, b_low, b_high = bounds
    if a_low is None or a_high is None or b_low is None or b_high is None:
        return Drop(here, there, a - b, None, None)
    low = a - b - hypot(a - a_low, b_high - b)
    high = a - b + hypot(a_high - a, b - b_low)
    return Drop(here, there, a - b, low, high)


def markdown(found: Sequence[Drop]) -> str:
    """One table; a family's own measures as `before → after`."""
    if not found:
        return "nobody could play\n"
    names = dict.fromkeys(name for d in found for name in d.here.measures)
    here, there = found[0].here.split, found[0].there.split
    headings = ["task", "agent", "n", f"score, {here}", f"score, {there}", "drop [95 %]", *names]
    lines = [headings, [":---", ":---", *["---:"] * (len(headings) - 2)]]
    lines += [[*_cells(d), *(_moved(d, name) for name in names)] for d in found]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _cells(d: Drop) -> list[str]:
    interval = "" if d.low is None or d.high is None else f" [{d.low:+.3f}, {d.high:+.3f}]"
    scores = f"{d.here.score:.3f}", f"{d.there.score:.3f}"
    return [d.here.task, d.here.agent, str(d.here.n), *scores, f"{d.mean:+.3f}{interval}"]


def _moved(d: Drop, name: str) -> str:
    before, after = d.here.measures.get(name), d.there.measures.get(name)
    return "" if before is None or after is None else f"{before:.3f} → {after:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m eval.transfer --family drug_target --to swap`: a Markdown table, or JSON, on stdout."""
    parser = argparse.ArgumentParser(prog="python -m eval.transfer", description=main.__doc__)
    add = parser.add_argument
    add("--family", default="drug_target", help="environment family (default: %(default)s)")
    add("--tasks", nargs="+", help="tasks (default: those not marked seed)")
    add("--agents", nargs="+", help="agents, as in eval.compare (default: what the family ships)")
    add("--from", dest="here", default="test", help="first split (default: %(default)s)")
    add("--to", dest="there", default="swap", help="second split (default: %(default)s)")
    add("--episodes", type=int, default=300, help="cases a task and split (default: %(default)s)")
    add("--seed0", type=int, default=0, help="seed of the first case (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="of models; 0 is greedy (the default)")
    add("--json", action="store_true", help="both rows of every agent, as JSON")
    asked = parser.parse_args(argv)
    try:
        found = drops(
            asked.family,
            _names(asked.tasks),
            _names(asked.agents),
            asked.here,
            asked.there,
            asked.episodes,
            asked.seed0,
            Options(asked.temperature),
        )
    except (RoundsError, OSError, ValueError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps([d.to_json() for d in found], indent=2, allow_nan=False))
    else:
        print(markdown(found), end="")
    return 0


def _names(listed: Sequence[str] | None) -> list[str] | None:
    if listed is None:
        return None
    return [name.strip() for part in listed for name in part.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(stopped.stoppable(main))
