"""REINFORCE with a learned baseline, on any family that can be seen as numbers.

Long because a run's stages and their resumption stand here together.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.loader import ConfigError
from env_server import registry
from env_server.contract import Family, JsonObject, RoundsError
from eval.policies import POLICY
from training import flags, threads
from training.progress import Interrupted, Progress, line, lines, stoppable
from training.reinforce_settings import ReinforceConfig
from training.run_folder import open_run

if TYPE_CHECKING:
    import torch

    from training.classical_rollout import Batch, Patients
    from training.imitation import Tell
    from training.reinforce_checkpoint import Cursor

threads.settle()

ROWS = 512  # positions of one backward pass: what is kept between the passes stays in the cache
LAST = "last.safetensors"  # the policy after the last update, whatever validation said
METRICS, CURVE, SEEDS, LESSON = "metrics.jsonl", "curve.png", "seeds.json", "lesson.safetensors"


@dataclass(slots=True)
class Figures:
    """What one update tells. value_loss: mean squared error of the baseline before the step."""

    reward: float
    score: float
    loss: float
    value_loss: float
    entropy: float
    steps: int


class Learner:
    """Policy, baseline, optimiser and randomness of one run."""

    def __init__(self, config: ReinforceConfig, family: Family) -> None:
        import torch

        from eval.policy_net import Shape, build
        from training.value_net import Value

        torch.set_num_threads(config.threads)
        self.config, self.family = config, family
        self.encoding = family.encoding(config.task, config.encoding)
        self.shape = Shape(
            family.name,
            config.task,
            config.encoding,
            config.network,
            config.hidden_dim,
            self.encoding.size,
            self.encoding.n_actions,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = build(self.shape, self.encoding)
            self.value = Value(self.policy.summary_size, config.hidden_dim)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimiser = self._adam()

    def _adam(self) -> torch.optim.Optimizer:
        import torch

        weights = [*self.policy.parameters(), *self.value.parameters()]
        return torch.optim.Adam(weights, lr=self.config.lr)

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        return {"policy": self.policy, "value": self.value}

    def learn(self, batch: Batch, progress: float, acting: bool = True) -> Figures:
        """One step up the gradient of the return, less the baseline. progress: of the run, in 0..1.

        acting: False teaches the baseline and leaves the policy as it is.
        """
        import torch

        config = self.config
        advantage_N = batch.to_go_N - batch.expected_N
        if config.attempts > 1:
            advantage_N = advantage_N - others_luck(batch, config.attempts)
        if config.normalise:
            advantage_N = (advantage_N - advantage_N.mean()) / (advantage_N.std() + 1e-6)
        self.optimiser.zero_grad()
        sums = torch.zeros(3)
        for first in range(0, batch.steps, ROWS):
            rows = slice(first, first + ROWS)
            parts = self._losses(batch, rows, advantage_N[rows])
            policy_loss, value_loss, entropy = parts
            loss = value_loss
            if acting:
                loss = loss + policy_loss - config.entropy_coeff * entropy
            (loss / batch.steps).backward()
            sums += torch.stack(parts).detach()
        for module in self.modules.values():
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * (1 - (1 - config.lr_end) * progress)
        self.optimiser.step()
        policy_loss, value_loss, entropy = (sums / batch.steps).tolist()
        return Figures(
            sum(batch.returns_E) / len(batch.returns_E),
            sum(batch.scores_E) / len(batch.scores_E),
            policy_loss,
            value_loss,
            entropy,
            batch.steps,
        )

    def _losses(
        self, batch: Batch, rows: slice, advantage_R: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums over these rows: -advantage * log-probability, squared error of the baseline, entropy."""
        import torch

        from eval.policy_net import masked

        mask_RA = batch.mask_NA[rows]
        logits, summary = self.policy(batch.features_NF[rows])
        logp_RA = torch.log_softmax(masked(logits, mask_RA), 1)
        taken_R = logp_RA.gather(1, batch.actions_N[rows, None])[:, 0]
        # 0 * -inf is not a number: what is not possible has no share of the entropy
        possible_RA = logp_RA.masked_fill(~mask_RA, 0.0)
        entropy = -(possible_RA.exp() * possible_RA * mask_RA).sum()
        value_loss = (self.value(summary) - batch.to_go_N[rows]).square().sum()
        return -(advantage_R * taken_R).sum(), value_loss, entropy


def others_luck(batch: Batch, attempts: int) -> torch.Tensor:
    """By how much the other attempts at the same patient beat the baseline at their start, a step each.

    A patient who is better than the baseline can see is so for all attempts; one's own is left out, so
    that the gradient stays unbiased.
    """
    import torch

    lengths_E = torch.tensor(batch.steps_E)
    starts_E = lengths_E.cumsum(0) - lengths_E
    luck_PG = (batch.to_go_N - batch.expected_N)[starts_E].view(-1, attempts)
    others_PG = (luck_PG.sum(1, keepdim=True) - luck_PG) / (attempts - 1)
    return others_PG.flatten().repeat_interleave(lengths_E)


def train(config: ReinforceConfig, progress: Progress | None = None) -> Path:
    """Run or resume one task; returns its folder, with the best policy in policy.safetensors.

    Raises BadRun (folder unusable), UnknownTask, NoLayout, Interrupted (checkpoint saved).
    """
    family = registry.get(config.family)
    return train_on(family, config, progress)


def train_on(family: Family, config: ReinforceConfig, progress: Progress | None = None) -> Path:
    """`train` on a family that need not be installed."""
    registry.task(family, config.task)
    run = open_run(Path(config.output) / config.task, config)
    if (run / LAST).is_file() and (run / POLICY).is_file():
        return run
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
