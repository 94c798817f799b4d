"""MaskablePPO, PPO or DQN of Stable-Baselines3 on any task: settings, the run's folder, the command.

Knows what a run keeps and how it is gone on with; the learner itself is `ppo_learner`'s business.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from configs.loader import ConfigError, read
from env_server import registry
from env_server.contract import Family, RoundsError, task_of
from eval.heldout import Patients
from training import extras, flags, threads
from training.progress import Interrupted, Progress, line, lines
from training.run_folder import opened

threads.settle()

POLICY, CHECKPOINT, METRICS = "policy.safetensors", "checkpoint.zip", "metrics.jsonl"
SEEDS, PICTURE, LESSON = "seeds.json", "learning_curve.png", "lesson.safetensors"


@dataclass(frozen=True, slots=True)
class PpoConfig:
    """One run of one learner on one task."""

    task: str
    "Task to learn; any task of any family."
    family: str | None = None
    "Family of the task; left out, the one that has it."
    output: str = "runs/ppo"
    "Folder of such runs; this one keeps itself in the sub-folder named after the task."
    algo: Literal["maskable_ppo", "ppo", "dqn"] = "maskable_ppo"
    "Learner: maskable_ppo never tries an illegal action; ppo and dqn do, and are charged for it."
    encoding: str = "default"
    "The family's encoding of what is seen as numbers."
    steps: int = 40_000
    "Environment steps to learn from, over all environments."
    environments: int = 8
    "Patients that are played side by side."
    rollout: int = 128
    "Steps of each environment between two updates (ppo, maskable_ppo)."
    batch: int = 256
    "Steps a gradient is taken over."
    epochs: int = 6
    "Times each rollout is learned from (ppo, maskable_ppo)."
    lr: float = 1e-3
    "Learning rate; falls linearly to nothing (ppo, maskable_ppo)."
    gamma: float = 0.99
    "How much a reward is worth one step earlier."
    gae_lambda: float = 0.95
    "How far advantages look ahead: 0 one step, 1 to the end (ppo, maskable_ppo)."
    entropy: float = 0.01
    "Reward of staying undecided (ppo, maskable_ppo)."
    network: Literal["mlp", "places"] = "mlp"
    "`mlp` takes any features; `places` shares weights between the places of a list (encoding drugs, maskable_ppo)."
    hidden: tuple[int, ...] = (128, 128)
    "Widths of the hidden layers, of the policy and of the value network alike; `places` has one."
    imitate: tuple[str, ...] = ()
    "Agents whose reviews of train patients are imitated first, by turns; none starts from fresh weights."
    imitate_patients: int = 4_000
    "Train patients whose reviews are imitated, seeds from 0."
    imitate_epochs: int = 6
    "Passes over them."
    imitate_lr: float = 2e-3
    "Learning rate of imitation, falling linearly to a tenth."
    critic_first: int = 0
    "Steps that teach the critic alone, before a policy that imitated moves (places)."
    buffer: int = 50_000
    "Steps that are remembered (dqn); not kept in a checkpoint."
    warmup: int = 1_000
    "Random steps before anything is learned, and again after a resume (dqn)."
    explore: float = 0.3
    "Share of the run over which random actions fall to one in twenty (dqn)."
    seed: int = 0
    "Of the weights, the sampling and the order of patients."
    patients: int = 1_000_000
    "Seeds of the train split that patients are drawn from: 0 to this."
    attempts: int = 1
    "Episodes of each patient, one after the other: drawing a patient can cost more than playing one."
    validation_patients: int = 200
    "Patients of the validation split that choose the checkpoint."
    validate_every: int = 4_000
    "Environment steps between two looks at them; each look also writes a checkpoint."

    def __post_init__(self) -> None:
        for knob in ("steps", "environments", "rollout", "batch", "epochs", "buffer", "patients",
                     "attempts", "imitate_patients", "imitate_epochs",
                     "validation_patients", "validate_every"):  # fmt: skip
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be at least 1")
        for knob in ("lr", "imitate_lr"):
            if getattr(self, knob) <= 0:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be above 0")
        for knob in ("entropy", "critic_first", "warmup"):
            if not getattr(self, knob) >= 0:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be 0 or more")
        for knob in ("gamma", "gae_lambda", "explore"):
            if not 0 <= getattr(self, knob) <= 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it lies between 0 and 1")
        if self.algo != "dqn" and self.environments * self.rollout < 2:
            raise ValueError("rollout is 1 on 1 environment; an advantage needs two steps at least")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden is {self.hidden}; every layer needs a width of at least 1")
        self._check_network()

    def _check_network(self) -> None:
        if self.network == "places" and self.algo != "maskable_ppo":
            raise ValueError(f"network places learns by maskable_ppo alone; algo is {self.algo}")
        if self.network == "places" and len(self.hidden) != 1:
            raise ValueError(f"hidden is {self.hidden}; network places has one width: [64]")
        if self.imitate and self.algo == "dqn":
            raise ValueError(
                "dqn learns values, which imitation does not teach; leave imitate empty"
            )
        if self.critic_first and self.network != "places":
            raise ValueError("critic_first needs a critic of its own; set network to places")


def train(
    config: PpoConfig,
    progress: Progress | None = None,
    family: Family | None = None,
    asked: threading.Event | None = None,
) -> Path:
    """Learn, or go on where the folder's checkpoint left off; the run's folder, policy inside.

    family: the one that has the task, unless given. asked: set it, and the run stops after its step.
    A resumed run draws other patients and other numbers than one that was never stopped:
    Stable-Baselines3 keeps weights and optimizer, not its generators. Raises BadRun, RoundsError, or
    Interrupted once the checkpoint is written.
    """
    _demand_libraries()
    if family is None:
        family = registry.get(config.family) if config.family else registry.owner(config.task)
    task = task_of(family, config.task)
    with opened(Path(config.output) / task.name, config) as run:
        _write_seeds(run, config, family)
        from training import ppo_learner

        ppo_learner.learn(run, config, family, progress, asked or threading.Event())
    picture(run, config)
    return run


def _demand_libraries() -> None:
    extras.demand("torch", "stable_baselines3", "sb3_contrib", "safetensors", extra="agents")


def _write_seeds(run: Path, config: PpoConfig, family: Family) -> None:
    """Which patients this run learns from and which choose its checkpoint, before it sees any."""
    learned = Patients(family.name, config.task, "train", 0, config.patients)
    chosen = Patients(family.name, config.task, "validation", 0, config.validation_patients)
    told = {"trained_on": [learned.to_json()], "validated_on": [chosen.to_json()]}
    (run / SEEDS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def picture(run: Path, config: PpoConfig) -> None:
    """The learning curve as PNG: training episodes as sampled, validation patients played greedily."""
    looks = lines(run / METRICS)
    if find_spec("matplotlib") is None or not looks:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, style, label in (
        ("score", "-", "train, sampled"),
        ("validation", "o-", f"validation, greedy, n = {config.validation_patients}"),
    ):
        told: list[dict[str, Any]] = [look for look in looks if name in look]
        axes.plot(
            [look["step"] for look in told], [look[name] for look in told], style, label=label
        )
    axes.set(xlabel="environment steps", ylabel="score", title=f"{config.algo} on {config.task}")
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.25)
    figure.savefig(run / PICTURE, dpi=120)
    plt.close(figure)


PRESETS = Path("configs/ppo")


def asked_for(asked: argparse.Namespace) -> PpoConfig:
    """The config of a command line. A preset may have a file for one task: best.review_easy.yaml.

    Raises ConfigError.
    """
    if asked.preset:
        general = PRESETS / f"{asked.preset}.yaml"
        own = PRESETS / f"{asked.preset}.{asked.task or read(general).get('task')}.yaml"
        asked.config = str(own if own.is_file() else general)
    return flags.resolve(PpoConfig, asked)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m training.ppo`: the run's folder on stdout, progress and complaints on stderr."""
    parser = flags.parser(
        PpoConfig,
        "python -m training.ppo",
        "Train MaskablePPO, PPO or DQN on one task of any family; the same command resumes.",
        config=str(PRESETS / "demo.yaml"),
    )
    parser.add_argument(
        "--preset",
        choices=("demo", "best"),
        help=f"short for --config {PRESETS}/PRESET.yaml, or PRESET.TASK.yaml where there is one",
    )
    asked = parser.parse_args(argv)
    try:
        config = asked_for(asked)
        _demand_libraries()
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with line() as progress:
            run = train(config, progress)
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    print(run)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
