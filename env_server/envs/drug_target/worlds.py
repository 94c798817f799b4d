"""How likely each of the 34 992 hidden states is: by tier, by kind of drug, by gene and cancer.

A profile is a row (expr, dep, drug, allo) and a column (spec, sel, tox, clin, strat): 54 by 162. Every
reading looks at one of the two, which is what makes the exact filter fast. Knows no episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from data.drug_target.records import FACTORS, LEVELS, QUALITIES, Factor, Modality, Profile
from data.drug_target.tables import load
from env_server.envs.drug_target import biology
from env_server.envs.drug_target.tasks import HELD_OUT_INDICATIONS, VALIDATIONS, Tier

Floats = npt.NDArray[np.float64]
PairKey = tuple[str, str]  # gene, cancer

ROW: Final[tuple[Factor, ...]] = ("expr", "dep", "drug", "allo")
COLUMN: Final[tuple[Factor, ...]] = ("spec", "sel", "tox", "clin", "strat")
ROWS: Final = tuple(product(*(range(LEVELS[f]) for f in ROW)))
COLUMNS: Final = tuple(product(*(range(LEVELS[f]) for f in COLUMN)))

KAPPA: Final = 0.5  # how much of a factor's chance lies on the fact of its gene and cancer
NO, GO = 0, 1  # first axis of every prior

# What programmes look like where nothing is known of gene and cancer; chosen, not measured.
POPULATION: Final[Mapping[Factor, tuple[float, ...]]] = MappingProxyType(
    {
        "expr": (0.35, 0.35, 0.30),
        "spec": (0.40, 0.35, 0.25),
        "dep": (0.35, 0.35, 0.30),
        "drug": (0.30, 0.35, 0.35),
        "allo": (0.60, 0.40),
        "sel": (0.35, 0.40, 0.25),
        "tox": (0.35, 0.40, 0.25),
        "clin": (0.30, 0.45, 0.25),
        "strat": (0.60, 0.40),
    }
)


def profile_at(row: int, column: int) -> Profile:
    """The profile of a cell of the 54 by 162 table."""
    levels = dict(zip((*ROW, *COLUMN), (*ROWS[row], *COLUMNS[column]), strict=True))
    return tuple(levels[f] for f in FACTORS)  # type: ignore[return-value]


def cell_of(profile: Profile) -> tuple[int, int]:
    """The cell of a profile."""
    here = dict(zip(FACTORS, profile, strict=True))
    return ROWS.index(tuple(here[f] for f in ROW)), COLUMNS.index(tuple(here[f] for f in COLUMN))


@cache
def worth(modality: Modality) -> Floats:
    """Viability of every profile, shape (54, 162)."""
    return np.array(
        [
            [biology.viability(profile_at(r, c), modality) for c in range(len(COLUMNS))]
            for r in range(len(ROWS))
        ]
    )


@cache
def regions(modality: Modality) -> Mapping[Tier, npt.NDArray[np.bool_]]:
    """Which profiles a tier draws, by decision: tier -> (2, 54, 162), no_go first.

    easy: far from the threshold. medium: near it. hard: the first look (expression, dependency,
    ligandability) says the opposite. very_hard: a small molecule on a middling pocket, where the
    allosteric site alone decides.
    """
    v = worth(modality)
    go = np.stack([v < biology.THRESHOLD, v >= biology.THRESHOLD])
    rows = np.array(ROWS)
    look = rows[:, :3].sum(axis=1)[:, None]  # expr + dep + drug
    deceived = np.stack([(look >= 5) & go[NO], (look <= 4) & go[GO]])
    middling = (rows[:, 2] == 1)[:, None] & _allosteric_decides(go[GO], rows)
    distance = np.abs(v - biology.THRESHOLD)
    return MappingProxyType(
        {
            "easy": go & (distance >= 0.22),
            "medium": go & (distance >= 0.05) & (distance <= 0.30),
            "hard": deceived,
            "very_hard": go & middling & (modality == "small_molecule"),
        }
    )


def _allosteric_decides(
    go: npt.NDArray[np.bool_], rows: npt.NDArray[np.int_]
) -> npt.NDArray[np.bool_]:
    """Profiles that would be go with an allosteric site and no_go without."""
    other = [ROWS.index((*row[:3], 1 - row[3])) for row in ROWS]
    found: npt.NDArray[np.bool_] = go != go[other]
    return found


@dataclass(frozen=True, slots=True)
class Pairs:
    """The chance of each row and column for each (gene, cancer), at one kappa."""

    keys: tuple[PairKey, ...]
    by_row: Floats  # (pairs, 54)
    by_column: Floats  # (pairs, 162)


@cache
def pairs(modality: Modality, kappa: float, keys: tuple[PairKey, ...]) -> Pairs:
    """Independent factors: kappa on the fact, the rest as in POPULATION."""
    facts = load().pairs
    chances = []
    for key in keys:
        at = dict(zip(FACTORS, facts[key].profile, strict=True))
        chances.append({f: _chance(f, at[f], kappa) for f in FACTORS})
    return Pairs(
        keys,
        np.array([[_product(c, ROW, row) for row in ROWS] for c in chances]),
        np.array([[_product(c, COLUMN, column) for column in COLUMNS] for c in chances]),
    )


def _chance(factor: Factor, fact: int, kappa: float) -> tuple[float, ...]:
    return tuple((1 - kappa) * p + kappa * (at == fact) for at, p in enumerate(POPULATION[factor]))


def _product(
    chance: Mapping[Factor, tuple[float, ...]], factors: Sequence[Factor], levels: Sequence[int]
) -> float:
    found = 1.0
    for factor, at in zip(factors, levels, strict=True):
        found *= chance[factor][at]
    return found


@cache
def keys(
    modality: Modality, held_out_targets: bool = False, held_out_cancers: bool = False
) -> tuple[PairKey, ...]:
    """The (gene, cancer) pairs that may be drawn: training's, or those of a held-out kind."""
    return tuple(
        (symbol, key)
        for (symbol, key) in load().pairs
        if load().targets[symbol].modality == modality
        and load().targets[symbol].held_out == held_out_targets
        and (key in HELD_OUT_INDICATIONS) == held_out_cancers
    )


@cache
def masses(modality: Modality, tier: Tier, kappa: float, drawn: tuple[PairKey, ...]) -> Floats:
    """Chance that each pair's profile lies in the tier, by decision: (2, pairs)."""
    of, region = pairs(modality, kappa, drawn), regions(modality)[tier]
    found: Floats = np.einsum("pr,yrc,pc->yp", of.by_row, region.astype(float), of.by_column)
    return found


@cache
def antibody_share(tier: Tier) -> float:
    """How often a case is an antibody programme; never where only a small molecule could be meant."""
    if tier == "very_hard":
        return 0.0
    antibodies, all_drugs = len(keys("antibody_adc")), len(keys("small_molecule"))
    return antibodies / (antibodies + all_drugs)


@cache
def prior(modality: Modality, pair: PairKey | None = None, kappa: float = KAPPA) -> Floats:
    """What an agent that does not know the tier believes at the start: (2, 4, 54, 162), sums to 1.

    The tiers are mixed evenly, each with its own qualities of data; go and no_go are even inside each.
    Quality and profile depend on one another through the tier, so their joint is kept. `pair` is the
    informed variant: it also knows what the facts say of gene and cancer.
    """
    found = np.zeros((2, len(QUALITIES), len(ROWS), len(COLUMNS)))
    drawn = (pair,) if pair else keys(modality)
    for validation in VALIDATIONS.values():
        tier = validation.tier
        share = antibody_share(tier) if modality == "antibody_adc" else 1 - antibody_share(tier)
        quality = np.array([validation.quality[q] for q in QUALITIES])
        if share == 0:
            continue
        of = pairs(modality, kappa, drawn)
        joint = regions(modality)[tier] * (of.by_row.T @ of.by_column)
        seen = masses(modality, tier, kappa, keys(modality)).sum(axis=1)
        if pair is None:
            joint = joint / joint.sum(axis=(1, 2), keepdims=True)
        else:  # how often this gene and cancer are drawn, given tier and decision, is evidence too
            joint = joint / seen[:, None, None]
        found += share * 0.5 * quality[None, :, None, None] * joint[:, None]
    whole: Floats = found / found.sum()
    return whole


@cache
def cumulated_masses(
    modality: Modality, tier: Tier, kappa: float, drawn: tuple[PairKey, ...]
) -> tuple[Floats, Floats]:
    """`masses` summed up along the pairs, for drawing one: (no_go, go)."""
    no, go = masses(modality, tier, kappa, drawn).cumsum(axis=1)
    return no, go


@lru_cache(maxsize=512)
def cumulated_cells(
    modality: Modality, tier: Tier, kappa: float, pair: PairKey, decision: int
) -> Floats:
    """The chance of each profile of one pair within a tier and decision, flattened and summed up."""
    of = pairs(modality, kappa, (pair,))
    cells = regions(modality)[tier][decision] * np.outer(of.by_row[0], of.by_column[0])
    found: Floats = cells.ravel().cumsum()
    return found
