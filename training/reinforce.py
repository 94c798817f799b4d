"""REINFORCE with a learned baseline, on any family that can be seen as numbers.

Patients of the train split alone are played; the policy that scores best on validation patients is kept for
`reinforce:` in the table. Killed and resumed, a run ends as if it had never been killed.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.loader import ConfigError
from env_server import registry
from env_server.contract import Family, JsonObject, RoundsError
from eval.policies import POLICY
from training import extras, flags, threads
from training.progress import Interrupted, Progress, line, lines, stoppable
from training.reinforce_settings import ReinforceConfig
from training.run_folder import opened

if TYPE_CHECKING:
    from training.classical_rollout import Patients
    from training.imitation import Tell
    from training.reinforce_checkpoint import Cursor
    from training.reinforce_learner import Figures, Learner

threads.settle()

LAST = "last.safetensors"  # the policy after the last update, whatever validation said
METRICS, CURVE, SEEDS, LESSON = "metrics.jsonl", "curve.png", "seeds.json", "lesson.safetensors"


def train(config: ReinforceConfig, progress: Progress | None = None) -> Path:
    """Run or resume one task; returns its folder, with the best policy in policy.safetensors.

    Raises BadRun (folder unusable), UnknownTask, NoLayout, Interrupted (checkpoint saved).
    """
    family = registry.get(config.family)
    return train_on(family, config, progress)


def train_on(family: Family, config: ReinforceConfig, progress: Progress | None = None) -> Path:
    """`train` on a family that need not be installed."""
    registry.task(family, config.task)
    extras.demand("torch", "safetensors", "matplotlib")
    with opened(Path(config.output) / config.task, config) as run:
        if (run / LAST).is_file() and (run / POLICY).is_file():
            return run
        from training.reinforce_learner import Learner

        _write_json(run / SEEDS, {"trained_on": patients_of(config, family)})
        learner = Learner(config, family)
        with stoppable(threading.Event()) as stop:
            _Run(learner, run, progress, stop).go()
    return run


class _Run:
    """The loop of one run: play, learn, look at validation, save."""

    def __init__(
        self, learner: Learner, run: Path, progress: Progress | None, stop: threading.Event
    ) -> None:
        from training.classical_rollout import Patients

        self.learner, self.run, self.progress, self.stop = learner, run, progress, stop
        self.config = learner.config
        task = self.config.task
        self.train_patients = Patients(learner.family, task, "train")
        self.validation: Patients = Patients(learner.family, task, "validation")
        self.began = time.monotonic()
        self.printed = 0

    def go(self) -> None:
        from training import reinforce_checkpoint as checkpoint

        config = self.config
        before = checkpoint.load(
            self.run, self.learner.modules, self.learner.optimiser, self.learner.generator
        )
        cursor = before or self._first()
        self._drop_lines_after(cursor.updates)
        self.printed = cursor.updates * config.batch_size
        while cursor.updates < config.updates:
            cursor = self._update(cursor)
            over = cursor.updates == config.updates
            if over or self.stop.is_set() or cursor.updates % config.save_every == 0:
                self._save(cursor)
            if self.stop.is_set() and not over:
                self._interrupted(cursor.updates)
        self._write_policy(LAST, cursor.updates, None)
        draw_curve(self.run)

    def _first(self) -> Cursor:
        """Imitation where it is asked for, and a look at where reinforcement starts."""
        from training.reinforce_checkpoint import Cursor

        if self.config.imitate:
            self._imitate()
        cursor = self._validate(Cursor())
        self._save(cursor)
        return cursor

    def _imitate(self) -> None:
        from training import imitation

        config, learner = self.config, self.learner
        seeds = range(config.seed_from, config.seed_from + config.imitate_patients)
        lesson = imitation.kept(
            self.run / LESSON,
            lambda: imitation.collect(
                learner.family,
                config.task,
                learner.encoding,
                config.imitate,
                seeds,
                self._teller("watch"),
            ),
        )
        loss = imitation.imitate(
            learner.policy,
            lesson,
            config.imitate_epochs,
            config.imitate_lr,
            learner.generator,
            self._teller("imitate"),
        )
        self._note(
            {"stage": "imitate", "step": 0, "positions": len(lesson.actions_N), "loss": loss}
        )

    def _update(self, cursor: Cursor) -> Cursor:
        from training.classical_rollout import roll, sample

        config, learner = self.config, self.learner
        a_batch = config.batch_size // config.attempts
        first = config.seed_from + cursor.updates * a_batch
        first += config.imitate_patients if config.imitate else 0
        episodes = self.train_patients.batch(first, a_batch, config.attempts)
        batch = roll(
            learner.policy,
            learner.encoding,
            episodes,
            sample(learner.generator),
            config.gamma,
            learner.value,
        )
        acting = cursor.updates >= config.baseline_first
        figures = learner.learn(batch, cursor.updates / config.updates, acting)
        cursor = replace(cursor, updates=cursor.updates + 1)
        self._told(cursor.updates, figures)
        if cursor.updates % config.validate_every == 0 or cursor.updates == config.updates:
            cursor = self._validate(cursor)
        return cursor

    def _validate(self, cursor: Cursor) -> Cursor:
        from training.classical_rollout import mean_greedy_score

        learner = self.learner
        episodes = self.validation.again(self.config.validation_patients)
        score = mean_greedy_score(learner.policy, learner.encoding, episodes)
        episodes_played = cursor.updates * self.config.batch_size
        self._note(
            {
                "stage": "validation",
                "step": cursor.updates,
                "episodes": episodes_played,
                "score": score,
            }
        )
        if score <= cursor.best_score:
            return cursor
        self._write_policy(POLICY, cursor.updates, score)
        return replace(cursor, best_score=score, best_update=cursor.updates)

    def _told(self, updates: int, figures: Figures) -> None:
        config = self.config
        episodes = updates * config.batch_size
        shown = {
            name: round(getattr(figures, name), 6)
            for name in ("reward", "score", "loss", "value_loss", "entropy")
        }
        if episodes - self.printed >= config.print_every or updates == config.updates:
            self.printed = episodes
            where = {"stage": "reinforce", "step": updates, "episodes": episodes}
            self._note({**where, "env_steps": figures.steps, **shown})
        if self.progress:
            self.progress(config.task, updates, config.updates, shown)

    def _teller(self, stage: str) -> Tell:
        def tell(done: int, of: int, loss: float) -> None:
            if self.stop.is_set():
                self._interrupted(0)
            if self.progress:
                known = {"loss": loss} if loss == loss else {}
                self.progress(f"{self.config.task} {stage}", done, of, known)

        return tell

    def _save(self, cursor: Cursor) -> None:
        from training import reinforce_checkpoint as checkpoint

        learner = self.learner
        checkpoint.save(self.run, learner.modules, learner.optimiser, learner.generator, cursor)

    def _write_policy(self, name: str, updates: int, score: float | None) -> None:
        from eval import policy_net

        told = {
            "version": self.learner.family.version,
            "updates": updates,
            "episodes": updates * self.config.batch_size,
            "validation_score": score,
        }
        policy_net.write(self.run / name, self.learner.policy, self.learner.shape, told)

    def _note(self, told: JsonObject) -> None:
        timed = {**told, "seconds": round(time.monotonic() - self.began, 3)}
        with (self.run / METRICS).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(timed) + "\n")

    def _drop_lines_after(self, updates: int) -> None:
        """Lines of updates that are played again."""
        kept = [note for note in lines(self.run / METRICS) if note["step"] <= updates]
        text = "".join(json.dumps(note) + "\n" for note in kept)
        (self.run / METRICS).write_text(text, encoding="utf-8")

    def _interrupted(self, updates: int) -> None:
        raise Interrupted(
            f"stopped at update {updates} of {self.config.updates} of {self.config.task}, all of it kept"
            f" in {self.run}; the same command goes on from there"
        )


def patients_of(config: ReinforceConfig, family: Family) -> list[JsonObject]:
    """The train patients that a run of this config learns from."""
    own = config.patients + (config.imitate_patients if config.imitate else 0)
    return [
        {
            "family": family.name,
            "task": config.task,
            "split": "train",
            "seed_from": config.seed_from,
            "seed_to": config.seed_from + own,
        }
    ]


def draw_curve(run: Path) -> None:
    """The run's learning curve: sampled play as it went, greedy play of validation patients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    notes = lines(run / METRICS)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for stage, label in (("reinforce", "train, sampled"), ("validation", "validation, greedy")):
        points = [(note["episodes"], note["score"]) for note in notes if note["stage"] == stage]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, alpha=0.5 if stage[0] == "r" else 1)
    axes.set(xlabel="train episodes", ylabel="score", title=run.name)
    axes.legend()
    figure.tight_layout()
    figure.savefig(run / CURVE, dpi=120)
    pyplot.close(figure)


def _write_json(path: Path, body: Mapping[str, object]) -> None:
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


PRESETS = Path("configs/reinforce")


def runs_of(asked: argparse.Namespace) -> list[ReinforceConfig]:
    """A config for each task that is asked for, all known to be right before anything is trained.

    A preset may have a file for one task beside its own: best.easy_screening.yaml. Raises ConfigError,
    UnknownTask.
    """
    if asked.preset:
        asked.config = str(PRESETS / f"{asked.preset}.yaml")
    config = flags.resolve(ReinforceConfig, asked)
    family = registry.get(config.family)
    named = list(family.tasks) if config.task == "all" else config.task.split(",")
    if not asked.family and named[0].strip() not in family.tasks:
        family = registry.owner(named[0].strip())
    runs = []
    for task in [registry.task(family, name.strip()).name for name in named]:
        own = PRESETS / f"{asked.preset}.{task}.yaml"
        values = {
            **vars(asked),
            "task": task,
            "family": family.name,
            "config": str(own if own.is_file() else asked.config),
        }
        runs.append(flags.resolve(ReinforceConfig, argparse.Namespace(**values)))
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags.parser(
        ReinforceConfig,
        "python -m training.reinforce",
        "REINFORCE with a learned baseline, vectorised over episodes.",
        config=str(PRESETS / "demo.yaml"),
    )
    parser.add_argument(
        "--preset",
        choices=("seed", "demo", "best"),
        help=f"short for --config {PRESETS}/PRESET.yaml, or PRESET.TASK.yaml where there is one",
    )
    asked = parser.parse_args(argv)
    try:
        runs = runs_of(asked)
    except (ConfigError, RoundsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        for config in runs:
            with line() as progress:
                print(train(config, progress))
    except RoundsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
