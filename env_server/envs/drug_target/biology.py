"""What a target profile is worth: nine levels, the two behaviours that follow from them, and go or no_go.

Knows no evidence, no noise and no agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast

from data.drug_target.records import FACTORS, LEVELS, Factor, Modality, Profile

Decision = Literal["go", "no_go"]
DECISIONS: Final[tuple[Decision, Decision]] = ("go", "no_go")
THRESHOLD: Final = 0.68  # of viability: at or above it a programme is worth going on with
AT: Final[Mapping[Factor, int]] = MappingProxyType({f: i for i, f in enumerate(FACTORS)})
BASE_RATE: Final = 27 / 160  # pairs of the fact table that are go; close to real attrition

# what a factor is called in flags and in findings
FACTOR_WORDS: Final[Mapping[Factor, str]] = MappingProxyType(
    {
        "expr": "expression",
        "spec": "specificity",
        "dep": "dependency",
        "drug": "druggability",
        "allo": "allosteric site",
        "sel": "selectivity",
        "tox": "toxicity",
        "clin": "clinical",
        "strat": "stratification",
    }
)
FLAGGABLE: Final[Mapping[str, Factor]] = MappingProxyType(
    {word: factor for factor, word in FACTOR_WORDS.items() if factor != "allo"}
)
# the dimension of evidence that speaks of a factor most directly
DIMENSION_OF: Final[Mapping[Factor, str]] = MappingProxyType(
    {
        "expr": "expression",
        "spec": "expression",
        "dep": "genetic_dependency",
        "drug": "druggability",
        "allo": "binding_site_allosteric",
        "sel": "off_target",
        "tox": "toxicity",
        "clin": "clinical",
        "strat": "stratification",
    }
)


@dataclass(frozen=True, slots=True)
class Pillars:
    """The three things a programme rests on, each in [0, 1]."""

    efficacy: float
    tractability: float
    safety: float


def pillars(profile: Profile, modality: Modality) -> Pillars:
    """How well the mechanism works, can be reached and is borne; the product form lets one fail all."""
    expr, spec, dep, drug, allo, sel, tox, _, _ = profile
    matters, seen = (0.08, 0.60, 1.0)[dep], (0.15, 0.65, 1.0)[expr]
    borne = (0.15, 0.70, 1.0)[tox]
    if modality == "antibody_adc":  # an antibody needs its antigen, and hits it wherever it is
        return Pillars(
            float(matters**0.2 * seen**0.8),
            (0.10, 0.70, 1.0)[drug],
            borne * (0.75, 0.92, 1.0)[sel] * (0.45, 0.80, 1.0)[spec],
        )
    reached = {0: 0.04, 1: 0.85 if allo else 0.30, 2: 1.0}[drug]
    return Pillars(
        float(matters**0.7 * seen**0.3),
        reached,
        borne * (0.45, 0.85, 1.0)[sel] * (0.80, 0.92, 1.0)[spec],
    )


def viability(profile: Profile, modality: Modality) -> float:
    """The hidden worth of a programme in [0, 1]."""
    on = pillars(profile, modality)
    clin, strat = profile[AT["clin"]], profile[AT["strat"]]
    worth = float(on.efficacy**0.40 * on.tractability**0.30 * on.safety**0.30)
    return min(worth * (0.80, 1.0, 1.12)[clin] * (0.95, 1.05)[strat], 1.0)


def decision(profile: Profile, modality: Modality) -> Decision:
    """The right report."""
    return "go" if viability(profile, modality) >= THRESHOLD else "no_go"


def tractability(profile: Profile, modality: Modality) -> int:
    """Level of T: ligandability, saved by an allosteric site where a small molecule can use one."""
    drug = profile[AT["drug"]]
    saved = modality == "small_molecule" and drug == 1 and profile[AT["allo"]] == 1
    return 2 if saved else drug


def pharmacology(profile: Profile, modality: Modality) -> int:
    """Level of pharm: what cells show, no better than the weaker of reaching the target and its role."""
    if modality == "antibody_adc":
        return min(profile[AT["drug"]], profile[AT["expr"]])
    return min(tractability(profile, modality), profile[AT["dep"]])


_DERIVED: Final[Mapping[str, Callable[[Profile, Modality], int]]] = MappingProxyType(
    {"T": tractability, "pharm": pharmacology}
)


def level(factor: str, profile: Profile, modality: Modality) -> int:
    """The true level of a factor or of what follows from several."""
    if factor in _DERIVED:
        return _DERIVED[factor](profile, modality)
    return dict(zip(FACTORS, profile, strict=True))[cast(Factor, factor)]


def changed(profile: Profile, factor: Factor, to: int) -> Profile:
    """The profile with one factor at another level."""
    levels = list(profile)
    levels[AT[factor]] = to
    return tuple(levels)  # type: ignore[return-value]


def key_dimensions(profile: Profile, modality: Modality, most: int = 4) -> tuple[str, ...]:
    """The dimensions whose factors hold the decision up: worst case if go, best case if no_go.

    Factors are ranked by how far viability moves when each alone is set to its other end.
    """
    here = viability(profile, modality)
    end = {f: 0 if here >= THRESHOLD else LEVELS[f] - 1 for f in FACTORS}
    moved = {
        f: abs(viability(changed(profile, f, end[f]), modality) - here)
        for f in FACTORS
        if end[f] != profile[AT[f]]
    }
    ranked = sorted(moved, key=lambda f: (-moved[f], AT[f]))
    names = dict.fromkeys(DIMENSION_OF[f] for f in ranked if moved[f] > 0.02)
    return tuple(names)[:most]


def misleading(profile: Profile, modality: Modality) -> tuple[Factor, ...]:
    """The factors that point against the right decision."""
    go = decision(profile, modality) == "go"
    return tuple(f for f in FACTORS if profile[AT[f]] == (0 if go else LEVELS[f] - 1))
