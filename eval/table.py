"""How rows are shown: a rich table in a terminal, Markdown, JSON or CSV.

Knows columns and digits; nothing of what a number means beyond its column's heading.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from eval.rows import ALL_TASKS, Row

PLAIN_WIDTH = 240  # of a table that goes to a file or a pipe: everything fits


@dataclass(frozen=True, slots=True)
class Column:
    """rank: a narrow terminal leaves out the highest first; 0 is never left out."""

    heading: str
    cell: Callable[[Row], str]
    rank: int = 0


def _digits(value: float | None, digits: int = 3, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f} %"


def _with_interval(
    mean: float | None, low: float | None, high: float | None, sign: str = ""
) -> str:
    if mean is None:
        return ""
    if low is None or high is None:
        return _digits(mean, sign=sign)
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _p(row: Row) -> str:
    if row.p_holm is None:
        return ""
    return "<.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.2f} ms"


def _dollars(cost: float | None) -> str:
    """Four digits below a cent: an episode costs a fraction of one."""
    return "" if cost is None else f"{cost:.2f}" if cost >= 0.1 or cost == 0 else f"{cost:.4f}"


def _over_tasks(row: Row) -> str:
    """Of one task the mean says it; over tasks that differ in what can be scored, the middle does."""
    return _with_interval(row.iqm, row.iqm_low, row.iqm_high) if row.task == ALL_TASKS else ""


COLUMNS = (
    Column("agent", lambda r: r.agent),
    Column("n", lambda r: str(r.n)),
    Column("score [95 %]", lambda r: _with_interval(r.score, r.score_low, r.score_high)),
    Column("IQM [95 %]", _over_tasks, 4),
    Column("Δ [95 %]", lambda r: _with_interval(r.diff, r.diff_low, r.diff_high, "+")),
    Column("p", _p),
    Column("wins", lambda r: _percent(r.wins, 0), 3),
    Column("detects", lambda r: _digits(r.detectable), 5),
    Column("return", lambda r: _digits(r.episode_return, 2), 6),
    Column("regret", lambda r: _digits(r.regret), 9),
    Column("of optimum", lambda r: _percent(r.share_of_optimum), 2),
    Column("steps", lambda r: _digits(r.steps, 1), 7),
    Column("queries", lambda r: _digits(r.queries, 1), 11),
    Column("changes", lambda r: _digits(r.interventions, 1), 10),
    Column("refused", lambda r: _percent(r.refusal_share), 3),
    Column("over-called", lambda r: _percent(r.overcall_share), 4),
    Column("tokens", lambda r: _digits(r.tokens, 0), 8),
    Column("read", lambda r: _digits(r.prompt_tokens, 0), 12),
    Column("USD", lambda r: _dollars(r.cost_usd), 1),
    Column("time", lambda r: _time(r.seconds), 8),
    Column("note", lambda r: r.note),  # of a page; text has `notes` below its tables
)
OWN_RANK = 7  # a family's own columns leave a narrow terminal before score, Δ and refusals do
MEANING = {
    "IQM [95 %]": "IQM: mean of the middle half of all patients, drawn within tasks.",
    "wins": "Wins: share of patients who do better than with the baseline, ties half.",
    "detects": "Detects: the smallest difference so many patients find in 4 of 5 repetitions.",
    "regret": "Regret: score of the reference less the agent's.",
    "of optimum": "Of optimum: what was gained of what could be.",
    "over-called": "Over-called: patients who needed no change and got one.",
    "tokens": "Tokens: written by a model, an episode; read: given to it.",
    "time": "Time: to decide, an episode.",
    "Brier": "Brier: squared distance of the stated chance from what came true.",
    "ECE": "ECE: expected calibration error, in tenths.",
}
FEW = 100  # patients; below, intervals of a difference are too narrow (docs/evaluation.md)


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the rows as one table a task, as wide as the console is."""
    console.print(rendered(rows, console.width))


def console_for_stdout() -> Console:
    """A terminal's own width, or one wide enough for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def rendered(rows: Sequence[Row], width: int = PLAIN_WIDTH) -> RenderableType:
    parts: list[RenderableType] = []
    left_out: list[str] = []
    for block in _blocks(rows):
        filled = _filled(block)
        shown = _fitting(filled, block, width)
        left_out += [
            c.heading
            for c in filled
            if c.heading not in {s.heading for s in shown} and c.heading not in left_out
        ]
        parts += [_rich_block(block, shown), ""]
    below = [*notes(rows), legend(rows)]
    if left_out:
        below.append(f"Left out, for want of width: {', '.join(left_out)}; --csv has everything.")
    return Group(*parts, *(Text(line, style="dim") for line in below))


def markdown(rows: Sequence[Row]) -> str:
    """The same tables in GitHub's Markdown."""
    texts = [_markdown_block(block) for block in _blocks(rows)]
    told = "\n".join(f"- {note}" for note in notes(rows))
    return "\n\n".join([*texts, *([told] if told else []), legend(rows)]) + "\n"


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([row.to_json() for row in rows], indent=2, allow_nan=False)


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row; a family's own measures are columns of their own, bins are left out."""
    out = io.StringIO()
    nested = ("measures", "measure_diffs", "reliability")
    names = dict.fromkeys(name for row in rows for name in row.measures)
    table = [
        {k: v for k, v in row.to_json().items() if k not in nested}
        | {name: row.measures.get(name) for name in names}
        for row in rows
    ]
    writer = csv.DictWriter(out, fieldnames=list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def notes(rows: Sequence[Row]) -> list[str]:
    """What rows have to remark, each remark once with the tasks it is about."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.note and row.task != ALL_TASKS:
            told.setdefault((row.agent, row.note), []).append(row.task)
    tasks = {row.task for row in rows} - {ALL_TASKS}
    return [
        *(
            f"{agent}{'' if len(where) == len(tasks) else ' on ' + ', '.join(where)}: {note}"
            for (agent, note), where in told.items()
        ),
        *(
            f"{row.agent} over all tasks: {row.note}"
            for row in rows
            if row.task == ALL_TASKS and row.note and row.n
        ),
    ]


def legend(rows: Sequence[Row]) -> str:
    """What the columns mean, in one paragraph."""
    baseline = next((row.baseline for row in rows if row.baseline), None)
    several = any(row.task == ALL_TASKS for row in rows)
    filled = {column.heading for block in _blocks(rows) for column in _filled(block)}
    few = any(0 < row.n < FEW for row in rows)
    said = [
        "Score: mean over patients with a 95 % bootstrap interval (BCa).",
        f"Δ and p: against {baseline} on the same patients; p by sign-flip permutation,"
        " Holm-corrected over the block."
        if baseline
        else "",
        *(meaning for heading, meaning in MEANING.items() if heading in filled),
        "All tasks: over the tasks an agent played." if several else "",
        f"Fewer than {FEW} patients: intervals of Δ are narrower than they should be."
        if few
        else "",
    ]
    return " ".join(filter(None, said))


def _blocks(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(block) for _, block in groupby(rows, key=lambda r: (r.family, r.task, r.split))]


def _title(block: Sequence[Row]) -> str:
    first, patients = block[0], max(row.n for row in block)
    task = "all tasks" if first.task == ALL_TASKS else first.task
    return f"{first.family} · {task} · {first.split} · {patients} patients"


def _filled(block: Sequence[Row]) -> list[Column]:
    """The columns of numbers that say something in this block."""
    unsaid = {"note"} | ({"n"} if len({row.n for row in block}) == 1 else set())
    return [c for c in columns(block) if c.heading not in unsaid]


def columns(block: Sequence[Row]) -> list[Column]:
    """The columns that say something in this block: those of all families, then its own."""
    own = [_own(name) for name in dict.fromkeys(n for row in block for n in row.measures)]
    *shared, note = COLUMNS
    return [c for c in (*shared, *own, note) if any(c.cell(row) for row in block)]


def _own(name: str) -> Column:
    return Column(name, lambda row: _own_digits(row.measures.get(name)), OWN_RANK)


def _own_digits(value: float | None) -> str:
    """Counts need fewer digits than shares."""
    return _digits(value, 1 if value is not None and abs(value) >= 10 else 3)


def _fitting(filled: Sequence[Column], block: Sequence[Row], width: int) -> list[Column]:
    """As many of the columns as fit, the most important first."""
    shown = list(filled)
    while sum(_width(c, block) + 3 for c in shown) + 1 > width:
        last = max(shown, key=lambda c: c.rank)
        if last.rank == 0:
            break
        shown.remove(last)
    return shown


def _width(column: Column, block: Sequence[Row]) -> int:
    return max(len(column.heading), *(len(column.cell(row)) for row in block))


def _rich_block(block: Sequence[Row], shown: Sequence[Column]) -> Table:
    table = Table(title=Text(_title(block)), title_justify="left")
    for column in shown:
        justify: JustifyMethod = "left" if column.heading == "agent" else "right"
        table.add_column(column.heading, justify=justify, no_wrap=True, overflow="fold")
    for row in block:
        table.add_row(*(Text(column.cell(row)) for column in shown))
    return table


def _markdown_block(block: Sequence[Row]) -> str:
    shown = _filled(block)
    lines = [
        [column.heading for column in shown],
        [":---" if column.heading == "agent" else "---:" for column in shown],
        *([column.cell(row).replace("|", "\\|") for column in shown] for row in block),
    ]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"**{_title(block)}**\n\n{body}"
