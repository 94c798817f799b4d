"""Every promise on one page: each script of this folder is run, and what it measured is set side by side.

Knows the scripts' command lines and the JSON they print. A script that fails, hangs or says nothing
is a broken promise, and the others go on.

Scripts that compare speeds have the machine to themselves, one after another. With `--quick` the rest
then runs two at a time: what those promise is counted, proved, or a deadline in whole seconds, most of
which is spent waiting, so that a neighbour changes how long they take and not what they say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from bench.promise import Figure, machine

ROOT = Path(__file__).resolve().parents[1]
BUDGET_S = 600.0
BESIDE = 2  # scripts at a time, where they may run beside others
Verdict = Literal["kept", "within", "BROKEN"]


@dataclass(frozen=True, slots=True)
class Script:
    """One script, its flags for the quick page, and those for the whole one.

    aside: no figure of it depends on what else runs, so that another such script may run beside it.
    """

    name: str
    quick: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    aside: bool = False


# those that time processor seconds first; of those that run two at a time the longest first
SCRIPTS = (
    Script("environment", ("--patients", "200")),
    Script("drug_target", ("--quick",)),
    Script("reinforce", ("--rounds", "3", "--episodes", "2000")),
    Script("server", ("--quick",)),
    Script("rollout", ("--quick",)),
    Script("gpu_grpo", ("--quick",)),
    Script("faults", ("--quick",), aside=True),
    Script("proofs", ("--quick",), aside=True),
    Script("fuzz", ("--frames", "10000"), aside=True),
    Script(
        "bandit",
        ("--quick", "--sets", "protective", "--methods", "best."),
        ("--kept",),
        aside=True,
    ),
    Script("statistics", ("--samples", "400"), aside=True),
    Script("demo", (), ("--run",), aside=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One promise as a script found it, or what is wrong with the script (then without a value).

    verdict: "kept"; "within" where the value falls short and its interval does not; or "BROKEN".
    """

    script: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    unit: str
    promise: str
    verdict: Verdict

    @property
    def kept(self) -> bool:
        return self.verdict != "BROKEN"


@dataclass(slots=True)
class Told:
    """What one script said."""

    script: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def broken(self) -> int:
        return sum(not row.kept for row in self.rows)


def exists(script: Script) -> bool:
    return (ROOT / "bench" / f"{script.name}.py").is_file()


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over scripts: which edition, and how long each of them and all of them may take."""

    quick: bool
    limit_s: float
    ends: float  # on the clock of perf_counter

    async def over(self, scripts: Sequence[Script]) -> list[Told]:
        """What each said, in their order: those that want the machine first, then two at a time."""
        found: dict[str, Told] = {}
        aside = [script for script in scripts if script.aside and self.quick]
        for script in scripts:
            if script not in aside:
                found[script.name] = await self._told(script)
        seats = asyncio.Semaphore(BESIDE)

        async def seated(script: Script) -> None:
            async with seats:
                found[script.name] = await self._told(script)

        await asyncio.gather(*map(seated, aside))
        return [found[script.name] for script in scripts]

    async def _told(self, script: Script) -> Told:
        print(f"bench.{script.name} ...", file=sys.stderr, flush=True)
        left_s = max(self.ends - time.perf_counter(), 1.0)
        told = await run(script, self.quick, min(self.limit_s, left_s))
        said = f"  {script.name}: {told.seconds:.0f} s, {told.broken} BROKEN"
        print(said, file=sys.stderr, flush=True)
        return told


async def run(script: Script, quick: bool, limit_s: float) -> Told:
    """Run one script for at most `limit_s` seconds; never raises for what the script does."""
    flags = script.quick if quick else script.whole
    began = time.perf_counter()
    command = [sys.executable, "-m", f"bench.{script.name}", *flags, "--json"]
    out, said, code = await _finished(command, limit_s)
    told = Told(script.name, time.perf_counter() - began)
    if code is None:
        told.rows.append(_failure(script, f"no end within {limit_s:.0f} s"))
    else:
        told.rows += _rows(script, out, code, said)
    return told


async def _finished(command: Sequence[str], limit_s: float) -> tuple[str, str, int | None]:
    """stdout, stderr, and the exit code, None where it had to be ended; with all it had started."""
    child = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        out, said = await asyncio.wait_for(child.communicate(), limit_s)
        return out.decode(), said.decode(errors="replace"), child.returncode
    except TimeoutError:
        return "", "", None
    finally:
        _end(child)
        await child.wait()


def _end(child: Process) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _rows(script: Script, out: str, code: int, said: str) -> list[Row]:
    try:
        figures: list[dict[str, Any]] = json.loads(out[out.index("{") :])["figures"]
    except (ValueError, KeyError, TypeError):
        return [_failure(script, f"exit {code} without figures: {_last(said)}")]
    rows = [_row(script, f) for f in figures if f["promise"]]
    if code not in (0, 1) or (code == 1 and all(row.kept for row in rows)):
        rows.append(_failure(script, f"exit {code}: {_last(said)}"))
    return rows


def _row(script: Script, f: dict[str, Any]) -> Row:
    """`f` is a Figure as bench.promise writes it."""
    fields = {name: f[name] for name in ("value", "low", "high", "n", "unit", "promise")}
    plainly = Figure(f["name"], f["value"], f["unit"], f["n"], f["at"], f["bound"]).kept
    verdict: Verdict = "BROKEN" if not f["kept"] else "kept" if plainly else "within"
    return Row(script=script.name, name=f["name"], verdict=verdict, **fields)


def _failure(script: Script, why: str) -> Row:
    return Row(script.name, why, None, None, None, None, "", "runs to its end", "BROKEN")


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "nothing was said"


def table(told: Sequence[Told], quick: bool, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="Promises")
    for column in ("script", "figure", "value", "interval", "n", "unit", "promise", "verdict"):
        shown.add_column(column, justify="right" if column in ("value", "n") else "left")
    for one in told:
        for row in one.rows:
            shown.add_row(*_cells(row))
        shown.add_section()
    Console(width=160).print(shown)
    rows = [row for one in told for row in one.rows]
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in get_args(Verdict)}
    times = ", ".join(f"{t.script} {t.seconds:.0f} s" for t in told)
    print(
        f"{count['kept']} kept, {count['within']} within the interval, {count['BROKEN']} BROKEN"
        f" in {seconds:.0f} s: {times}"
    )
    if quick:
        print(
            "A figure over samples or rounds is BROKEN where its whole interval is beyond the promise;"
            " 'within' where only the value is, which so small an n cannot tell from chance."
        )


def _cells(row: Row) -> tuple[str, ...]:
    value = "" if row.value is None else f"{row.value:.4g}"
    bare = row.low is None or row.high is None
    interval = "" if bare else f"{row.low:.4g} to {row.high:.4g}"
    n = "" if row.n is None else str(row.n)
    return (row.script, row.name, value, interval, n, row.unit, row.promise, row.verdict)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__)
    add = parser.add_argument
    names = [script.name for script in SCRIPTS if exists(script)]
    add("--quick", action="store_true", help="a small edition of each, under ten minutes in all")
    add("--only", nargs="+", choices=names, metavar="SCRIPT", help=f"of {', '.join(names)}")
    add("--limit-s", type=float, help="seconds a script (default: 240 with --quick, else 7200)")
    add("--json", action="store_true", help="print JSON with the machine")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every promise is kept, else 1."""
    asked = arguments().parse_args(argv)
    chosen = [s for s in SCRIPTS if exists(s) and (not asked.only or s.name in asked.only)]
    limit_s = asked.limit_s or (240.0 if asked.quick else 7200.0)
    began = time.perf_counter()
    ends = began + BUDGET_S if asked.quick else float("inf")
    told = asyncio.run(Pass(asked.quick, limit_s, ends).over(chosen))
    seconds = time.perf_counter() - began
    if asked.json:
        scripts = [{**asdict(t), "broken": t.broken} for t in told]
        page = {"machine": machine(), "quick": asked.quick, "seconds": seconds, "scripts": scripts}
        print(json.dumps(page, indent=1))
    else:
        table(told, asked.quick, seconds)
    return 1 if any(t.broken for t in told) else 0


if __name__ == "__main__":
    sys.exit(main())
