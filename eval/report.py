"""A finished comparison as one page: report.html, which needs no network and no other file.

Chooses what is shown and in which order. Pictures are drawn by `charts`, episodes told by `story`,
the folder read by `finished`; the page's looks are in report.html.j2, report.css and report.js.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from env_server.contract import JsonObject, RoundsError
from eval import charts, stopped, table
from eval.finished import Finished, read, read_rows
from eval.learned import Training
from eval.limits import at_least
from eval.record import EPISODES, episodes_of
from eval.result import result
from eval.rows import ALL_TASKS, Row
from eval.spoken import Passage, decoder, passages
from eval.story import Story, tell
from eval.trajectory import Trajectory

PAGE = "report.html"
ROOM = Path(__file__).parent
ROLES = ("random", "canary", "heuristic", "model", "reference")
WORST = 3  # episodes an agent
SMOOTHED = 10  # steps behind a point of the running mean, at least
WORDS = ("agent", "note")

COSTS: tuple[tuple[str, Callable[[Row], float | None], bool], ...] = (  # (unit, of, on a log scale)
    ("steps an episode", lambda row: row.steps, False),
    ("sampled tokens an episode", lambda row: row.tokens, True),
    ("US dollars an episode", lambda row: row.cost_usd, True),
)

Pictures = tuple[tuple[str, Markup], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says and what it sorts by; "" sorts last."""

    text: str
    key: str
    words: bool


@dataclass(frozen=True, slots=True)
class Block:
    """One table of the page."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """One episode in full. `tape` is what the model read and wrote; empty where nobody can spell it."""

    score: float
    regret: float | None
    task: str
    seed: int
    episode_return: float
    refusals: int
    story: Story
    talked: bool
    tape: tuple[Passage, ...]
    tokens: int
    sampled: int


@dataclass(frozen=True, slots=True)
class Failures:
    """The episodes of one agent that missed most."""

    name: str
    episodes: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the template shows, in its order."""

    title: str
    lead: str
    baseline: str | None
    legend: Pictures
    scores: Pictures
    absent: tuple[tuple[str, str], ...]
    differences: Pictures
    costs: Pictures
    reliability: Pictures
    legend_of_table: str
    blocks: tuple[Block, ...]
    curves: Pictures
    failures: tuple[Failures, ...]
    by_regret: bool
    episodes_file: str
    facts: tuple[tuple[str, str], ...]


def write(run_folder: Path, rows: Sequence[Row], worst: int = WORST) -> Path:
    """Write `run_folder`/report.html about these rows and the run's episodes; return its path.

    worst: how many episodes of each agent are shown turn by turn. Raises NotFinished, BadLine.
    """
    found = page(read(run_folder, worst), rows)
    path = run_folder / PAGE
    path.write_text(rendered(found), "utf-8")
    return path


def rendered(page: Page) -> str:
    """The page as HTML. Its one style and one script are allowed by their hashes, nothing else is."""
    style, script = (_part(f"report.{kind}") for kind in ("css", "js"))
    pages = Environment(
        loader=FileSystemLoader(ROOM),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template("report.html.j2").render(
        page=page,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def page(run: Finished, rows: Sequence[Row]) -> Page:
    """What is shown of a run."""
    blocks = [list(b) for _, b in groupby(rows, key=lambda r: (r.family, r.task, r.split))]
    told = [b for b in blocks if any(r.score is not None for r in b)]
    absent = {r.agent: r.note for r in rows if r.score is None and r.task != ALL_TASKS and r.note}
    present = {r.agent for r in rows if r.score is not None}
    return Page(
        title=f"{rows[0].family if rows else 'no rows'} · {run.folder.resolve().name}",
        lead=_lead(rows),
        baseline=next((r.baseline for r in rows if r.baseline), None),
        legend=tuple((role, charts.symbol(role)) for role in ROLES if _plays(rows, role)),
        scores=tuple((_title(b), _scores(b)) for b in told),
        absent=tuple((a, why) for a, why in absent.items() if a not in present),
        differences=tuple(_differences(run, told)),
        costs=tuple(_costs(told)),
        reliability=tuple(_reliability(told)),
        legend_of_table=table.legend(rows),
        blocks=tuple(_block(b) for b in blocks),
        curves=tuple((f"{t.agent} · {t.folder.name}", _curve(t)) for t in run.trainings),
        failures=tuple(_failures(run, present)),
        by_regret=any(r.regret is not None for r in rows),
        episodes_file=f"{run.folder.as_posix()}/{EPISODES}",
        facts=tuple(_facts(run)),
    )


# -- pictures ------------------------------------------------------------------------------------


def _plays(rows: Sequence[Row], role: str) -> bool:
    return any(row.role == role and row.score is not None for row in rows)


def _title(block: Sequence[Row]) -> str:
    task = "all tasks" if block[0].task == ALL_TASKS else block[0].task
    return f"{task} · {max(row.n for row in block)} patients"


def _mark(row: Row) -> charts.Mark:
    score = row.score or 0.0
    return charts.Mark(row.agent, row.role, score, row.score_low, row.score_high, f"{score:.3f}")


def _scores(block: Sequence[Row]) -> Markup:
    marks = [_mark(row) for row in block if row.score is not None]
    level = next((row.score for row in block if row.agent == row.baseline), None)
    return charts.intervals(marks, level, f"Mean score and interval of each agent, {_title(block)}")


def _differences(run: Finished, blocks: Iterable[Sequence[Row]]) -> Iterator[tuple[str, Markup]]:
    for block in blocks:
        strips = [_strip(run, row) for row in block if row.diff is not None]
        if strips and block[0].task != ALL_TASKS:
            title = f"Difference to {block[0].baseline} on every patient, {_title(block)}"
            yield _title(block), charts.strips(strips, title)


def _strip(run: Finished, row: Row) -> charts.Strip:
    ours = run.scores.get((row.task, row.agent), {})
    theirs = run.scores.get((row.task, row.baseline or ""), {})
    gaps = tuple(ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys()))
    diff = row.diff or 0.0
    beside, under = f"{diff:+.3f}", _p(row)
    mark = charts.Mark(row.agent, row.role, diff, row.diff_low, row.diff_high, beside, under)
    return charts.Strip(mark, gaps)


def _p(row: Row) -> str:
    if row.p_holm is None:
        return ""
    return "p<.001" if row.p_holm < 0.001 else f"p {row.p_holm:.3f}"


def _costs(blocks: Iterable[Sequence[Row]]) -> Iterator[tuple[str, Markup]]:
    """Steps of everybody, tokens of those who speak; over all tasks at once where there are several."""
    kept = list(blocks)
    summed = [b for b in kept if b[0].task == ALL_TASKS]
    for block in summed or kept:
        for unit, of, log in COSTS:
            spent = [
                charts.Spent(_mark(row), cost)
                for row in block
                if row.score is not None and (cost := of(row))
            ]
            if spent:
                title = f"Score against {unit}, {_title(block)}"
                yield _title(block), charts.costs(spent, unit, title, log)


def _reliability(blocks: Iterable[Sequence[Row]]) -> Iterator[tuple[str, Markup]]:
    """One an agent and task, where agents state chances."""
    for row in (row for block in blocks for row in block):
        if row.reliability and row.task != ALL_TASKS:
            title = f"{row.agent} · {row.task} · ECE {row.measures.get('ECE') or 0:.3f}"
            yield title, charts.reliability(row.reliability, row.role, f"Reliability of {title}")


def _curve(told: Training) -> Markup:
    few = len(told.noisy) < 3 * SMOOTHED  # a mean over so few would only lag behind them
    series = [
        charts.Curve("training", "smooth" if few else "noisy", told.noisy),
        charts.Curve("running mean", "smooth", () if few else smoothed(told.noisy)),
        charts.Curve("validation", "looks", told.looks),
    ]
    drawn = [curve for curve in series if curve.points]
    return charts.curves(drawn, f"{told.figure} by {told.unit}", f"Learning curve of {told.agent}")


def smoothed(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The mean of the last points at each: a tenth of the run, at least SMOOTHED."""
    window = max(SMOOTHED, len(points) // 10)
    found = []
    for i, (x, _) in enumerate(points):
        last = [y for _, y in points[max(0, i + 1 - window) : i + 1]]
        found.append((x, sum(last) / len(last)))
    return tuple(found)


# -- words ---------------------------------------------------------------------------------------


def _lead(rows: Sequence[Row]) -> str:
    agents = list(dict.fromkeys(r.agent for r in rows if r.score is not None))
    tasks = {r.task for r in rows} - {ALL_TASKS}
    most = max((r.n for r in rows if r.task != ALL_TASKS), default=0)
    split = rows[0].split if rows else "no"
    counted = f"{len(tasks)} task{'s' if len(tasks) != 1 else ''}"
    return f"{len(agents)} agents on the same {most} patients of {counted}, {split} split."


def _block(block: Sequence[Row]) -> Block:
    columns = table.columns(block)
    return Block(
        title=f"{block[0].family} · {_title(block)}",
        headings=tuple(c.heading for c in columns),
        rows=tuple(tuple(_cell(c, row) for c in columns) for row in block),
    )


def _cell(column: table.Column, row: Row) -> Cell:
    text = column.cell(row)
    words = column.heading in WORDS
    return Cell(text, text if words else sort_key(text), words)


def sort_key(text: str) -> str:
    """The number a cell begins with, in one unit: `12.3 ms` before `1.2 s`, `<.001` first."""
    found = re.match(r"[<>≤]?\s*([+\-−]?\d*\.?\d+)(?:\s*(ms))?", text.replace("$", "").strip())
    if not found:
        return text
    value = float(found[1].replace("−", "-"))
    return repr(value / 1000 if found[2] else value - (1e-9 if text.startswith("<") else 0.0))


def _failures(run: Finished, present: Iterable[str]) -> Iterator[Failures]:
    for agent, episodes in run.worst.items():
        if agent in present:  # a kept run may hold episodes of more agents than were asked for
            yield Failures(agent, tuple(_failure(t, run.agents) for t in episodes))


def _failure(played: Trajectory, agents: JsonObject) -> Failure:
    tape = _tape(played, agents.get("players", {}).get(played.agent, {}))
    tokens = played.tokens
    return Failure(
        score=played.score,
        regret=result(played).regret,
        task=played.task,
        seed=played.seed,
        episode_return=played.episode_return,
        refusals=played.refusals,
        story=tell(played),
        talked=any(turn.text is not None for turn in played.turns),
        tape=tape,
        tokens=len(tokens.prompt_ids) + len(tokens.completion_ids) if tokens else 0,
        sampled=sum(tokens.mask) if tokens else 0,
    )


def _tape(played: Trajectory, told: Mapping[str, Any]) -> tuple[Passage, ...]:
    if played.tokens is None or not told.get("folder"):
        return ()
    decode = decoder(Path(told["folder"]))
    return passages(played.tokens, decode) if decode else ()


def _facts(run: Finished) -> Iterator[tuple[str, str]]:
    settings = run.settings
    if command := run.agents.get("command"):
        yield "command", str(command)
    for name in ("family", "version", "split"):
        if name in settings:
            yield name, str(settings[name])
    if "seed0" in settings and "episodes" in settings:
        first, n = int(settings["seed0"]), int(settings["episodes"])
        yield "seeds", f"{first} to {first + n - 1} of every task"
    for key in ("tasks", "agents"):
        yield key, ", ".join(settings.get(key, ()))
    for name, identity in settings.get("identities", {}).items():
        if identity != "shipped":
            yield f"weights of {name}", str(identity)
    for name, number in run.versions.items():
        yield name, str(number)
    ended = datetime.fromtimestamp((run.folder / EPISODES).stat().st_mtime, UTC)
    yield "last episode", f"{ended:%Y-%m-%d %H:%M} UTC"


def _part(name: str) -> str:
    return (ROOM / name).read_text("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(sha256(text.encode()).digest()).decode()


# -- the command ---------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m eval.report runs/NAME`: the path of the page on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.report",
        description="Write report.html, one self-contained page, about a finished comparison.",
    )
    parser.add_argument(
        "run", type=Path, help="a folder of eval.compare --run, or its name in runs/"
    )
    parser.add_argument(
        "--worst", type=at_least(0), default=WORST, help="episodes an agent (default: %(default)s)"
    )
    asked = parser.parse_args(argv)
    try:
        folder = episodes_of(asked.run).parent
        print(write(folder, read_rows(folder), asked.worst))
    except (RoundsError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(stopped.stoppable(main))
