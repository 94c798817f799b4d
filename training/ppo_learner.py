"""The learner inside a PPO run: Stable-Baselines3's model, what is looked at while it learns, and its policy as numbers.

Imports Stable-Baselines3 and torch at once, so it is itself imported late. Knows nothing of commands.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from env_server.contract import Family, Split
from env_server.task_env import TaskEnv
from eval import actor
from eval.actor import About, Actor
from training.progress import Interrupted, Progress, lines, stoppable
from training.run_folder import BadRun

if TYPE_CHECKING:
    from training.ppo import PpoConfig

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
    model = _model(run, config, family)
    left = config.steps - model.num_timesteps
    with stoppable(asked):
        looks = Looks(run, config, family, progress, asked.is_set)
        if left > 0:
            # exploration and learning rate go by the share of the whole run, resumed or not
            model.learn(left, callback=looks, reset_num_timesteps=False)
        elif not (run / "policy.safetensors").is_file():
            raise BadRun(f"{run} is finished but has no policy; delete the folder and train again")
    if asked.is_set() and model.num_timesteps < config.steps:
        raise Interrupted(
            f"stopped at step {model.num_timesteps} of {config.steps}, checkpoint in {run};"
            " the same command goes on from there"
        )


def _model(run: Path, config: PpoConfig, family: Family) -> Any:
    """The learner anew, or as the checkpoint has it."""

    def one() -> TaskEnv:
        return TaskEnv(family, config.task, "train", config.encoding, patients=config.patients)

    envs = DummyVecEnv([one] * config.environments)
    learner, saved = LEARNERS[config.algo], run / "checkpoint.zip"
    if not saved.is_file():
        return learner("MlpPolicy", envs, device="cpu", seed=config.seed, **knobs(config))
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


def knobs(config: PpoConfig) -> dict[str, Any]:
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
        "policy_kwargs": {
            "net_arch": {"pi": widths, "vf": widths},
            "activation_fn": ACTIVATION,
        },
    }


class Falling:
    """A learning rate in proportion to what is left of the run; a class, so that it can be saved."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, left: float) -> float:
        return self.start * max(left, 0.02)


def exported(model: Any, config: PpoConfig, family: Family, score: float) -> Actor:
    """The model's policy (or its Q-values) as plain numbers."""
    policy = model.policy
    if config.algo == "dqn":
        parts = [policy.q_net.q_net]
    else:
        parts = [policy.mlp_extractor.policy_net, policy.action_net]
    linear = [m for part in parts for m in part.modules() if isinstance(m, torch.nn.Linear)]
    layers = tuple(
        (m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear
    )
    about = About(
        family=family.name,
        version=family.version,
        task=config.task,
        encoding=config.encoding,
        algo=config.algo,
        masked=config.algo == "maskable_ppo",
        activation="tanh",
        steps=model.num_timesteps,
        score=score,
    )
    return Actor(about, layers)


def score_of(policy: Actor, family: Family, split: Split, patients: range) -> float:
    """Mean score of the policy, played greedily on those patients."""
    player = actor.agent(policy, family)
    scores = []
    for seed in patients:
        episode = family.begin(policy.about.task, seed, split)
        while not episode.done:
            episode.step(player.act(episode.observe(), episode.legal_actions))
        scores.append(episode.score())
    return fmean(scores)


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
        self._run, self._config, self._family = run, config, family
        self._progress, self._stop = progress, stop
        self._best = -1.0
        self._next = self._looked = 0
        self._ended: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def _on_training_start(self) -> None:
        at = self.model.num_timesteps
        self._next = at + self._config.validate_every if at else 0
        kept = [line for line in lines(self._run / "metrics.jsonl") if line["step"] <= at]
        with (self._run / "metrics.jsonl").open("w", encoding="utf-8") as journal:
            journal.writelines(json.dumps(line) + "\n" for line in kept)
        if at and (self._run / "policy.safetensors").is_file():
            self._best = actor.read(self._run / "policy.safetensors").about.score
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
        policy = exported(self.model, config, self._family, 0.0)
        patients = range(config.validation_patients)
        found = score_of(policy, self._family, "validation", patients)
        if found > self._best:
            self._best = found
            best = exported(self.model, config, self._family, found)
            actor.write(self._run / "policy.safetensors", best)
        self._write_line({"validation": found, **self._trained()})
        half = self._run / "checkpoint.part.zip"
        self.model.save(half)
        half.replace(self._run / "checkpoint.zip")
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
        line = {"stage": "ppo", "step": self.num_timesteps, "seconds": seconds, **figures}
        with (self._run / "metrics.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def _tell(self, figures: dict[str, float] | None = None) -> None:
        if self._progress:
            done = min(self.num_timesteps, self._config.steps)
            self._progress(self._config.algo, done, self._config.steps, figures or self._trained())
