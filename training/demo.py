"""The whole pipeline in one command: warm start, GRPO, and the table that says what it was worth.

What `make run` calls. On a CPU it makes its own model and needs nothing but packages; on a GPU it
takes a model from the Hub. Stopped at any point, the same command goes on from there. Knows the
order of the stages; each stage is a room's own command.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.loader import ConfigError, load, overrides_of, read
from env_server import registry
from env_server.contract import RoundsError
from training import extras, progress, ranks, threads
from training.progress import Progress

if TYPE_CHECKING:
    from eval.rows import Row

threads.settle()

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_GIB = 1 << 30


class StageEnded(RoundsError, RuntimeError):
    """A stage in processes of its own has ended early, with this exit code, and said why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ended with {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Preset:
    """The two configs of a pipeline, and the model it starts from."""

    sft: str
    grpo: str
    init: str

    @property
    def name(self) -> str:
        return Path(self.grpo).stem


TINY = Preset("sft/demo.yaml", "grpo/demo.yaml", "tiny")
# the largest that fits, by GiB of GPU memory
ON_GPU = (
    (60, Preset("sft/qwen05b.yaml", "grpo/h200_qwen3b.yaml", "Qwen/Qwen2.5-3B-Instruct")),
    (30, Preset("sft/qwen05b.yaml", "grpo/a100_qwen15b.yaml", "Qwen/Qwen2.5-1.5B-Instruct")),
    (0, Preset("sft/qwen05b.yaml", "grpo/t4_qwen05b.yaml", "Qwen/Qwen2.5-0.5B-Instruct")),
)
# knobs of `--fast`: every stage for real, no stage long enough to learn much
FAST_SFT = ("episodes=160", "steps=30", "save_every=15", "log_every=5")
FAST_GRPO = {
    "max_steps": 2,
    "per_device_train_batch_size": 16,
    "num_generations": 4,
    "preflight_groups": 1,
    "validation_patients": 8,
    "validation_every": 1,
    "save_steps": 1,
}


def choose(init: str | None) -> Preset:
    """The preset for this machine: `init` as asked, else by the GPU, else the embedded model."""
    from training.tiny import SIZES

    if init is not None and init in SIZES:
        return Preset(TINY.sft, TINY.grpo, init)
    import torch

    if init is None and not torch.cuda.is_available():
        return TINY
    if not torch.cuda.is_available():
        raise ConfigError(f"init {init!r} wants a GPU and there is none; --init tiny needs none")
    memory = torch.cuda.get_device_properties(0).total_memory / _GIB
    preset = next(fitting for least, fitting in ON_GPU if memory >= least)
    return Preset(preset.sft, preset.grpo, init or preset.init)


def suited(preset: Preset, family: str, task: str) -> Preset:
    """The task's own pair of configs for the embedded model, else the family's, where there is one."""
    from training.tiny import SIZES

    for own in (f"demo.{task}", family):
        stages = f"sft/{own}.yaml", f"grpo/{own}.yaml"
        if preset.init in SIZES and all((CONFIGS / stage).is_file() for stage in stages):
            return Preset(*stages, preset.init)
    return preset


def suited_ranks(init: str | None, fast: bool) -> int:
    """How many processes share the trainings: the embedded model gains more by these than by threads."""
    from training.tiny import SIZES

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if fast or choose(init).init not in SIZES else min(2, cores or 1)


@dataclass(frozen=True, slots=True)
class Course:
    """What both stages need to know. count: the ranks that share a training."""

    preset: Preset
    output: Path
    family: str
    task: str
    fast: bool
    count: int


def run(
    output: Path,
    task: str | None,
    init: str | None,
    patients: int,
    fast: bool,
    progress: Progress,
    count: int = 1,
) -> list[Row]:
    """Warm start, GRPO and the evidence, each resumed or left out where it is done already.

    count: ranks that share the trainings. Raises ConfigError where they cannot share a step equally,
    StageEnded where one of theirs has ended early.
    """
    family = registry.get("polypharmacy") if task is None else registry.owner(task)
    task = task or "review_easy"
    preset = suited(choose(init), family.name, task)
    course = Course(preset, output, family.name, task, fast, count)
    print(f"warm start: {_warm_start(course, progress)}", file=sys.stderr)
    print(f"GRPO: {_reinforce(course, progress)}", file=sys.stderr)
    return _compare(output, family.name, task, patients, progress)


def _warm_start(course: Course, progress: Progress) -> Path:
    from training import sft

    path, run = CONFIGS / course.preset.sft, course.output / "sft"
    knobs = {
        **overrides_of(FAST_SFT if course.fast else ()),
        "output": str(run),
        "family": course.family,
        "tasks": [course.task],
        "init": course.preset.init,
    }
    knobs |= _dealt({**read(path), **knobs}, "batch", course.count)
    config = load(path, sft.SftConfig, knobs)
    if course.count == 1 or (run / "model" / sft.ROUNDS).is_file():
        return sft.train(config, progress)
    return _by_ranks("training.sft", path, knobs, run, course.count)


def _reinforce(course: Course, progress: Progress) -> Path:
    from training.sft import ROUNDS

    path, run = CONFIGS / course.preset.grpo, course.output / "grpo"
    knobs: dict[str, object] = {
        **(FAST_GRPO if course.fast else {}),
        "output": run,
        "model": course.output / "sft" / "model",
        "family": course.family,
        "tasks": course.task,
    }
    whole = {**read(path), **knobs}
    knobs |= _dealt(whole, "per_device_train_batch_size", course.count)
    if course.count > 1:
        knobs["length_groups"] = max(whole.get("length_groups", 1) // course.count, 1)
        if not (run / "model" / ROUNDS).is_file():
            return _by_ranks("training.grpo", path, knobs, run, course.count)
    from training.grpo import train
    from training.grpo_settings import parse

    return train(*parse(_flags(path, knobs)), progress)


def _dealt(knobs: Mapping[str, Any], name: str, count: int) -> dict[str, object]:
    """The same step in equal shares; nothing for one rank alone. Raises ConfigError."""
    if count == 1:
        return {}
    whole = knobs[name]
    if whole % count:
        raise ConfigError(f"--ranks {count} cannot share {name} {whole} equally; try --ranks 2")
    return {name: whole // count}


def _flags(config: Path, knobs: Mapping[str, object]) -> list[str]:
    return ["--config", str(config), *(w for k, v in knobs.items() for w in (f"--{k}", str(v)))]


def _by_ranks(
    module: str, config: Path, knobs: Mapping[str, object], run: Path, count: int
) -> Path:
    code = ranks.run(module, _flags(config, knobs), count)
    if code:
        raise StageEnded(code)
    return run / "model"


def _compare(output: Path, family: str, task: str, patients: int, progress: Progress) -> list[Row]:
    from training.evidence import before_after, players

    total = patients * len(players(output / "sft", output / "grpo", family, task))
    played = 0

    def tick(_: str, agent: str, settled: int) -> None:
        nonlocal played
        played += settled
        progress("table", played, total, {})

    return before_after(output, output / "sft", output / "grpo", family, task, patients, tick)


def _tell(output: Path, rows: Sequence[Row]) -> None:
    """The table on stdout, and where everything lies."""
    from eval import table
    from training import evidence

    table.show(rows, table.console_for_stdout())
    print(evidence.summary(rows))
    print(f"""
Everything lies in {output}/
  {evidence.MARKDOWN}, {evidence.JSON}   this table, and the machine it was measured on
  {evidence.PICTURE}                    the learning curve
  sft/model, grpo/model                 the two models; `--agents local:{output}/grpo` in eval.compare
  sft/metrics.jsonl, grpo/metrics.jsonl what every step said
  grpo/validation.jsonl, grpo/best      the checkpoint chosen on validation patients, and its episodes""")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.demo",
        description="Train a policy in miniature and show that it learned: SFT, GRPO, table.",
        epilog="Stopped at any point, the same command goes on from there.",
    )
    add = parser.add_argument
    add("--task", help="the task to learn (default: review_easy)")
    add(
        "--init", help="tiny forces the CPU demo on a GPU machine; or a Hub id, or a model's folder"
    )
    add("--output", type=Path, help="folder of everything (default: runs/<preset>)")
    add(
        "--ranks",
        type=int,
        help="processes that share the trainings (default: two on a CPU with two cores or more)",
    )
    add("--patients", type=int, default=300, help="test patients of the table (default: 300)")
    add("--fast", action="store_true", help="every stage for real but far too short to learn much")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    asked = arguments().parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")
    try:
        extras.demand("torch", "transformers", "trl", "peft", "datasets", "matplotlib")
        for name in ("ranks", "patients"):
            given = getattr(asked, name)
            if given is not None and given < 1:
                raise ConfigError(f"--{name} is {given}; it must be at least 1")
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        output = asked.output or Path("runs") / _folder(asked)
        with progress.line() as shown:
            count = asked.ranks or suited_ranks(asked.init, asked.fast)
            rows = run(output, asked.task, asked.init, asked.patients, asked.fast, shown, count)
    except StageEnded as ended:
        return ended.code
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except progress.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(progress.AT_ONCE, file=sys.stderr)
        return 130
    _tell(output, rows)
    return 0


def _folder(asked: argparse.Namespace) -> str:
    """One folder a preset and task, so that a second run of the same resumes and another does not."""
    parts = [choose(asked.init).name, asked.task or "", "fast" if asked.fast else ""]
    return "_".join(part for part in parts if part)


if __name__ == "__main__":
    raise SystemExit(main())
