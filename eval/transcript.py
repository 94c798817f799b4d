"""An agent plays the tasks aloud: `[START]`, `[STEP]`, `[END]` on stdout, and nothing else there.

Knows the order of things, the budget of time and the command line; who plays is the roster's
business, and how a line is spelled is `lines`'. Every `[START]` has its `[END]`, whatever breaks.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO, cast

from env_server.contract import (
    Action,
    Episode,
    Family,
    Refusal,
    RoundsError,
    Split,
    Step,
    clamp_score,
    read_options,
)
from eval.limits import at_least
from eval.lines import Ending, Json, Lines, Plain

if TYPE_CHECKING:
    from env_server.client import Connection
    from eval.roster import Player
    from eval.watched import Begin

BUDGET_S = 19 * 60.0  # of the twenty minutes that evaluators allow
PASSED = 0.5


class OutOfTime(RoundsError, TimeoutError):
    """The run's time is over."""


@dataclass(slots=True)
class Stage:
    """Where a run plays and speaks: fixed for the run, but for what is still to be said."""

    family: Family
    player: Player
    lines: Lines
    out: TextIO
    split: Split = "test"
    passed: float = PASSED
    bounded: bool = False
    live: Path | None = None
    begin: Begin | None = None
    ends_at: float = field(default_factory=lambda: monotonic() + BUDGET_S)
    stopped: str | None = None  # why nothing more is played

    def say(self, lines: Sequence[str]) -> None:
        for line in lines:
            print(line, file=self.out, flush=True)


def perform(stage: Stage, tasks: Sequence[str], seeds: Sequence[int]) -> list[Ending]:
    """Play every task on every seed and say so. What breaks one episode is told on stderr."""
    endings: list[Ending] = []
    for task in tasks:
        stage.say(stage.lines.task(task))
        played: list[Ending] = []
        try:
            for seed in seeds:
                played.append(_perform_one(stage, task, seed))
        finally:  # an interrupt has its END as well
            stage.say(stage.lines.task_over(task, played))
        endings += played
    return endings


def _perform_one(stage: Stage, task: str, seed: int) -> Ending:
    told = _Told(stage, task)
    stage.say(stage.lines.episode(task))
    ending = told.ending(0.0, False)
    try:
        score = _played(stage, task, seed, told)
        ending = told.ending(score, score >= stage.passed)
    except Exception as error:  # the boundary: recorded on stderr, and in the END line
        ending = told.ending(0.0, False)
        _record(stage, task, seed, error)
    finally:
        stage.say(stage.lines.end(task, ending))
    return ending


def _played(stage: Stage, task: str, seed: int, told: _Told) -> float:
    """The score of one episode. Raises OutOfTime, and whatever ends it early."""
    from eval.watched import watched

    if stage.stopped is not None:
        raise OutOfTime(stage.stopped)
    if not stage.player.plays(stage.family.tasks[task]):
        raise RoundsError(f"{stage.player.name} does not play this task")
    family = watched(stage.family, told.step, stage.begin)
    with _alarm(stage.ends_at - monotonic()):
        found = next(iter(stage.player.play(family, task, stage.split, [seed])), None)
    if found is None:
        raise RoundsError(f"{stage.player.name} plays no episode of {task}")
    if found.lost is not None:
        raise RoundsError(f"the episode was lost: {found.lost}")
    return found.score


def _record(stage: Stage, task: str, seed: int, error: Exception) -> None:
    from eval.llm import ModelDown

    known = isinstance(error, RoundsError)
    why = str(error) if known else f"{type(error).__name__}: {error}"
    print(f"{task}, {stage.split} seed {seed}: {why}", file=sys.stderr)
    if isinstance(error, OutOfTime | ModelDown):
        stage.stopped = "not played, for the same reason"


@dataclass(slots=True)
class _Told:
    """What has been said of one episode; its `step` is called after every step."""

    stage: Stage
    task: str
    rewards: list[float] = field(default_factory=list)
    episode_id: str | None = None

    def step(self, episode: Episode, action: Action | Refusal, step: Step) -> None:
        stage, self.episode_id = self.stage, episode.episode_id
        if stage.bounded:
            step = Step(
                step.observation, clamp_score(step.reward), step.parts, step.done, step.refusal
            )
        self.rewards.append(step.reward)
        number = len(self.rewards)
        stage.say(stage.lines.step(self.task, episode.episode_id, number, action, step))
        if stage.live is not None:
            write_live(stage.live, snapshot(stage, episode, action, step, self.rewards))
        if monotonic() > stage.ends_at and not step.done:
            raise OutOfTime("the time of this run is over; give it more with --deadline-s")

    def ending(self, score: float, success: bool) -> Ending:
        return Ending(success, score, tuple(self.rewards), self.episode_id)


def snapshot(
    stage: Stage, episode: Episode, action: Action | Refusal, step: Step, rewards: Sequence[float]
) -> dict[str, Any]:
    """Everything a viewer needs to show the episode as it stands."""
    return {
        "family": stage.family.name,
        "task": episode.task.name,
        "split": episode.split,
        "seed": episode.seed,
        "episode_id": episode.episode_id,
        "agent": stage.player.name,
        "step": len(rewards),
        "max_steps": episode.task.max_steps,
        "action": None if isinstance(action, Refusal) else action.to_json(),
        "rewards": list(rewards),
        "score": episode.score() if step.done else None,
        **step.to_json(),
    }


def write_live(path: Path, body: dict[str, Any]) -> None:
    """Replace the file whole: a viewer never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(body, ensure_ascii=False) + "\n", "utf-8")
    os.replace(part, path)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread after so many seconds, whatever it waits for.

    Elsewhere, and where there are no alarms, the time is looked at after every step.
    """
    if seconds <= 0:
        raise OutOfTime("the time of this run is over; give it more with --deadline-s")
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime("the time of this run is over; give it more with --deadline-s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- the command ------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every episode came to its end, 1 where one did not, 2 where none could begin."""
    asked = _parser().parse_args(argv)
    out = sys.stdout
    try:
        with redirect_stdout(sys.stderr), _ended_in_order(), _connected(asked) as connection:
            stage = _stage(asked, out, connection)
            tasks = _tasks(asked, stage.family)
            endings = perform(stage, tasks, range(asked.seed0, asked.seed0 + asked.episodes))
    except (RoundsError, OSError, ValueError) as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    mean = sum(ending.score for ending in endings) / max(len(endings), 1)
    unfinished = sum(ending.score == 0.0 for ending in endings)  # a grader's score is never 0
    print(
        f"{len(endings)} episodes, mean score {mean:.3f}, {unfinished} unfinished", file=sys.stderr
    )
    return 1 if unfinished else 0


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Whoever ends this program with SIGTERM is given an END too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _connected(asked: argparse.Namespace) -> Iterator[Connection | None]:
    if not asked.env_url:
        yield None
        return
    from env_server.client import connect

    with connect(asked.env_url, asked.family, pool=4) as connection:
        yield connection


def _stage(asked: argparse.Namespace, out: TextIO, connection: Connection | None) -> Stage:
    from env_server import registry
    from eval import roster
    from eval.consult import ServedPlayer
    from eval.heldout import refuse_overlap
    from eval.question import ask
    from eval.watched import choosing

    shipped = registry.get(asked.family)
    options = read_options(shipped, dict(asked.option))
    family = choosing(shipped, options)
    player = roster.find(asked.agent, family, roster.Options(asked.temperature))
    asks = ask(family, _tasks(asked, family), asked.split, asked.seed0, asked.episodes)
    refuse_overlap(player.name, player.trained_on, asks.patients())
    model = player.name
    if isinstance(player, ServedPlayer):
        model = player.model.endpoint.model
    lines: Lines = (
        Json(secrets.token_hex(8), family.name, model)
        if asked.log_format == "json"
        else Plain(family.name, model)
    )
    return Stage(
        family,
        player,
        lines,
        out,
        split=asked.split,
        passed=asked.success_at,
        bounded=asked.reward_style == "bounded",
        live=asked.live,
        begin=_remote(connection, family, player, options) if connection else None,
        ends_at=monotonic() + asked.deadline_s,
    )


def _remote(
    connection: Connection, family: Family, player: Player, options: Mapping[str, Any]
) -> Begin:
    """Episodes on the server. A served model reads what the server sends; whoever needs more than

    JSON (legal actions, typed observations) plays a twin here that is compared at every step.
    """
    from eval.consult import ServedPlayer
    from eval.watched import Mirrored

    def begin(task: str, seed: int, split: Split) -> Episode:
        there = connection.begin(task, seed, split, **options)
        if isinstance(player, ServedPlayer):
            return cast(Episode, there)
        return cast(Episode, Mirrored(family.begin(task, seed, split), there))

    return begin


def _tasks(asked: argparse.Namespace, family: Family) -> list[str]:
    """Those asked for; else the family's seed tasks, else all."""
    from env_server import registry

    if asked.tasks:
        named = [name for part in asked.tasks for name in part.split(",") if name]
        return [registry.task(family, name).name for name in named]
    return [t.name for t in family.tasks.values() if t.seed] or list(family.tasks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.transcript",
        description="Play tasks aloud, one line a step on stdout; complaints go to stderr.",
        epilog="The model is MODEL_NAME at API_BASE_URL with OPENAI_API_KEY or HF_TOKEN, or"
        " --agent llm:MODEL@URL; docs/llm.md lists the knobs.",
    )
    add = parser.add_argument
    add("--agent", default="llm", help="who plays, as in eval.compare (default: %(default)s)")
    add("--family", default="polypharmacy", help="environment family (default: %(default)s)")
    add("--tasks", nargs="+", help="tasks (default: the family's seed tasks, else all)")
    add("--episodes", type=at_least(1), default=1, help="patients a task (default: %(default)s)")
    add("--split", default="test", help="which patients (default: %(default)s)")
    add("--seed0", type=int, default=0, help="seed of the first patient (default: %(default)s)")
    add(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of every episode, where the family offers it: scenario=..., kappa=.9; may be repeated",
    )
    add("--temperature", type=float, default=0.0, help="of the model (default: %(default)s)")
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="how lines are spelled (default: text)",
    )
    add(
        "--env-url",
        default=os.environ.get("POLYPHARMACY_ENV_URL") or None,
        help="play on this server (default: POLYPHARMACY_ENV_URL, else in this process)",
    )
    add(
        "--reward-style",
        choices=("signed", "bounded"),
        default="signed",
        help="bounded clamps rewards into (0.001, 0.999) (default: signed)",
    )
    add(
        "--success-at", type=float, default=PASSED, help="score of a success (default: %(default)s)"
    )
    add(
        "--deadline-s",
        type=float,
        default=BUDGET_S,
        help="seconds of the run (default: %(default)s)",
    )
    add("--live", type=Path, metavar="FILE", help="keep a JSON snapshot of the latest step there")
    return parser


def _option(text: str) -> tuple[str, object]:
    """A name and a JSON value; what is no JSON is a word."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(f"0{value}" if value.startswith(".") else value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
