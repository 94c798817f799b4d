"""The one table: every agent on the same patients, with intervals and paired differences.

Plays what has not been played, keeps it if asked to, and hands results to `rows`. Knows the order
of the work; how agents play, what is measured and how it is shown are its neighbours' business.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from env_server import registry
from env_server.contract import Family, RoundsError, Split, Task
from eval import record, roster, table
from eval.engine import NAMES as ENGINES
from eval.engine import Engine, Unplayed
from eval.engine import engine as engine_called
from eval.question import (
    Absent,
    Question,
    ask,
    choose_baseline,
    chosen_agents,
    enrol,
    settings,
    who,
)
from eval.record import Record
from eval.result import Result, result
from eval.roster import NotReady, Options, Player
from eval.rows import Played, Row, extras, rows

Tick = Callable[[str, str, int], None]  # (task, agent, episodes settled since the last call)


def compare(
    family: Family | str = "polypharmacy",
    tasks: Sequence[str] | None = None,
    agents: Sequence[str | Player] | None = None,
    *,
    episodes: int = 200,
    split: Split = "test",
    seed0: int = 0,
    baseline: str | None = None,
    canaries: bool = False,
    shipped: bool = False,
    options: Options | None = None,
    engine: Engine | None = None,
    run: Path | None = None,
    resume: bool = False,
    command: str | None = None,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Row]:
    """Play every agent on the same patients and return the rows of the table.

    tasks: None takes the family's tasks that are not marked `seed` (all, where all are).
    agents: specs as `roster.find` reads them, or players; None takes the tasks' defaults, with what
    training makes unless `shipped`. canaries: every degenerate policy as well. engine: where episodes are played; None is in this process.
    baseline: what differences are taken to; None takes `heuristic`, or the first heuristic there is.
    run: a folder that keeps every episode; resume continues one; command is kept there, to repeat it.
    tick: called as episodes are over. say: called with a sentence where a resumed run was mended.
    Raises a RoundsError on anything unknown, and TrainedOnTest before the first episode.
    """
    question = ask(family, tasks, split, seed0, episodes)
    named = chosen_agents(question, agents, canaries, shipped)
    players = enrol(question, named, options or Options(), engine, agents is not None)
    against = choose_baseline(players, baseline)
    with _opened(run, question, players, options or Options(), resume) as kept:
        if run is not None:
            record.write_json(run / record.AGENTS, who(players, command))
        if say is not None and kept is not None and kept.dropped is not None:
            say(kept.dropped)
        played = list(_play_all(question, players, kept, tick or _silent))
    found = rows(question.family.name, split, played, against, extras(question.family))
    if run is not None:
        record.write_json(run / "table.json", [row.to_json() for row in found])
    return found


# -- playing -----------------------------------------------------------------------------------


def _play_all(
    question: Question, players: Sequence[Player | Absent], kept: Record | None, tick: Tick
) -> Iterable[Played]:
    before = _played_before(kept, tick)
    for task in question.tasks:
        block = [_play(question, task, player, before, kept, tick) for player in players]
        yield from _with_regret(question, task, block)


def _play(
    question: Question,
    task: Task,
    player: Player | Absent,
    before: dict[tuple[str, str], dict[int, Result]],
    kept: Record | None,
    tick: Tick,
) -> Played:
    empty = Played(task.name, player.name, player.role)
    if isinstance(player, Absent) or not player.plays(task):
        tick(task.name, player.name, question.episodes)
        why = player.why if isinstance(player, Absent) else "does not play this task"
        return replace(empty, note=why)
    results = dict(before.get((task.name, player.name), {}))
    left = [seed for seed in question.seeds if seed not in results]
    try:
        for trajectory in player.play(question.family, task.name, question.split, left):
            if kept is not None:
                kept.add(trajectory)
            results[trajectory.seed] = result(trajectory)
            tick(task.name, player.name, 1)
    except NotReady as why:  # it can tell only now, for this task: a checkpoint each, say
        if results:
            raise
        tick(task.name, player.name, question.episodes)
        return replace(empty, note=str(why))
    if unplayed := [seed for seed in left if seed not in results]:
        raise Unplayed(
            f"{player.name} on {task.name}: {len(unplayed)} of {len(left)} patients were not played,"
            f" seed {unplayed[0]} the first of them"
        )
    return replace(empty, results=tuple(results[seed] for seed in question.seeds))


def _played_before(kept: Record | None, tick: Tick) -> dict[tuple[str, str], dict[int, Result]]:
    """Results of an interrupted run by (task, agent) and seed. Lost episodes get another chance."""
    found: dict[tuple[str, str], dict[int, Result]] = {}
    for trajectory in kept.episodes() if kept is not None else ():
        if trajectory.lost is None:
            found.setdefault((trajectory.task, trajectory.agent), {})[trajectory.seed] = result(
                trajectory
            )
            tick(trajectory.task, trajectory.agent, 1)
    return found


def _with_regret(question: Question, task: Task, block: Sequence[Played]) -> list[Played]:
    """Where outcomes tell no regret: the reference's score on the same patient less the agent's."""
    untold = {r.seed for p in block for r in p.results if r.regret is None and r.lost is None}
    card = roster.reference(question.family, task)
    if not untold or card is None:
        return list(block)
    best = {
        r.seed: r.score for p in block if p.agent == card.name for r in p.results if r.lost is None
    }
    missing = sorted(untold - best.keys())
    reference = roster.CardPlayer(card, card.name)
    for trajectory in reference.play(question.family, task.name, question.split, missing):
        best[trajectory.seed] = trajectory.score
    return [replace(p, results=tuple(_against(r, best) for r in p.results)) for p in block]


def _against(own: Result, best: dict[int, float]) -> Result:
    return own if own.regret is not None else replace(own, regret=best[own.seed] - own.score)


def _opened(
    run: Path | None,
    question: Question,
    players: Sequence[Player | Absent],
    options: Options,
    resume: bool,
) -> Record | nullcontext[None]:
    if run is None:
        return nullcontext()
    opened = Record(run, settings(question, players, options), resume)
    record.write_json(
        run / "seeds.json", {"evaluated_on": [p.to_json() for p in question.patients()]}
    )
    return opened


def _silent(task: str, agent: str, episodes: int) -> None:
    return None


# -- the command -------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m eval.compare`: the table on stdout, progress and complaints on stderr."""
    parser = _parser()
    given = sys.argv[1:] if argv is None else list(argv)
    asked = parser.parse_args(given)
    asked.command = shlex.join(["python", "-m", "eval.compare", *given])
    needy = [flag for flag in ("report", "traces", "resume") if getattr(asked, flag)]
    if needy and not asked.run:
        flag = f"--{needy[0]}"
        parser.error(f"{flag} needs --run NAME: episodes are kept in runs/NAME")
    if asked.workers is not None and (asked.workers < 1 or asked.engine == "local"):
        parser.error("--workers is at least 1, and for an engine that has workers: --engine ray")
    try:
        found = _compare_with_progress(asked)
        if asked.report:
            _report(asked.run, found)
        if asked.traces:
            _traces(asked.run)
    except (RoundsError, OSError, ValueError) as wrong:  # ValueError: a table that cannot be used
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = f"; continue with --run {asked.run} --resume" if asked.run else ""
        print(f"interrupted{again}", file=sys.stderr)
        return 130
    _print(found, asked)
    return 0


def _compare_with_progress(asked: argparse.Namespace) -> list[Row]:
    tasks = None if asked.tasks is None else _names(asked.tasks)
    registry.on_tables(asked.family, asked.tables)
    question = ask(asked.family, tasks, asked.split, asked.seed0, asked.episodes)
    named = None if asked.agents is None else _names(asked.agents)
    agents = chosen_agents(question, named, asked.canaries, asked.shipped)
    options = Options(asked.temperature, batch=asked.batch)
    engine = engine_called(asked.engine, options, asked.tables, asked.workers)
    with _progress(len(question.tasks) * len(agents) * asked.episodes) as tick:
        return compare(
            question.family,
            [task.name for task in question.tasks],
            named,
            episodes=asked.episodes,
            split=asked.split,
            seed0=asked.seed0,
            baseline=asked.baseline,
            canaries=asked.canaries,
            shipped=asked.shipped,
            options=options,
            engine=engine,
            run=record.folder_of(asked.run) if asked.run else None,
            resume=asked.resume,
            command=asked.command,
            tick=tick,
            say=_say,
        )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        shown = bar.add_task("episodes", total=total)

        def tick(task: str, agent: str, episodes: int) -> None:
            bar.update(shown, advance=episodes, description=f"{task} · {agent}")

        yield tick


def _report(run: str, found: Sequence[Row]) -> None:
    folder = record.RUNS / run
    import_module("eval.report").write(folder, found)  # a page is for whoever asks for it
    _say(f"report: {folder / 'report.html'}")


def _traces(run: str) -> None:
    from eval import session_traces

    path, count = session_traces.write(record.RUNS / run)
    _say(f"traces: {path}, {count} sessions")


def _print(found: Sequence[Row], asked: argparse.Namespace) -> None:
    if asked.json:
        print(table.as_json(found))
    elif asked.markdown:
        print(table.markdown(found), end="")
    elif asked.csv:
        print(table.as_csv(found), end="")
    else:
        table.show(found, table.console_for_stdout())


def _names(listed: Sequence[str]) -> list[str]:
    """Names given with spaces or commas between."""
    return [name.strip() for part in listed for name in part.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description="Compare agents on the same patients: means, paired differences, 95 % intervals.",
        epilog="An agent is a name the family ships, or of a kind: adapter:FOLDER, bandit[:FOLDER],"
        " grpo[:RUNS], human[:full|brief], llm:MODEL@URL, local:FOLDER, ppo[:FOLDER],"
        " reinforce[:FOLDER], sft[:RUNS]; label=AGENT gives it another name in the table.",
    )
    add = parser.add_argument
    add("--family", default="polypharmacy", help="environment family (default: %(default)s)")
    add("--tables", metavar="DIR", help="a hospital's own tables (default: the shipped ones)")
    add("--tasks", nargs="+", help="tasks, or all (default: those not marked seed)")
    add("--agents", nargs="+", help="agents (default: the family's own, and what training makes)")
    add("--shipped", action="store_true", help="by default only agents that the family ships")
    add("--canaries", action="store_true", help="add every degenerate policy of the family")
    add("--episodes", type=int, default=200, help="patients a task (default: %(default)s)")
    add("--split", default="test", help="which patients (default: %(default)s)")
    add("--seed0", type=int, default=0, help="seed of the first patient (default: %(default)s)")
    add("--baseline", help="agent that differences are taken to (default: heuristic)")
    add("--temperature", type=float, default=0.0, help="of models; 0 is greedy (the default)")
    add(
        "--batch",
        type=int,
        default=64,
        help="episodes a model plays at once (default: %(default)s)",
    )
    add("--engine", default="local", choices=ENGINES, help="where to play (default: %(default)s)")
    add("--workers", type=int, help="processes of an engine (default: a core each)")
    add("--run", metavar="NAME", help="keep every episode in runs/NAME")
    add("--resume", action="store_true", help="continue runs/NAME where it stopped")
    add("--report", action="store_true", help="write runs/NAME/report.html too")
    add("--traces", action="store_true", help="write runs/NAME/traces.jsonl, as the Hub reads them")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of rows")
    form.add_argument("--markdown", action="store_true", help="print Markdown tables")
    form.add_argument("--csv", action="store_true", help="print one CSV table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
