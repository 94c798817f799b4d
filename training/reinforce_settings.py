"""The knobs of a REINFORCE run. Those of the source documents keep their names.

Knows no algorithm: `reinforce.py` obeys them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ReinforceConfig:
    """One run: one policy for one task."""

    task: str
    """The task; several with commas, or `all` of the family, are trained one after the other."""
    output: str = "runs/reinforce"
    """Folder of the runs; each task has its own in it. The same command resumes."""
    family: str = "polypharmacy"
    """The environment family that is played."""
    encoding: str = "default"
    """The family's name for the features the policy reads."""
    network: Literal["mlp", "places"] = "mlp"
    """`mlp` takes any features; `places` shares weights between the places of a list."""
    hidden_dim: int = 128
    """Width of the hidden layers."""
    episodes: int = 200
    """Train episodes in all."""
    batch_size: int = 5
    """Episodes that advance together; one optimiser step for each batch."""
    attempts: int = 1
    """Episodes a patient in a batch: a patient is costly to draw, and attempts differ."""
    lr: float = 3e-4
    """Adam's learning rate."""
    lr_end: float = 1.0
    """Share of the learning rate that is left at the end; it falls linearly."""
    gamma: float = 0.99
    """Discount of later rewards."""
    entropy_coeff: float = 0.02
    """Weight of the policy's entropy in the objective: how long it keeps exploring."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm, policy and value each."""
    normalise: bool = False
    """Divide a batch's advantages by their deviation."""
    imitate: tuple[str, ...] = ()
    """Agents whose episodes are imitated first, by turns; none starts from fresh weights."""
    imitate_patients: int = 4000
    """Train patients whose episodes are imitated."""
    imitate_epochs: int = 10
    """Passes over them."""
    imitate_lr: float = 2e-3
    """Learning rate of imitation, falling linearly to a tenth."""
    baseline_first: int = 0
    """Optimiser steps that teach the baseline alone, before the policy moves."""
    validate_every: int = 10
    """Optimiser steps between two looks at validation patients."""
    validation_patients: int = 200
    """Patients of such a look; the best policy by it is kept for play."""
    print_every: int = 10
    """Episodes between two lines of metrics.jsonl, at least a batch."""
    save_every: int = 20
    """Optimiser steps between two checkpoints."""
    seed_from: int = 0
    """The first train patient's seed."""
    seed: int = 0
    """Seeds weights and sampling."""
    threads: int = 1
    """CPU threads of torch; a second slows a small network down."""

    def __post_init__(self) -> None:
        for knob in (
            "hidden_dim", "episodes", "batch_size", "attempts", "imitate_patients", "imitate_epochs",
            "validate_every", "validation_patients", "print_every", "save_every", "threads",
        ):  # fmt: skip
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be at least 1")
        if self.batch_size % self.attempts:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of attempts {self.attempts}"
            )
        for knob in ("lr", "imitate_lr"):
            if not getattr(self, knob) > 0:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be above 0")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be above 0")
        for knob in ("entropy_coeff", "baseline_first", "seed_from"):
            if not getattr(self, knob) >= 0:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be 0 or more")
        for knob in ("gamma", "lr_end"):
            if not 0 <= getattr(self, knob) <= 1:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it lies in 0..1")

    @property
    def updates(self) -> int:
        """Optimiser steps in all; the last batch may bring more episodes than were asked for."""
        return -(-self.episodes // self.batch_size)

    @property
    def patients(self) -> int:
        """Train patients that are played after imitation."""
        return self.updates * self.batch_size // self.attempts
