"""The learner inside a PPO run: Stable-Baselines3's model, its first lesson, and what is looked at while it learns.

Imports Stable-Baselines3 and torch at once, so it is itself imported late. Knows nothing of commands.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from env_server.contract import Family
from env_server.task_env import TaskEnv
from training import imitation
from training.ppo import CHECKPOINT, LESSON, METRICS, POLICY, PpoConfig
from training.ppo_kept import keeper, shape_of
from training.ppo_places import PlacesPolicy
from training.progress import Interrupted, Progress, lines, stoppable
from training.run_folder import BadRun

LEARNERS: dict[str, Any] = {"maskable_ppo": MaskablePPO, "ppo": PPO, "dqn": DQN}
ACTIVATION = torch.nn.Tanh


def learn(
    run: Path,
    config: PpoConfig,
    family: Family,
    progress: Progress | None,
    asked: threading.Event,
) -> None:
    """Bring the run in `run` to its last step. Raises Interrupted, BadRun on a broken checkpoint."""
    torch.set_num_threads(1)  # networks this small lose to their own threads: 72 s became 1.7 s
    with stoppable(asked):
        model = _model(run, config, family, Teller(progress, asked))
        left = config.steps - model.num_timesteps
        looks = Looks(run, config, family, progress, asked.is_set)
        if left > 0:
            # exploration and learning rate go by the share of the whole run, resumed or not
            calls = [looks, CriticFirst(config.critic_first)]
            model.learn(left, callback=calls, reset_num_timesteps=False)
        elif not (run / POLICY).is_file():
            raise BadRun(f"{run} is finished but has no policy; delete the folder and train again")
    if asked.is_set() and model.num_timesteps < config.steps:
        raise Interrupted(
            f"stopped at step {model.num_timesteps} of {config.steps}, checkpoint in {run};"
            " the same command goes on from there"
        )


def _model(run: Path, config: PpoConfig, family: Family, tell: Teller) -> Any:
    """The learner anew, taught by imitation where that is asked for, or as the checkpoint has it."""

    def one() -> TaskEnv:
        return TaskEnv(
            family,
            config.task,
            "train",
            config.encoding,
            patients=config.patients,
            attempts=config.attempts,
        )

    envs = DummyVecEnv([one] * config.environments)
    learner, saved = LEARNERS[config.algo], run / CHECKPOINT
    if not saved.is_file():
        model = learner(
            PlacesPolicy if config.network == "places" else "MlpPolicy",
            envs,
            device="cpu",
            seed=config.seed,
            **knobs(config, family),
        )
        if config.imitate:
            _imitate(model, run, config, family, tell)
        return model
    try:
        model = learner.load(saved, envs, device="cpu")
    except (OSError, ValueError, KeyError, RuntimeError) as broken:
        raise BadRun(
            f"{saved} cannot be read ({broken}); delete {run} to start the run again"
        ) from broken
    # other patients than those the run began with
    model.set_random_seed(config.seed + model.num_timesteps)
    if config.algo == "dqn":
        model.learning_starts = model.num_timesteps + config.warmup
    return model


def _imitate(model: Any, run: Path, config: PpoConfig, family: Family, tell: Teller) -> None:
    """Raise the likelihood of what the teachers did; the lesson stays in the folder for the next try."""
    encoding = family.encoding(config.task, config.encoding)
    lesson = imitation.kept(
        run / LESSON,
        lambda: imitation.collect(
            family,
            config.task,
            encoding,
            config.imitate,
            range(config.imitate_patients),
            tell.of("watch"),
        ),
    )
    loss = imitation.imitate(
        model.policy.actor if config.network == "places" else Layers(model.policy),
        lesson,
        config.imitate_epochs,
        config.imitate_lr,
        torch.Generator().manual_seed(config.seed),
        tell.of("imitate"),
    )
    note(run, {"stage": "imitate", "step": 0, "positions": len(lesson.actions_N), "loss": loss})


class Layers(torch.nn.Module):
    """The layers of Stable-Baselines3's plain policy, as imitation wants a network: logits first."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.parts = torch.nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net)

    def forward(self, features_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits over all actions, the features)."""
        return self.parts(features_BF), features_BF


class Teller:
    """Tells how far the first lesson is, and ends it where the run was asked to stop."""

    def __init__(self, progress: Progress | None, asked: threading.Event) -> None:
        self._progress, self._asked = progress, asked

    def of(self, stage: str) -> imitation.Tell:
        def tell(done: int, of: int, loss: float) -> None:
            if self._asked.is_set():
                raise Interrupted("stopped during imitation; the same command begins it again")
            if self._progress:
                self._progress(stage, done, of, {"loss": loss} if loss == loss else {})

        return tell


def knobs(config: PpoConfig, family: Family) -> dict[str, Any]:
    """The config in Stable-Baselines3's words."""
    widths = list(config.hidden)
    shared = {"gamma": config.gamma, "batch_size": config.batch}
    if config.algo == "dqn":
        return {
            **shared,
            "learning_rate": config.lr,
            "buffer_size": config.buffer,
            "learning_starts": config.warmup,
            "train_freq": 1,
            "target_update_interval": 1_000,
            "exploration_fraction": config.explore,
            "policy_kwargs": {"net_arch": widths, "activation_fn": ACTIVATION},
        }
    return {
        **shared,
        "batch_size": min(config.batch, config.rollout * config.environments),
        "learning_rate": Falling(config.lr),
        "n_steps": config.rollout,
        "n_epochs": config.epochs,
        "gae_lambda": config.gae_lambda,
        "ent_coef": config.entropy,
        "policy_kwargs": {"shape": shape_of(config, family)}
        if config.network == "places"
        else {"net_arch": {"pi": widths, "vf": widths}, "activation_fn": ACTIVATION},
    }


class Falling:
    """A learning rate in proportion to what is left of the run; a class, so that it can be saved."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, left: float) -> float:
        return self.start * max(left, 0.02)


class CriticFirst(BaseCallback):
    """Holds the actor still for the first steps: an ignorant critic would undo what imitation taught."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._steps:
            self.model.policy.actor.requires_grad_(self.num_timesteps > self._steps)


class Looks(BaseCallback):
    """Every so often: validation patients, the best policy so far, a line of metrics, a checkpoint."""

    def __init__(
        self,
        run: Path,
        config: PpoConfig,
        family: Family,
        progress: Progress | None,
        stop: Any,
    ) -> None:
        super().__init__()
        self._run, self._config = run, config
        self._progress, self._stop = progress, stop
        self._keeper = keeper(config, family)
        self._best = -1.0
        self._next = self._looked = 0
        self._ended: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def _on_training_start(self) -> None:
        at = self.model.num_timesteps
        self._next = at + self._config.validate_every if at else 0
        kept = [line for line in lines(self._run / METRICS) if line["step"] <= at]
        with (self._run / METRICS).open("w", encoding="utf-8") as journal:
            journal.writelines(json.dumps(line) + "\n" for line in kept)
        if at and (self._run / POLICY).is_file():
            self._best = self._keeper.best(self._run / POLICY)
        if not at:
            self._look()

    def _on_step(self) -> bool:
        self._ended += [info for info in self.locals["infos"] if "score" in info]
        if self.num_timesteps >= self._next or self._stop():
            self._look()
        if self._progress and self.n_calls % 50 == 0:
            self._tell()
        return not self._stop()

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._looked:
            self._look()

    def _look(self) -> None:
        config = self._config
        self._looked, self._next = self.num_timesteps, self.num_timesteps + config.validate_every
        found = self._keeper.score(self.model)
        if found > self._best:
            self._best = found
            self._keeper.write(self.model, self._run / POLICY, found)
        self._write_line({"validation": found, **self._trained()})
        half = self._run / "checkpoint.part.zip"
        self.model.save(half)
        half.replace(self._run / CHECKPOINT)
        self._ended.clear()
        self._tell({"reward": found})

    def _trained(self) -> dict[str, float]:
        """What the training episodes since the last look came to."""
        ended = self._ended
        if not ended:
            return {}
        steps = sum(info["steps"] for info in ended)
        return {
            "episodes": len(ended),
            "score": fmean(info["score"] for info in ended),
            "return": fmean(info["return"] for info in ended),
            "refusal_share": sum(info["refusals"] for info in ended) / steps,
        }

    def _write_line(self, figures: dict[str, float]) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        note(self._run, {"stage": "ppo", "step": self.num_timesteps, "seconds": seconds, **figures})

    def _tell(self, figures: dict[str, float] | None = None) -> None:
        if self._progress:
            done = min(self.num_timesteps, self._config.steps)
            self._progress(self._config.algo, done, self._config.steps, figures or self._trained())


def note(run: Path, told: dict[str, Any]) -> None:
    """Append one line to the run's metrics."""
    with (run / METRICS).open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(told) + "\n")
