"""A trainer killed again and again, and whether it ends with the bytes of one that was left alone.

Knows how to start, kill and compare a run; the run itself is `training.grpo`, through a server of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import descendants, still_running
from bench.promise import Figure
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


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run that was killed until enough was enough."""

    kills: int
    steps_at_kill: tuple[int, ...]
    orphans: int


def warm_start(folder: Path) -> Path:
    """A model that has seen a few moves: an untrained one fails alike in every attempt."""
    from training.sft import SftConfig, train

    return train(SftConfig(output=str(folder / "sft"), episodes=160, steps=30, device="cpu"))


def launch(model: Path, run: Path) -> subprocess.Popen[bytes]:
    knobs = {**FLAGS, "model": model, "output": run}
    flags = [text for name, value in knobs.items() for text in (f"--{name}", str(value))]
    said = (run.parent / f"{run.name}.log").open("ab")
    with said:
        return subprocess.Popen(
            [sys.executable, "-m", "training.grpo", *flags],
            cwd=ROOT,
            stdout=said,
            stderr=said,
            env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        )


def finish(model: Path, run: Path) -> None:
    """Run, or go on, to the end."""
    if launch(model, run).wait(900) != 0:
        said = (run.parent / f"{run.name}.log").read_text(errors="replace")
        raise RuntimeError(f"the run did not end well:\n{said[-2000:]}")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long an undisturbed run takes to its first checkpoint, and from there to its end, a step."""

    first_s: float
    step_s: float


def paced(model: Path, run: Path) -> Pace:
    """Run to the end undisturbed."""
    began = time.perf_counter()
    child = launch(model, run)
    await_step(child, run, 1)
    first_s = time.perf_counter() - began
    child.wait(900)
    finish(model, run)  # nothing left to do, or the reason why it broke
    return Pace(first_s, (time.perf_counter() - began - first_s) / STEPS)


def await_step(child: subprocess.Popen[bytes], run: Path, step: int) -> None:
    """Wait for the checkpoint of that step, or for the end of the run."""
    while last_step(run) < step and child.poll() is None:
        time.sleep(0.01)


def await_moment(child: subprocess.Popen[bytes], run: Path, wait_s: float, at_most: int) -> bool:
    """Wait so long, or until that step where the machine is faster than it was; whether it still runs."""
    ends = time.monotonic() + wait_s
    while child.poll() is None and time.monotonic() < ends and last_step(run) < at_most:
        time.sleep(0.01)
    return child.poll() is None


def evidence(run: Path) -> dict[str, Any]:
    """All a run leaves that must not depend on what happened to it."""
    found: dict[str, Any] = {}
    last = run / "checkpoints" / f"checkpoint-{STEPS}"
    for name, path in (("model", run / "model"), ("last", last)):
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


def killed(model: Path, run: Path, pace: Pace, most: int, draws: Stream) -> Attempt:
    """Kill the run at random moments, `most` times or until it is done, and let it end.

    Half of the kills strike before another checkpoint is written, half within a step after one.
    """
    at: list[int] = []
    orphans = 0
    while len(at) < most:
        before = last_step(run)
        child = launch(model, run)
        if draws.chance(0.5):
            await_step(child, run, before + 1)
            wait_s = pace.step_s * draws.uniform()
        else:
            wait_s = pace.first_s * draws.uniform(0.3, 1.0)
        if not await_moment(child, run, wait_s, min(before + 2, STEPS)):
            break  # it was done first
        servers = descendants(child.pid)
        child.kill()
        child.wait()
        at.append(last_step(run))
        orphans += still_running(servers)
    finish(model, run)
    return Attempt(len(at), tuple(at), orphans)


def kill_figures(kills: int, folder: Path) -> list[Figure]:
    """Kill trainers `kills` times in all, over as many runs as that takes."""
    draws = Stream("kills", "grpo", 0)
    model = warm_start(folder)
    alone = folder / "alone"
    pace = paced(model, alone)
    wanted = evidence(alone)
    done, other, broken, orphans, number = 0, 0, 0, 0, 0
    if not whole(wanted):
        raise RuntimeError("the undisturbed run's own lines are not whole")
    while done < kills:
        run = folder / f"killed-{number}"
        attempt = killed(model, run, pace, kills - done, draws)
        found = evidence(run)
        other += found["model"] != wanted["model"] or found["last"] != wanted["last"]
        broken += found != wanted
        orphans += attempt.orphans
        done += attempt.kills
        number += 1
        print(f"killed at steps {attempt.steps_at_kill}", file=sys.stderr)
        for name in wanted:
            if found[name] != wanted[name]:
                print(f"differs: {name}", file=sys.stderr)
    return [
        Figure("trainer killed", done, "times", number, "least", kills),
        Figure("trainer killed: runs with other weights", other, "runs", number, "most", 0),
        Figure("trainer killed: runs with other lines", broken, "runs", number, "most", 0),
        Figure("trainer killed: servers left behind", orphans, "processes", done, "most", 0),
        Figure("trainer undisturbed: first checkpoint after", pace.first_s, "s", 1),
    ]


def last_step(run: Path) -> int:
    """The latest step with a checkpoint; 0 before the first."""
    found = [int(p.name.rpartition("-")[2]) for p in (run / "checkpoints").glob("checkpoint-*")]
    return max(found, default=0)
