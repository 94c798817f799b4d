"""`python -m eval.validate`: is this environment fit to train and to measure on?

Runs every check of `finding.NAMES` on every task and says what was measured, what was asked, and
whether it holds. Knows no family: what it is told comes from the contract alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from env_server import registry
from env_server.contract import BadSplit, Family, JsonObject, RoundsError, Split, task_of
from eval import conduct, grading, leakage, stopped
from eval.finding import NAMES, Finding
from eval.probes import Subject

EPISODES = 60
LEAST_EPISODES = 4
ALL_FAMILIES = "all"
ACROSS_TASKS = ("difficulty_separation",)  # one finding for several tasks: a line of its own
WIDE = 6  # tasks that a table shows side by side
PLAIN_WIDTH = 160

Check = Callable[[Subject], Finding]
Tick = Callable[[str, str], None]  # (task, check) that comes next

CHECKS: dict[str, Check] = {
    "oracle_max": grading.oracle_max,
    "floor_gap": grading.floor_gap,
    "canary_floor": grading.canary_floor,
    "no_solution_leakage": leakage.no_solution_leakage,
    "seed_control": conduct.seed_control,
    "episode_determinism": conduct.episode_determinism,
    "episode_isolation": conduct.episode_isolation,
    "replayability": conduct.replayability,
    "reward_reachability": grading.reward_reachability,
    "headroom": grading.headroom,
    "variance_bound": grading.variance_bound,
    "gameability_gap": grading.gameability_gap,
}


class TooFew(RoundsError, ValueError):
    """So few episodes were asked for that nothing could be said."""


@dataclass(frozen=True, slots=True)
class Report:
    """Every finding on one family."""

    family: str
    version: str
    split: str
    episodes: int
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(found.status == "fail" for found in self.findings)

    def of(self, check: str) -> list[Finding]:
        return [found for found in self.findings if found.check == check]

    def to_json(self) -> JsonObject:
        return {
            "family": self.family,
            "version": self.version,
            "split": self.split,
            "episodes": self.episodes,
            "seconds": round(self.seconds, 2),
            "ok": self.ok,
            "findings": [found.to_json() for found in self.findings],
        }


def validate(
    family: Family | str,
    tasks: Sequence[str] | None = None,
    episodes: int = EPISODES,
    split: Split = "validation",
    tick: Tick | None = None,
) -> Report:
    """Every check on every task (all, unless named) on `episodes` patients of the split.

    What an environment raises while it is checked is a failed check, not an error here.
    Raises UnknownFamily, UnknownTask, BadSplit, TooFew.
    """
    family = registry.get(family) if isinstance(family, str) else family
    if episodes < LEAST_EPISODES:
        raise TooFew(f"{episodes} episodes can show nothing; ask for {LEAST_EPISODES} at least")
    chosen = [task_of(family, name) for name in tasks or family.tasks]
    for task in chosen:
        if split not in task.splits:
            known = ", ".join(task.splits)
            raise BadSplit(f"{task.name} has no split {split!r}; splits: {known}")
    subjects = [Subject(family, task, episodes, split) for task in dict.fromkeys(chosen)]
    begun = time.perf_counter()
    found: list[Finding] = []
    for subject in subjects:
        for name, check in CHECKS.items():
            if tick:
                tick(subject.task.name, name)
            found.append(_asked(name, check, subject))
    found += _separation(subjects)
    found.sort(key=lambda f: NAMES.index(f.check))  # stable: tasks keep their order
    seconds = time.perf_counter() - begun
    return Report(family.name, family.version, split, episodes, seconds, tuple(found))


def _asked(name: str, check: Check, subject: Subject) -> Finding:
    """What the check finds. The boundary where whatever an environment raises is recorded."""
    try:
        return check(subject)
    except Exception as raised:
        return _raised(name, subject.task.name, raised)


def _separation(subjects: Sequence[Subject]) -> list[Finding]:
    try:
        return grading.difficulty_separation(subjects)
    except Exception as raised:  # the same boundary, for the check that looks at all tasks together
        return [_raised("difficulty_separation", "all", raised)]


def _raised(check: str, task: str, raised: Exception) -> Finding:
    said = f"raised {type(raised).__name__}: {raised}"
    return Finding(check, task, "fail", None, "no exception", said)


# -- the command -------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The report on stdout; 0 where nothing fails, 1 where something does, 2 for a wrong question."""
    asked = _parser().parse_args(argv)
    try:
        names = registry.names() if asked.family == ALL_FAMILIES else (asked.family,)
        if asked.family == ALL_FAMILIES and asked.task:
            names = (registry.owner(asked.task[0]).name,)
        with _progress() as tick:
            reports = [
                validate(name, asked.task, asked.episodes, asked.split, tick) for name in names
            ]
    except RoundsError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    if asked.json:
        body = [report.to_json() for report in reports]
        print(json.dumps(body[0] if asked.family != ALL_FAMILIES else body, indent=2))
    else:
        for report in reports:
            show(report)
    return 0 if all(report.ok for report in reports) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.validate",
        description="Check that an environment is fit to train and to measure on.",
        epilog=f"checks: {', '.join(NAMES)}",
    )
    add = parser.add_argument
    add("--family", default="polypharmacy", help="which one, or `all` (default: %(default)s)")
    add("--task", nargs="+", metavar="TASK", help="only these tasks of it")
    add("--episodes", type=int, default=EPISODES, help="patients a task (default: %(default)s)")
    add("--split", default="validation", help="whose patients (default: %(default)s)")
    add("--json", action="store_true", help="the report as JSON instead of a table")
    return parser


@contextmanager
def _progress() -> Iterator[Tick | None]:
    """What is being checked, on a terminal's stderr; nothing where it is none."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status("") as status:
        yield lambda task, check: status.update(f"{task} · {check}")


MARKS = {
    "pass": ("pass", "green"),
    "fail": ("FAIL", "bold red"),
    "expected": ("expected (seed task)", "yellow"),
    "not_applicable": ("n/a", "dim"),
}


def show(report: Report, console: Console | None = None) -> None:
    """The report as a table, and a line for what did not simply pass or is about several tasks."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=PLAIN_WIDTH)
    console.print(_table(report))
    for found in report.findings:
        if found.status != "pass" or found.check in ACROSS_TASKS:
            mark, style = MARKS[found.status]
            asked = f" (asked: {found.threshold})" if found.threshold else ""
            line = Text.assemble(
                (mark, style), f" {found.check}, {found.task}: {found.said}{asked}"
            )
            console.print(line)
    counts = {s: sum(f.status == s for f in report.findings) for s in MARKS}
    console.print(
        f"{report.family} {report.version}, {report.episodes} {report.split} patients a task,"
        f" {report.seconds:.0f} s: {counts['pass']} pass, {counts['fail']} fail,"
        f" {counts['expected']} expected of seed tasks, {counts['not_applicable']} not applicable"
    )


def _table(report: Report) -> Table:
    """Checks by tasks, or by how many tasks passed where tasks are many."""
    tasks = list(dict.fromkeys(f.task for f in report.of(NAMES[0])))
    side_by_side = len(tasks) <= WIDE
    table = Table(title=f"{report.family} {report.version}", title_justify="left")
    for heading in ["check", *(tasks if side_by_side else ["pass", "of", "least"])]:
        table.add_column(heading)
    for name in NAMES:
        found = report.of(name)
        if side_by_side and name not in ACROSS_TASKS:
            by_task = {f.task: f for f in found}
            table.add_row(name, *(_cell(by_task[task]) for task in tasks))
        elif not side_by_side:
            measured = [f.measured for f in found if f.measured is not None]
            passed = sum(f.status == "pass" for f in found)
            least = f"{min(measured):.3f}" if measured else ""
            table.add_row(name, str(passed), str(len(found)), least)
    return table


def _cell(found: Finding) -> Text:
    mark, style = MARKS[found.status]
    mark = "expected" if found.status == "expected" else mark
    measured = "" if found.measured is None else f" {found.measured:.3f}"
    return Text(f"{mark}{measured}", style)


if __name__ == "__main__":
    sys.exit(stopped.stoppable(main))
