"""The policy inside Stable-Baselines3's model: scored on validation patients, and kept as a file that plays without it.

Plain layers are numbers for `eval.actor`, the network of places weights for `eval.policy_net`. Knows nothing of
how either is trained.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch

from env_server.contract import Family, Split
from eval import actor, policy_net
from eval.actor import About, Actor
from eval.policy_net import Shape
from training.classical_rollout import Patients, mean_greedy_score
from training.ppo import PpoConfig


class Kept(Protocol):
    """One way of keeping a policy."""

    def score(self, model: Any) -> float:
        """Mean score of the greedy policy on the run's validation patients."""
        ...

    def write(self, model: Any, path: Path, score: float) -> None:
        """Put the policy at `path`, whole or not at all."""
        ...

    def best(self, path: Path) -> float:
        """The score with which the policy at `path` was kept."""
        ...


def keeper(config: PpoConfig, family: Family) -> Kept:
    """How the policy of this run is kept."""
    return Shared(config, family) if config.network == "places" else Plain(config, family)


class Plain:
    """Layers, played by numpy alone."""

    def __init__(self, config: PpoConfig, family: Family) -> None:
        self._config, self._family = config, family

    def score(self, model: Any) -> float:
        policy = exported(model, self._config, self._family, 0.0)
        patients = range(self._config.validation_patients)
        return score_of(policy, self._family, "validation", patients)

    def write(self, model: Any, path: Path, score: float) -> None:
        actor.write(path, exported(model, self._config, self._family, score))

    def best(self, path: Path) -> float:
        return actor.read(path).about.score


class Shared:
    """The network of places."""

    def __init__(self, config: PpoConfig, family: Family) -> None:
        self._config, self._family = config, family
        self._encoding = family.encoding(config.task, config.encoding)
        self._patients = Patients(family, config.task, "validation")

    def score(self, model: Any) -> float:
        episodes = self._patients.again(self._config.validation_patients)
        return mean_greedy_score(model.policy.actor, self._encoding, episodes)

    def write(self, model: Any, path: Path, score: float) -> None:
        told = {
            "version": self._family.version,
            "algo": self._config.algo,
            "steps": model.num_timesteps,
            "validation_score": score,
        }
        policy_net.write(path, model.policy.actor, shape_of(self._config, self._family), told)

    def best(self, path: Path) -> float:
        return float(policy_net.about(path)["validation_score"])


def shape_of(config: PpoConfig, family: Family) -> Shape:
    """What the network of places is built from."""
    encoding = family.encoding(config.task, config.encoding)
    sizes = config.hidden[0], encoding.size, encoding.n_actions
    return Shape(family.name, config.task, config.encoding, "places", *sizes)


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
