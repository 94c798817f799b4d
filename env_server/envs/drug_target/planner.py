"""What evidence is worth before it is bought: expected gain in skill, for every reading at once.

Myopic: it asks what one more reading would do for the report, not what it would lead to. Not the
optimum, and near it (`python -m bench.drug_target` compares the two on small problems).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np

from data.drug_target.records import QUALITIES, VOTE, Modality, Reading, Variant
from env_server.envs.drug_target.belief import Belief, levels, likelihoods, of_row
from env_server.envs.drug_target.channels import confusion, levels_of
from env_server.envs.drug_target.worlds import Floats

Rule = Literal["net", "ratio"]

STEP_COST: Final = 0.005  # of every step, in units of skill
CREDIT_COST: Final = 0.25  # of the whole budget


@dataclass(frozen=True, slots=True)
class Offer:
    """One reading that could be bought."""

    variant: Variant
    credits: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do next. `offer` is None where nothing is worth its price: report `p_go`."""

    offer: Offer | None
    p_go: float
    gain: float


def skill(p_go: float) -> float:
    """Expected 1 - 4(p - y)^2 of reporting one's belief: 0 at evens, 1 at certainty."""
    return 1 - 4 * p_go * (1 - p_go)


def choose(belief: Belief, offers: Sequence[Offer], budget: int, rule: Rule = "net") -> Verdict:
    """The offer with the best gain less its price (net), or per credit (ratio)."""
    no, go = belief.weights()
    p_go = go / (no + go)
    if not offers:
        return Verdict(None, p_go, 0.0)
    gains = expected_skills(belief, tuple(o.variant for o in offers)) - skill(p_go)
    credits = np.array([o.credits for o in offers], dtype=float)
    net = gains - CREDIT_COST * credits / budget - STEP_COST
    if net.max() <= 0:
        return Verdict(None, p_go, 0.0)
    ranked = net if rule == "net" else np.where(net > 0, gains / np.maximum(credits, 0.5), -1.0)
    best = int(ranked.argmax())
    return Verdict(offers[best], p_go, float(net[best]))


def expected_skills(belief: Belief, variants: tuple[Variant, ...]) -> Floats:
    """The skill to be expected of a report after each variant alone."""
    joint = belief.joint()
    menu = _menu(belief.modality, variants)
    tables = np.concatenate(
        [
            _told(menu.by_row, joint.sum(axis=3)),
            _told(menu.by_column, joint.sum(axis=2)),
            *(_together(joint, belief.modality, pair) for pair in menu.across),
            *(_voted(joint, reading) for reading in menu.votes),
        ]
    )
    both = tables.sum(axis=1)
    wrong = np.divide(tables[:, 0] * tables[:, 1], both, out=np.zeros_like(both), where=both > 0)
    lost = np.bincount(menu.owner, weights=wrong, minlength=len(variants)).astype(float)
    return np.asarray(1 - 4 * lost)


@dataclass(frozen=True, slots=True)
class Menu:
    """The likelihoods of every report of many variants, stacked: owner says whose each report is."""

    by_row: Floats  # (reports, 4 * 54)
    by_column: Floats  # (reports, 4 * 162)
    across: tuple[tuple[Reading, Reading], ...]  # (of a row, of a column)
    votes: tuple[Reading, ...]
    owner: np.ndarray[tuple[int], np.dtype[np.int_]]


@cache
def _menu(modality: Modality, variants: tuple[Variant, ...]) -> Menu:
    by_row: list[Floats] = []
    by_column: list[Floats] = []
    across: list[tuple[Reading, Reading]] = []
    votes: list[Reading] = []
    owners: dict[str, list[int]] = {"row": [], "column": [], "across": [], "votes": []}
    for at, variant in enumerate(variants):
        readings = variant.readings
        if any(r.factor == VOTE for r in readings):
            votes += readings
            owners["votes"] += [at] * 2
        elif len({of_row(r.factor) for r in readings}) == 2:
            first, second = sorted(readings, key=lambda r: not of_row(r.factor))
            across.append((first, second))
            owners["across"] += [at] * (_reports(first) * _reports(second))
        else:
            chances = _combined(readings, modality)
            row = of_row(readings[0].factor)
            (by_row if row else by_column).append(chances)
            owners["row" if row else "column"] += [at] * len(chances)
    return Menu(
        np.concatenate(by_row) if by_row else np.zeros((0, 4 * 54)),
        np.concatenate(by_column) if by_column else np.zeros((0, 4 * 162)),
        tuple(across),
        tuple(votes),
        np.array([at for part in owners.values() for at in part], dtype=int),
    )


def _reports(reading: Reading) -> int:
    return levels_of(reading.factor) + 1


def _combined(readings: Sequence[Reading], modality: Modality) -> Floats:
    """Chance of every combination of reports of readings that speak of the same side, flattened."""
    found = likelihoods(readings[0], modality)
    for reading in readings[1:]:
        more = likelihoods(reading, modality)
        found = (found[:, None] * more[None]).reshape(-1, *found.shape[1:])
    return found.reshape(len(found), -1)


def _told(chances: Floats, joint: Floats) -> Floats:
    """Chance of (report, decision): (reports, 2)."""
    return np.asarray(chances @ joint.reshape(2, -1).T)


def _together(joint: Floats, modality: Modality, pair: tuple[Reading, Reading]) -> Floats:
    """The same for a variant that reads a row and a column at once."""
    row, column = pair
    by_level = np.matmul(_indicator(row.factor, modality), joint)  # (2, 4, levels, 162)
    first = by_level @ _indicator(column.factor, modality).T  # (2, 4, levels, levels)
    chances = [_by_level(r) for r in pair]  # (4, levels, reports)
    told = np.einsum("yqab,qai,qbj->ijy", first, chances[0], chances[1], optimize=False)
    return np.asarray(told.reshape(-1, 2))


@cache
def _indicator(factor: str, modality: Modality) -> Floats:
    at = levels(factor, modality)
    return np.asarray((at[None] == np.arange(levels_of(factor))[:, None]).astype(float))


@cache
def _by_level(reading: Reading) -> Floats:

    return np.array([confusion(reading, q) for q in QUALITIES])


def _voted(joint: Floats, reading: Reading) -> Floats:
    wrong = reading.error
    no, go = joint.sum(axis=(1, 2, 3))
    return np.array([[no * (1 - wrong), go * wrong], [no * wrong, go * (1 - wrong)]])
