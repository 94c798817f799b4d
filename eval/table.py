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

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.rows import ALL_TASKS, Row

PLAIN_WIDTH = 200  # of a table that goes to a file or a pipe


@dataclass(frozen=True, slots=True)
class Column:
    heading: str
    cell: Callable[[Row], str]


def _digits(value: float | None, digits: int = 3, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


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


COLUMNS = (
    Column("agent", lambda r: r.agent),
    Column("n", lambda r: str(r.n)),
    Column("score [95 %]", lambda r: _with_interval(r.score, r.score_low, r.score_high)),
    Column("Δ [95 %]", lambda r: _with_interval(r.diff, r.diff_low, r.diff_high, "+")),
    Column("p", _p),
    Column("return", lambda r: _digits(r.episode_return, 2)),
    Column("regret", lambda r: _digits(r.regret)),
    Column("of optimum", lambda r: _percent(r.share_of_optimum)),
    Column("steps", lambda r: _digits(r.steps, 1)),
    Column("queries", lambda r: _digits(r.queries, 1)),
    Column("changes", lambda r: _digits(r.interventions, 1)),
    Column("refused", lambda r: _percent(r.refusal_share)),
    Column("over-called", lambda r: _percent(r.overcall_share)),
    Column("tokens", lambda r: _digits(r.tokens, 0)),
    Column("read", lambda r: _digits(r.prompt_tokens, 0)),
    Column("USD", lambda r: _dollars(r.cost_usd)),
    Column("time", lambda r: _time(r.seconds)),
    Column("note", lambda r: r.note),
)


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the rows as one table a task."""
    console.print(rendered(rows))


def console_for_stdout() -> Console:
    """A terminal's own width, or one wide enough for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def rendered(rows: Sequence[Row]) -> RenderableType:
    parts: list[RenderableType] = []
    for block in _blocks(rows):
        parts += [_rich_block(block), ""]
    return Group(*parts, Text(legend(rows), style="dim"))


def markdown(rows: Sequence[Row]) -> str:
    """The same tables in GitHub's Markdown."""
    texts = [_markdown_block(block) for block in _blocks(rows)]
    return "\n\n".join([*texts, legend(rows)]) + "\n"


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([row.to_json() for row in rows], indent=2, allow_nan=False)


def as_csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    table = [row.to_json() for row in rows]
    writer = csv.DictWriter(out, fieldnames=list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def legend(rows: Sequence[Row]) -> str:
    """What the columns mean, in one paragraph."""
    baseline = next((row.baseline for row in rows if row.baseline), None)
    against = (
        f" Δ and p: against {baseline} on the same patients; p by sign-flip permutation,"
        " Holm-corrected over the block."
        if baseline
        else ""
    )
    return (
        "Score: mean over patients with a 95 % bootstrap interval (BCa)."
        + against
        + " Regret: score of the reference less the agent's. Over-called: patients who needed no"
        " change and got one. Time: to decide, an episode."
    )


def _blocks(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(block) for _, block in groupby(rows, key=lambda r: (r.family, r.task, r.split))]


def _title(block: Sequence[Row]) -> str:
    first, patients = block[0], max(row.n for row in block)
    task = "all tasks" if first.task == ALL_TASKS else first.task
    return f"{first.family} · {task} · {first.split} · {patients} patients"


def _filled(block: Sequence[Row]) -> list[Column]:
    """The columns that say something in this block."""
    same_n = len({row.n for row in block}) == 1
    return [
        column
        for column in COLUMNS
        if any(column.cell(row) for row in block) and not (column.heading == "n" and same_n)
    ]


def _rich_block(block: Sequence[Row]) -> Table:
    table = Table(title=Text(_title(block)), title_justify="left")
    columns = _filled(block)
    for column in columns:
        words = column.heading in ("agent", "note")
        table.add_column(
            column.heading,
            justify="left" if words else "right",
            no_wrap=column.heading != "note",
            overflow="fold",
        )
    for row in block:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    return table


def _markdown_block(block: Sequence[Row]) -> str:
    columns = _filled(block)
    words = ("agent", "note")
    lines = [
        [column.heading for column in columns],
        [":---" if column.heading in words else "---:" for column in columns],
        *([column.cell(row).replace("|", "\\|") for column in columns] for row in block),
    ]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"**{_title(block)}**\n\n{body}"
