"""A small trained policy as plain numbers: linear layers, an activation, and which task they play.

Read and written as safetensors, so that a policy from elsewhere can be opened without running its
code; played with numpy alone. Knows nothing of how it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from env_server.contract import Action, Encoding, Family, Observation, Refusal, RoundsError

Floats = npt.NDArray[np.float32]
Activation = Literal["tanh", "relu"]
HEADER = "rounds"  # the key of the safetensors header under which `About` lies


class UnreadableActor(RoundsError, ValueError):
    """A file that should hold a trained policy does not, or holds one of another task's shape."""


@dataclass(frozen=True, slots=True)
class About:
    """What a policy plays, and where it comes from.

    masked: illegal actions are never chosen; else they are, and cost a refusal. score: mean over
    validation patients when it was kept. steps: environment steps it had learned from by then.
    """

    family: str
    version: str
    task: str
    encoding: str
    algo: str
    masked: bool
    activation: Activation
    steps: int
    score: float


@dataclass(frozen=True, slots=True)
class Actor:
    """Layers of (weights (out, in), biases (out,)), with the activation between them."""

    about: About
    layers: tuple[tuple[Floats, Floats], ...]

    def preferences(self, features: Floats) -> Floats:
        """One number an action, shape (n_actions,): the higher, the rather."""
        signal = features
        for at, (weights, biases) in enumerate(self.layers):
            signal = weights @ signal + biases
            if at < len(self.layers) - 1:
                signal = np.tanh(signal) if self.about.activation == "tanh" else signal.clip(0)
        return signal

    def choose(self, features: Floats, mask: npt.NDArray[np.bool_]) -> int:
        """The preferred action; among the legal ones only, if the policy was trained with the mask."""
        wanted = self.preferences(features)
        if self.about.masked:
            wanted = np.where(mask, wanted, -np.inf)
        return int(wanted.argmax())


@dataclass(frozen=True, slots=True)
class ActorAgent:
    """Satisfies `contract.Agent`: always takes the policy's preferred action."""

    actor: Actor
    encoding: Encoding

    def act(
        self, observation: Observation, legal: Callable[[], Sequence[Action]]
    ) -> Action | Refusal:
        mask = self.encoding.mask(observation)
        index = self.actor.choose(self.encoding.features(observation), mask)
        if not mask[index]:
            return Refusal("illegal", f"discrete action {index} is not legal now")
        return self.encoding.action(observation, index)


def agent(actor: Actor, family: Family) -> ActorAgent:
    """The policy as a player of `family`. Raises UnreadableActor where its shape is another task's."""
    encoding = family.encoding(actor.about.task, actor.about.encoding)
    shape = (actor.layers[0][0].shape[1], actor.layers[-1][0].shape[0])
    if shape != (encoding.size, encoding.n_actions):
        raise UnreadableActor(
            f"the policy takes {shape[0]} features and chooses among {shape[1]} actions;"
            f" {actor.about.task} now has {encoding.size} and {encoding.n_actions}"
            f" (trained on version {actor.about.version}, this is {family.version}): train it again"
        )
    return ActorAgent(actor, encoding)


def write(path: Path, actor: Actor) -> None:
    """Put the policy at `path`, whole or not at all."""
    from safetensors.numpy import save_file

    tensors: dict[str, Any] = {}
    for at, (weights, biases) in enumerate(actor.layers):
        tensors[f"{at}.weight"] = np.ascontiguousarray(weights)
        tensors[f"{at}.bias"] = np.ascontiguousarray(biases)
    told = {name: getattr(actor.about, name) for name in About.__dataclass_fields__}
    half = path.with_suffix(".part")
    save_file(tensors, half, metadata={HEADER: json.dumps(told)})
    half.replace(path)


def read(path: Path) -> Actor:
    """The policy at `path`. Raises UnreadableActor on anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            about = About(**json.loads((opened.metadata() or {})[HEADER]))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        depth = len(tensors) // 2
        layers = tuple((tensors[f"{at}.weight"], tensors[f"{at}.bias"]) for at in range(depth))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as wrong:
        raise UnreadableActor(
            f"{path} is no policy that training.ppo wrote ({wrong}); train one anew"
        ) from wrong
    return Actor(about, layers)
