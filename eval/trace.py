"""Episodes in the terminal, turn by turn, with what every legal action would have paid.

Chooses episodes and lays them out. What they say is `story`'s, what else could have been done is
`counterfactual`'s business.
"""

from __future__ import annotations

import argparse
import heapq
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from env_server import registry
from env_server.contract import AgentCard, Family, RoundsError, did_you_mean
from eval import roster, stopped
from eval.counterfactual import Choice, choices
from eval.finished import shortfall
from eval.limits import at_least
from eval.record import episodes_of, read_episodes
from eval.result import result
from eval.story import Moment, spelled, tell
from eval.trajectory import Trajectory

PLAIN_WIDTH = 160  # of what goes to a file or a pipe
WORST = 3
VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
SHOWN = 8  # legal actions a turn, unless all are asked for


class NoSuchEpisode(RoundsError, LookupError):
    """No episode of the file is what was asked for."""


def chosen(
    path: Path, worst: int | None, agent: str | None, task: str | None, episode: str | None
) -> list[Trajectory]:
    """The episodes asked for; with `worst` only those that missed most, hardest first.

    Raises NoSuchEpisode with what there is, BadLine, OSError.
    """
    agents: dict[str, None] = {}
    tasks: dict[str, None] = {}

    def wanted() -> Iterable[Trajectory]:
        for played in read_episodes(path):
            agents[played.agent] = tasks[played.task] = None
            if (
                agent in (None, played.agent)
                and task in (None, played.task)
                and episode in (None, str(played.seed), episode_id(played))
                and (worst is None or played.lost is None)
            ):
                yield played

    found = list(wanted()) if worst is None else heapq.nlargest(worst, wanted(), key=shortfall)
    if not found:
        for what, name, known in (("agent", agent, agents), ("task", task, tasks)):
            if name is not None and name not in known:
                raise NoSuchEpisode(f"{path}: {did_you_mean(what, name, tuple(known))}")
        at = "" if episode is None else f" {episode!r}: give a seed, or TASK-SPLIT-SEED"
        raise NoSuchEpisode(f"{path} has no such episode{at}")
    return found


def episode_id(played: Trajectory) -> str:
    """Which patient was played, as `--episode` takes it."""
    return f"{played.task}-{played.split}-{played.seed}"


def show(
    played: Trajectory,
    console: Console,
    policy: AgentCard | None = None,
    most: int | None = SHOWN,
    family: Family | None = None,
) -> None:
    """Print one episode. most: legal actions a turn, the one taken always among them; None is all."""
    home = family or registry.get(played.family)
    console.print(Rule(_heading(played), align="left"))
    story = tell(played, home)
    for moment, found in zip(story.moments, choices(played, home, policy), strict=True):
        _show_moment(moment, found, home, console, most)
    if story.ending:
        console.print(_inset(visible(story.ending), "dim"))
    if played.lost is not None:
        console.print(Text(f"lost: {played.lost}", style="red"))
    console.print(Text(f"{_sums(played)}\n"))


def visible(text: str) -> Text:
    """Foreign text with every control character shown, so that none moves a cursor or a colour."""
    return Text(text.translate(VISIBLE))


def _heading(played: Trajectory) -> Text:
    regret = result(played).regret
    missed = "" if regret is None else f", regret {regret:.3f}"
    return Text(
        f"{played.agent} · {played.task} · {played.split} seed {played.seed} · score {played.score:.3f}"
        f"{missed}",
        style="bold",
    )


def _sums(played: Trajectory) -> str:
    parts = ", ".join(f"{name} {value:+.4f}" for name, value in played.part_sums().items() if value)
    return f"return {played.episode_return:+.4f} = {parts or 'nothing'}; {played.refusals} refused"


def _show_moment(
    moment: Moment, found: Sequence[Choice], home: Family, console: Console, most: int | None
) -> None:
    console.print(Text(f"turn {moment.number}", style="bold cyan"))
    console.print(_inset(visible(moment.seen), "dim"))
    if moment.text is not None:
        console.print(_inset(visible(f"said: {moment.text}")))
    parts = ", ".join(f"{name} {value:+.4f}" for name, value in moment.parts)
    did = moment.action or "no action could be read"
    console.print(_inset(visible(f"did:  {did}   {moment.reward:+.4f} ({parts or 'nothing'})")))
    if moment.refusal:
        console.print(_inset(visible(f"refused: {moment.refusal}"), "red"))
    console.print(_inset(_menu(found, home, most)))
    console.print()


def _inset(shown: RenderableType, style: str = "none") -> Padding:
    return Padding(shown, (0, 2), style=style, expand=False)


def _menu(found: Sequence[Choice], home: Family, most: int | None) -> Table:
    """The legal actions, best first."""
    far = any(choice.to_go is not None for choice in found)
    menu = Table(box=None, padding=(0, 1), show_edge=False)
    for heading, shown in (("", True), ("pays", True), ("to the end", far), ("legal action", True)):
        if shown:
            words = heading in ("", "legal action")
            menu.add_column(heading, justify="left" if words else "right", overflow="fold")
    kept = [c for i, c in enumerate(found) if most is None or i < most or c.taken]
    for choice in kept:
        later = [f"{choice.to_go:+.4f}"] if choice.to_go is not None else []
        cells = [
            "▶" if choice.taken else "",
            f"{choice.reward:+.4f}",
            *later,
            spelled(choice.action, home),
        ]
        menu.add_row(*map(Text, cells), style="bold" if choice.taken else "")
    if left := len(found) - len(kept):
        menu.add_row(*[""] * (3 if far else 2), Text(f"and {left} more; --all shows them", "dim"))
    return menu


def policy_for(played: Trajectory, name: str | None) -> AgentCard | None:
    """The agent that goes on after a counterfactual step: the family's best reference by default."""
    family = registry.get(played.family)
    if name:
        return family.agents[registry.agent(family, name)]
    return roster.reference(family, registry.task(family, played.task))


# -- the command ---------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m eval.trace FILE`: turns on stdout. Ends quietly where the reader of a pipe leaves."""
    asked = _parser().parse_args(argv)
    out = Console()
    console = out if out.is_terminal else Console(width=PLAIN_WIDTH, soft_wrap=False)
    worst = None if asked.episode is not None and asked.worst is None else asked.worst or WORST
    try:
        for played in chosen(
            episodes_of(asked.file), worst, asked.agent, asked.task, asked.episode
        ):
            policy = policy_for(played, asked.policy) if asked.to_go or asked.policy else None
            show(played, console, policy, None if asked.all else SHOWN)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (RoundsError, OSError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.trace",
        description="Show recorded episodes turn by turn, with what every legal action would have paid.",
    )
    add = parser.add_argument
    add("file", type=Path, help="an episodes.jsonl, the folder of a run, or its name in runs/")
    add("--worst", type=at_least(1), help=f"the episodes that missed most (default: {WORST})")
    add("--agent", help="of this agent alone")
    add("--task", help="of this task alone")
    add(
        "--episode", metavar="ID", help="a seed, or TASK-SPLIT-SEED; every agent's, without --worst"
    )
    add("--all", action="store_true", help=f"every legal action, not the best {SHOWN}")
    add("--to-go", action="store_true", help="add the return if the reference went on from there")
    add("--policy", metavar="AGENT", help="who goes on, in place of the reference")
    return parser


if __name__ == "__main__":
    sys.exit(stopped.stoppable(main))
