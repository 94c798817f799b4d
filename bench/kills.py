"""A trainer killed again and again, and whether it ends with the bytes of one that was left alone.

Knows how to start, kill and compare a run; the run itself is `training.grpo`, through a server of its own.
What was killed is noted in the folder, so that the same command in the same folder goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bench.processes import descendants, still_running
from bench.promise import Figure
from bench.warm import Nursery, Trainer
from env_server.seeds import Stream

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4
FLAGS = {
    "answer_tokens": 12,
    "context_tokens": 500,
    "style": "brief",
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_steps": STEPS,
    "save_steps": 1,
    "validation_patients": 4,
    "validation_every": 1,
    "preflight_groups": 0,
}
# what a line says of the clock and not of the learning
_CLOCK = ("step_time", "rollout_s", "environment_s", "tokens_per_s", "seconds", "time", "_runtime")
_TORN = 20  # one kill in so many, of so many at least, finds a checkpoint half written: that takes milliseconds
TORN, WITH_SERVER = "of these, a checkpoint half written", "of these, its server killed as well"
OTHER_WEIGHTS = "trainer killed: runs with other weights"
OTHER_LINES = "trainer killed: runs with other lines"
ORPHANS = "trainer killed: servers left behind"
LIMIT_S = 900.0  # of any one wait: a run that takes longer hangs

Moment = Literal["writing", "within a step", "starting", "handing over"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9. `step` is the last whole checkpoint's; `torn`: another one was half written."""

    run: int
    moment: Moment
    step: int
    torn: bool
    server: bool  # the environment server was killed beside it
    orphans: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds an undisturbed run takes: to its first checkpoint, for a step, to write one, to hand over."""

    first_s: float
    step_s: float
    write_s: float
    end_s: float


def warm_start(folder: Path) -> Path:
    """A model that has seen a few moves: an untrained one fails alike in every attempt."""
    from training.sft import SftConfig, train

    return train(SftConfig(output=str(folder / "sft"), episodes=160, steps=30, device="cpu"))


# -- a run -----------------------------------------------------------------------------------------


def launch(nursery: Nursery, model: Path, run: Path) -> Trainer:
    knobs = {**FLAGS, "model": model, "output": run}
    flags = [text for name, value in knobs.items() for text in (f"--{name}", str(value))]
    return nursery.start(flags, _log(run))


def _log(run: Path) -> Path:
    return run.parent / f"{run.name}.log"


def ended_well(child: Trainer, run: Path) -> None:
    """Wait for the end. Raises RuntimeError with what the run said where it is a bad one."""
    try:
        code = child.wait(LIMIT_S)
    except TimeoutError:
        child.kill()
        raise RuntimeError(f"the run hangs:\n{tail(run)}") from None
    if code != 0:
        raise RuntimeError(f"the run ended with {code}:\n{tail(run)}")


def tail(run: Path) -> str:
    return _log(run).read_text(errors="replace")[-2000:]


def last_step(run: Path) -> int:
    """The step of the last whole checkpoint; 0 before the first."""
    from training.watch import last_checkpoint

    found = last_checkpoint(run / "checkpoints")
    return 0 if found is None else _step(found)


def begun_step(run: Path) -> int:
    """The step of the last checkpoint that was at least begun."""
    return max(map(_step, (run / "checkpoints").glob("checkpoint-*")), default=0)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def over(run: Path) -> bool:
    """Whether the model has been handed over: the last thing a run does."""
    return (run / "model").is_dir()


def await_moment(
    child: Trainer, happened: Callable[[], bool], within_s: float | None = None
) -> bool:
    """Wait until it has happened, or for so long; whether the run is still alive then.

    None: it must happen, or the run must end. Raises RuntimeError where neither does within LIMIT_S.
    """
    ends = time.monotonic() + (LIMIT_S if within_s is None else within_s)
    while child.poll() is None and not happened():
        if time.monotonic() > ends:
            if within_s is None:
                raise RuntimeError(f"the run hangs: nothing happened for {LIMIT_S:.0f} s")
            break
        time.sleep(0.001)
    return child.poll() is None


def paced(nursery: Nursery, model: Path, run: Path) -> Pace:
    """Run to the end undisturbed, or read how long that took when it was done."""
    noted = run.parent / "pace.json"
    if noted.is_file():
        return Pace(**json.loads(noted.read_text("utf-8")))
    shutil.rmtree(run, ignore_errors=True)  # what was interrupted tells no times
    times, child = [time.perf_counter()], launch(nursery, model, run)
    for happened in (
        lambda: begun_step(run) >= 1,
        lambda: last_step(run) >= 1,
        lambda: last_step(run) >= STEPS,
    ):
        await_moment(child, happened)
        times.append(time.perf_counter())
    ended_well(child, run)
    began, torn, first, last = times
    pace = Pace(
        first - began,
        (last - first) / (STEPS - 1),
        first - torn,
        time.perf_counter() - last,
    )
    noted.write_text(json.dumps(asdict(pace)), "utf-8")
    return pace


@dataclass(frozen=True, slots=True)
class Alone:
    """A run that was left alone, and what it takes to start others like it in the same folder."""

    nursery: Nursery
    model: Path
    folder: Path
    pace: Pace
    left: dict[str, Any]  # the evidence it has left

    @property
    def run(self) -> Path:
        return _alone(self.folder)


def _alone(folder: Path) -> Path:
    return folder / "alone"


@contextmanager
def left_alone(folder: Path) -> Iterator[Alone]:
    """Teach a model, and let a run end undisturbed, or read what an earlier command left of both."""
    with Nursery() as nursery:  # it imports while the model is taught
        model = warm_start(folder)
        pace = paced(nursery, model, _alone(folder))
        left = evidence(_alone(folder))
        if not whole(left):
            raise RuntimeError("the undisturbed run's own lines are not whole")
        yield Alone(nursery, model, folder, pace, left)


# -- a kill ----------------------------------------------------------------------------------------


def struck(alone: Alone, number: int, count: int) -> Kill | None:
    """Kill the run of that number for the `count`-th time in all; None where it was done first.

    The moment goes round MOMENTS; one that was missed is drawn anew with the next run. Every second
    round the server dies with the trainer; within a step it also dies a little earlier, so that the
    trainer is killed while it looks for one.
    """
    draws, moment = Stream("kills", "grpo", count, number), MOMENTS[count % len(MOMENTS)]
    run, with_server = alone.folder / f"killed-{number}", (count // len(MOMENTS)) % 2 == 0
    child = launch(alone.nursery, alone.model, run)
    try:
        if not _wait_for(moment, child, run, alone.pace, draws, with_server):
            ended_well(child, run)
            return None
        started = descendants(child.pid)
        if with_server:
            _kill(started)
    finally:
        child.kill()
        child.wait(LIMIT_S)
    step = last_step(run)
    torn, orphans = begun_step(run) > step, still_running(started)
    return Kill(number, moment, step, torn, with_server, orphans)


def _wait_for(
    moment: Moment,
    child: Trainer,
    run: Path,
    pace: Pace,
    draws: Stream,
    with_server: bool,
) -> bool:
    """Wait for a random instant of that moment; whether the run is still alive."""
    before, part = last_step(run), draws.uniform()
    following = min(before + 1, STEPS)
    if moment == "starting":
        return await_moment(
            child, lambda: last_step(run) > before, pace.first_s * (0.1 + 0.9 * part)
        )
    if moment == "writing":
        at = min(before + draws.between(1, 2), STEPS)  # now and then with a whole one before it
        await_moment(child, lambda: begun_step(run) >= at)
        # half of them at once: so short a while is soon missed
        return await_moment(child, _never, pace.write_s * max(0.0, 2 * part - 1))
    if not await_moment(child, lambda: last_step(run) >= following):
        return False
    if with_server and following < STEPS:
        _kill(descendants(child.pid))
    if moment == "within a step":
        return await_moment(child, lambda: last_step(run) > following, pace.step_s * part)
    await_moment(child, lambda: last_step(run) >= STEPS)
    return await_moment(child, _never, pace.end_s * part)


def _never() -> bool:
    return False


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# -- what is left ----------------------------------------------------------------------------------


def evidence(run: Path) -> dict[str, Any]:
    """All a run leaves that must not depend on what happened to it."""
    found: dict[str, Any] = {}
    last = run / "checkpoints" / f"checkpoint-{STEPS}"
    for name, path in (("model", run / "model"), ("last", last), ("best", run / "best")):
        found[name] = (path / "model.safetensors").read_bytes()
    for name in ("metrics.jsonl", "validation.jsonl"):
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
        found[name] = [
            {k: v for k, v in line.items() if not any(c in k for c in _CLOCK)} for line in lines
        ]
        found[f"{name} steps"] = [line["step"] for line in lines]
    return found


def whole(found: dict[str, Any]) -> bool:
    """Whether every step is told, once, in order."""
    trained, looked = list(range(1, STEPS + 1)), list(range(STEPS + 1))
    told = found["metrics.jsonl steps"], found["validation.jsonl steps"]
    return told == (trained, looked)


def noted(folder: Path) -> list[Kill]:
    """The kills of an earlier command in this folder."""
    path = folder / "kills.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [Kill(**json.loads(line)) for line in lines]


def note(folder: Path, kill: Kill) -> None:
    with (folder / "kills.jsonl").open("a", encoding="utf-8") as told:
        told.write(json.dumps(asdict(kill)) + "\n")
    beside = ", its server too" if kill.server else ""
    torn = ", a checkpoint half written" if kill.torn else ""
    print(f"killed {kill.moment}, at step {kill.step}{beside}{torn}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Tally:
    """What kills came to, and the runs that were killed."""

    kills: int
    runs: int
    torn: int
    with_server: int
    other_weights: int
    other_lines: int
    orphans: int

    def figures(self, wanted: int, whose: str = "") -> list[Figure]:
        """Beside what is promised of `wanted` kills. whose: put before the names of those not of now."""
        n, runs, least = self.kills, self.runs, wanted // _TORN
        rows = (
            Figure("trainer killed", n, "times", runs, "least", wanted),
            Figure(TORN, self.torn, "times", n, *(("least", least) if least else ())),
            Figure(WITH_SERVER, self.with_server, "times", n),
            Figure(OTHER_WEIGHTS, self.other_weights, "runs", runs, "most", 0),
            Figure(OTHER_LINES, self.other_lines, "runs", runs, "most", 0),
            Figure(ORPHANS, self.orphans, "processes", n, "most", 0),
        )
        return [replace(row, name=f"{whose}{row.name}") for row in rows]


def recorded(record: dict[str, Any]) -> Tally:
    """The tally that an earlier command's JSON holds."""
    found = {figure["name"]: figure for figure in record["figures"]}
    killed = found["trainer killed"]
    names = (TORN, WITH_SERVER, OTHER_WEIGHTS, OTHER_LINES, ORPHANS)
    return Tally(killed["value"], killed["n"], *(found[name]["value"] for name in names))


def tally(told: Sequence[Kill], left: Sequence[dict[str, Any]], wanted: dict[str, Any]) -> Tally:
    """told: the kills. left, wanted: the evidence of each run that was killed, and of the one that was not."""
    bytes_of = ("model", "last", "best")
    return Tally(
        kills=len(told),
        runs=len(left),
        torn=sum(kill.torn for kill in told),
        with_server=sum(kill.server for kill in told),
        other_weights=sum(any(found[name] != wanted[name] for name in bytes_of) for found in left),
        other_lines=sum(found != wanted for found in left),
        orphans=sum(kill.orphans for kill in told),
    )


def kill_figures(kills: int, alone: Alone) -> list[Figure]:
    """Kill trainers `kills` times in all, over as many runs as that takes, and let each end."""
    told = noted(alone.folder)
    number = told[-1].run if told else 0
    while len(told) < kills:
        number += over(alone.folder / f"killed-{number}")
        kill = struck(alone, number, len(told))
        if kill is not None:
            note(alone.folder, kill)
            told.append(kill)
    runs = [alone.folder / f"killed-{one}" for one in range(number + 1)]
    for run in runs:
        if not over(run):
            ended_well(launch(alone.nursery, alone.model, run), run)
    figures = tally(told, [evidence(run) for run in runs], alone.left).figures(kills)
    return [
        *figures,
        Figure("trainer undisturbed: first checkpoint after", alone.pace.first_s, "s", 1),
    ]
