"""A policy's first lesson: the moves of agents that see more or think longer, as far as indices can say them.

Knows agents by name and the discrete actions of an encoding; nothing of rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from env_server import registry
from env_server.contract import Action, Encoding, Family, Observation, Refusal
from eval.policy_net import Mlp, Places, masked

Tell = Callable[[int, int, float], None]  # done, of, loss
BATCH = 512


@dataclass(frozen=True, slots=True)
class Lesson:
    """Positions and what the teacher did there. N positions."""

    features_NF: Tensor
    mask_NA: Tensor
    actions_N: Tensor


def collect(
    family: Family,
    task: str,
    encoding: Encoding,
    agents: Sequence[str],
    seeds: range,
    tell: Tell,
) -> Lesson:
    """Every position of one episode a seed, agents by turns, whose move has an index."""
    features, masks, actions = [], [], []
    for at, seed in enumerate(seeds):
        card = family.agents[registry.agent(family, agents[at % len(agents)])]
        episode = family.begin(task, seed, "train")
        player = card.make(episode)
        while not episode.done:
            seen = episode.observe()
            move = player.act(seen, episode.legal_actions)
            index = (
                None if isinstance(move, Refusal) else nearest_index(family, encoding, seen, move)
            )
            if index is not None:
                features.append(encoding.features(seen))
                masks.append(encoding.mask(seen))
                actions.append(index)
            episode.step(move)
        tell(at + 1, len(seeds), float("nan"))
    return Lesson(
        torch.from_numpy(np.stack(features)),
        torch.from_numpy(np.stack(masks)),
        torch.tensor(actions),
    )


def nearest_index(
    family: Family, encoding: Encoding, seen: Observation, move: Action
) -> int | None:
    """The index of a move, or of the same move with one detail left out; None where there is none.

    A substitution by name becomes a substitution by whatever is listed first: a list of indices
    cannot say more.
    """
    index = encoding.index(seen, move)
    if index is not None:
        return index if encoding.mask(seen)[index] else None
    spelled = move.to_json()
    for detail in reversed(spelled):
        less = family.action_from_json({k: v for k, v in spelled.items() if k != detail})
        index = None if isinstance(less, Refusal) else encoding.index(seen, less)
        if index is not None and encoding.mask(seen)[index]:
            return index
    return None


def kept(path: Path, make: Callable[[], Lesson]) -> Lesson:
    """The lesson in `path`, made and written there first if need be."""
    if not path.is_file():
        lesson = make()
        half = path.with_suffix(".part")
        tensors = {
            "features": lesson.features_NF,
            "mask": lesson.mask_NA,
            "actions": lesson.actions_N,
        }
        save_file(tensors, half)
        half.replace(path)
    read = load_file(path)
    return Lesson(read["features"], read["mask"], read["actions"])


def imitate(
    policy: Mlp | Places,
    lesson: Lesson,
    epochs: int,
    lr: float,
    generator: torch.Generator,
    tell: Tell,
) -> float:
    """Raise the likelihood of the teacher's moves; returns the last epoch's mean loss."""
    optimiser = torch.optim.Adam(policy.parameters(), lr=lr)
    n = len(lesson.actions_N)
    steps = epochs * -(-n // BATCH)
    done, mean = 0, float("nan")
    for _ in range(epochs):
        order = torch.randperm(n, generator=generator)
        losses = []
        for rows in order.split(BATCH):
            optimiser.param_groups[0]["lr"] = lr * (1 - 0.9 * done / steps)
            logits = masked(policy(lesson.features_NF[rows])[0], lesson.mask_NA[rows])
            loss = nn.functional.cross_entropy(logits, lesson.actions_N[rows])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
            done += 1
            tell(done, steps, losses[-1])
        mean = sum(losses) / len(losses)
    return mean
