"""Everything a REINFORCE run needs to go on as if it had never stopped, in one safetensors file.

Weights, optimiser moments, the random generator, how far it got and the best validation so far. Knows
tensors and names; nothing of what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a run got. updates: optimiser steps taken, which also says which patient is next."""

    updates: int = 0
    best_score: float = -1.0  # on validation patients; below 0 before the first look
    best_update: int = -1


def save(
    run: Path,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    cursor: Cursor,
) -> None:
    """Write the checkpoint, whole or not at all."""
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for at, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{at}.{key}": value for key, value in state.items()}
    tensors["generator"] = generator.get_state()
    half = run / "checkpoint.part"
    save_file(tensors, half, metadata={"cursor": json.dumps(asdict(cursor))})
    half.replace(run / FILE)


def load(
    run: Path,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> Cursor | None:
    """Put the checkpoint of `run` back into these objects; None where there is none."""
    path = run / FILE
    if not path.is_file():
        return None
    tensors = load_file(path)
    for name, module in modules.items():
        module.load_state_dict(_under(tensors, name))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimiser").items():
        at, _, moment = key.partition(".")
        state.setdefault(int(at), {})[moment] = value
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    generator.set_state(tensors["generator"])
    with safe_open(path, "pt") as file:
        return Cursor(**json.loads(file.metadata()["cursor"]))


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    head = name + "."
    return {key.removeprefix(head): v for key, v in tensors.items() if key.startswith(head)}
