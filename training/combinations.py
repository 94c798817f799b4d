"""Simulated drug combinations with planted patterns of danger: the paper's data, regenerated, and one set of ours.

A combination is a row of zeros and ones over drugs; its truth is a relative risk (RR). Drawn with
torch in the order that gives the published sets, kept under runs/, never shipped. Knows no method.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

Variant = Literal["paper", "fixed", "soft", "cooccur"]
Background = Literal["neutral", "protective"]
Bits = npt.NDArray[np.uint8]
Risks = npt.NDArray[np.float32]

VARIANTS = get_args(Variant)
THRESHOLD = 1.1  # a combination is dangerous (PIP) when its rounded RR is above this
SEEDS = {"neutral": 23, "protective": 35}
# RR of a combination that shares no drug with its nearest pattern: (mean, sd)
DISJOINT = {"neutral": (1.0, 0.05), "protective": (0.15, 0.1)}
# the same where drugs must meet: four deviations below the threshold, so that danger is not mostly chance
APART = {"neutral": (0.9, 0.05), "protective": (0.15, 0.1)}
SPREAD = 0.1  # sd of RR around what the pattern explains
DRAWN_DRUGS = 8.7  # drugs of an average combination, of an average pattern too


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which set. The defaults are the paper's size; `seed` None is the published one."""

    variant: Variant = "paper"
    background: Background = "neutral"
    combinations: int = 100_000
    drugs: int = 500
    patterns: int = 10
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}; variants: {', '.join(VARIANTS)}")
        if self.background not in DISJOINT:
            raise ValueError(f"background is {self.background!r}; one of {', '.join(DISJOINT)}")
        for knob in ("combinations", "drugs", "patterns"):
            if getattr(self, knob) < 2:
                raise ValueError(f"{knob} is {getattr(self, knob)}; it must be at least 2")

    @property
    def name(self) -> str:
        sizes = f"{self.combinations}x{self.drugs}x{self.patterns}"
        return f"{self.variant}-{self.background}-{sizes}-{self.drawn_with}"

    @property
    def drawn_with(self) -> int:
        return SEEDS[self.background] if self.seed is None else self.seed


@dataclass(frozen=True, slots=True)
class Combinations:
    """A set: `bits` (rows, drugs), `risk` (rows,), the hidden `patterns` and their RR."""

    recipe: Recipe
    bits: Bits
    risk: Risks
    patterns: Bits
    pattern_risk: Risks

    @property
    def dangerous(self) -> npt.NDArray[np.bool_]:
        return self.risk > np.float32(THRESHOLD)

    def fingerprints(self) -> dict[str, float | int | str]:
        """What tells this set from any other, whatever machine drew it."""
        return {
            "dangerous": int(self.dangerous.sum()),
            "risk": round(float(self.risk.sum(dtype=np.float64)), 2),
            "bits": int(self.bits.sum(dtype=np.int64)),
            "bits_sha": sha256(np.packbits(self.bits, axis=1).tobytes()).hexdigest()[:16],
            "risk_sha": sha256(self.risk.tobytes()).hexdigest()[:16],
        }


def generate(recipe: Recipe) -> Combinations:
    """Draw the set of `recipe`; the same on every machine whose torch draws alike on the CPU."""
    generator = torch.Generator().manual_seed(recipe.drawn_with)
    share = min(0.5, DRAWN_DRUGS / recipe.drugs)
    if recipe.variant == "cooccur":
        return _cooccur(recipe, share, generator)
    patterns = _distinct(recipe.patterns, recipe.drugs, share, generator)
    pattern_risk = (2 - 3) * torch.rand(recipe.patterns, generator=generator) + 3
    rows = _rows(recipe.combinations, recipe.drugs, share, generator)
    distance, nearest = torch.cdist(rows, patterns, p=1).topk(1, dim=1, largest=False)
    distance, nearest = distance[:, 0], nearest[:, 0]
    apart = (rows * patterns[nearest]).sum(1) == 0
    mean = pattern_risk[nearest] - _offset(recipe.variant, rows, patterns, distance, nearest)
    risk = torch.empty(len(rows))
    far, sd = DISJOINT[recipe.background]
    risk[apart] = torch.normal(torch.full((int(apart.sum()),), far), sd, generator=generator)
    risk[~apart] = torch.normal(mean[~apart], SPREAD, generator=generator)
    return _settled(recipe, rows, risk, patterns, pattern_risk)


def _distinct(n: int, drugs: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """`n` different non-empty rows, all drawn again until they are."""
    while True:
        rows = torch.bernoulli(torch.full((n, drugs), share), generator=generator)
        if len(rows.unique(dim=0)) == n and bool((rows.sum(1) > 0).all()):
            return rows


def _rows(n: int, drugs: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """`n` different non-empty rows: sorted, then the top-ups that made up for what fell away."""
    rows = torch.bernoulli(torch.full((n, drugs), share), generator=generator)
    while len(kept := _unique(rows)) < n:
        more = torch.bernoulli(torch.full((n - len(kept), drugs), share), generator=generator)
        rows = torch.cat((kept, more))
    return rows


def _unique(rows: torch.Tensor) -> torch.Tensor:
    """Different non-empty rows in lexicographic order: what torch.unique(dim=0) gives, in a tenth of its time."""
    packed = np.packbits(rows.numpy().astype(np.uint8), axis=1)
    keys = packed.view(f"V{packed.shape[1]}")[:, 0]
    _, first = np.unique(keys, return_index=True)
    kept = rows[torch.from_numpy(first)]
    return kept[kept.sum(1) > 0]


def _offset(
    variant: str,
    rows: torch.Tensor,
    patterns: torch.Tensor,
    distance: torch.Tensor,
    nearest: torch.Tensor,
) -> torch.Tensor:
    """How much less than its pattern a combination risks, by how far it is from it."""
    offset = distance / (rows.sum(1) + patterns[nearest].sum(1))
    if variant == "paper":
        # the published simulator looked the offset up by the pattern's number: one for a whole cluster
        return offset[nearest]
    return offset * 0.1 if variant == "soft" else offset


def _settled(
    recipe: Recipe,
    rows: torch.Tensor,
    risk: torch.Tensor,
    patterns: torch.Tensor,
    pattern_risk: torch.Tensor,
) -> Combinations:
    rounded = (risk.clamp(min=0) * 100).round() / 100
    return Combinations(
        recipe,
        rows.numpy().astype(np.uint8),
        rounded.numpy().astype(np.float32),
        patterns.numpy().astype(np.uint8),
        pattern_risk.numpy().astype(np.float32),
    )


def _cooccur(recipe: Recipe, share: float, generator: torch.Generator) -> Combinations:
    """Danger only where two or three drugs of a pattern meet, and no drug is dangerous by itself.

    Small patterns of 3 to 6 drugs, twice as many; those of 5 or 6 need three to meet. What a linear
    model could explain is taken out, so that ranking by single drugs finds next to nothing.
    """
    n = 2 * recipe.patterns
    patterns = torch.zeros(n, recipe.drugs)
    sizes = torch.randint(3, 7, (n,), generator=generator)
    for row, size in zip(patterns, sizes.tolist(), strict=True):
        row[torch.randperm(recipe.drugs, generator=generator)[:size]] = 1
    pattern_risk = torch.rand(n, generator=generator) + 2
    rows = _rows(recipe.combinations, recipe.drugs, share, generator)
    needed = torch.where(sizes >= 5, 3, 2)
    met = rows @ patterns.T >= needed
    lifted = torch.where(met, pattern_risk - 1, 0.0).max(1).values
    far, sd = APART[recipe.background]
    lifted = lifted - _linear_part(rows, lifted)
    noise = torch.normal(torch.zeros(len(rows)), sd, generator=generator)
    return _settled(recipe, rows, far + lifted + noise, patterns, pattern_risk)


def _linear_part(rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The least-squares fit of `values` on single drugs, without its mean."""
    x = rows.double() - rows.double().mean(0)
    y = values.double() - values.double().mean()
    gram = x.T @ x + 1e-6 * torch.eye(x.shape[1], dtype=torch.float64)
    return (x @ torch.linalg.solve(gram, x.T @ y)).float()


def load(recipe: Recipe, cache: Path | str = "runs/combinations") -> Combinations:
    """The set of `recipe`, drawn once and then read from `cache`."""
    path = Path(cache) / f"{recipe.name}.npz"
    if not path.is_file():
        made = generate(recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part.npz")
        np.savez_compressed(
            half,
            bits=np.packbits(made.bits, axis=1),
            risk=made.risk,
            patterns=made.patterns,
            pattern_risk=made.pattern_risk,
        )
        half.replace(path)
        return made
    with np.load(path) as kept:
        bits = np.unpackbits(kept["bits"], axis=1, count=recipe.drugs)
        return Combinations(recipe, bits, kept["risk"], kept["patterns"], kept["pattern_risk"])
