"""What may be ordered now, and what has not been looked at: rules over what everybody can see.

Knows prices, prerequisites and the past; nothing hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from data.drug_target.records import Assay, Variant
from env_server.contract import Refusal
from env_server.envs.drug_target.actions import (
    ASSAYS,
    EXPERT,
    FLAGS,
    ORDERS,
    REPORTS,
    DrugTargetAction,
    Value,
)

TWO: Final = "two_dimensions"
ALLOSTERIC: Final = "binding_site_allosteric"  # counts only where the allosteric site was asked for
DIMENSIONS: Final = tuple(dict.fromkeys(a.dimension for a in ASSAYS.values() if a.dimension))
Key = tuple[str, tuple[tuple[str, Value], ...]]  # an assay and its variant


def prepared(any_of: tuple[str, ...], seen: Collection[str]) -> bool:
    """Whether the evidence that an action builds on is there."""
    if any_of == (TWO,):
        return len(set(seen) - {ALLOSTERIC}) >= 2
    return any(dimension in seen for dimension in any_of)


def needed(any_of: tuple[str, ...]) -> str:
    """The same in words."""
    return "two dimensions" if any_of == (TWO,) else " or ".join(any_of)


def barred(
    assay: Assay, cost: int, credits: int, seen: Collection[str], bought: Collection[Key]
) -> Refusal | None:
    """Why an assay cannot be ordered now; None where it can."""
    name = assay.action_type
    if cost > credits:
        return Refusal("budget", f"{name} costs {cost} credits; {credits} are left")
    if assay.hard and not prepared(assay.hard, seen):
        return Refusal("illegal", f"{name} needs evidence on {needed(assay.hard)} first")
    if name == EXPERT and any(key[0] == EXPERT for key in bought):
        return Refusal("illegal", "the experts have been asked; they vote once")
    return None


def legal(
    costs: Mapping[str, int],
    credits: int,
    seen: Collection[str],
    bought: Collection[Key],
    flagged: Collection[str],
) -> Iterator[DrugTargetAction]:
    """Every listed action that would be carried out now, in the order of `actions.DISCRETE`."""
    open_ = {
        name
        for name, assay in ASSAYS.items()
        if barred(assay, costs[name], credits, seen, bought) is None
    }
    yield from (a for a in ORDERS if a.action_type in open_)
    yield from (a for a in FLAGS if dict(a.parameters)["dimension"] not in flagged)
    yield from REPORTS


def reached(assay: Assay, variant: Variant) -> frozenset[str]:
    """The dimensions that running a variant looks at."""
    found = {assay.dimension} if assay.dimension else set()
    if any(r.factor == "allo" for r in variant.readings):
        found.add(ALLOSTERIC)
    return frozenset(found)
