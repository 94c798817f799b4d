"""A policy network in play: many episodes advance together, one forward pass a step, the likeliest action each.

Knows the file a network lies in; nothing of who trained it. torch is imported when a game begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from env_server.contract import Episode, Family, Split
from eval.episode import take_turn, written_down
from eval.trajectory import Trajectory, Turn

BATCH = 256  # episodes that advance together


def holds_network(path: Path) -> bool:
    """Whether a network lies there, rather than plain layers or something that is no policy; without torch."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {}).get("rounds", "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError):
        return False
    return isinstance(told, dict) and "shape" in told


def made_for(path: Path) -> tuple[str, str]:
    """(family, task) that the policy in `path` plays. Raises UnreadablePolicy."""
    from eval.policy_net import about

    shape = about(path)["shape"]
    return str(shape["family"]), str(shape["task"])


def play_together(
    name: str, path: Path, family: Family, task: str, split: Split, seeds: Sequence[int]
) -> Iterator[Trajectory]:
    """One episode a seed by the network in `path`. Raises UnreadablePolicy."""
    from eval import policy_net

    policy, encoding, _ = policy_net.read(path, family)
    for start in range(0, len(seeds), BATCH):
        episodes = [family.begin(task, seed, split) for seed in seeds[start:][:BATCH]]
        turns, seconds = _play_out(policy, encoding, episodes)
        for episode, taken in zip(episodes, turns, strict=True):
            yield written_down(family, episode, name, taken, seconds / len(episodes))


def _play_out(
    policy: Any, encoding: Any, episodes: Sequence[Episode]
) -> tuple[list[tuple[Turn, ...]], float]:
    """(the turns of every episode, the seconds the policy took to decide them all)."""
    import numpy as np
    import torch

    from eval.policy_net import masked

    turns: list[list[Turn]] = [[] for _ in episodes]
    live, seconds = list(range(len(episodes))), 0.0
    while live:
        seen = [episodes[i].observe() for i in live]
        begun = perf_counter()
        features = torch.from_numpy(np.stack([encoding.features(o) for o in seen]))
        mask = torch.from_numpy(np.stack([encoding.mask(o) for o in seen]))
        with torch.no_grad():
            chosen = masked(policy(features)[0], mask).argmax(1).tolist()
        moves = [encoding.action(o, index) for o, index in zip(seen, chosen, strict=True)]
        seconds += perf_counter() - begun
        for i, move in zip(live, moves, strict=True):
            turns[i].append(take_turn(episodes[i], move))
        live = [i for i in live if not episodes[i].done]
    return [tuple(taken) for taken in turns], seconds
