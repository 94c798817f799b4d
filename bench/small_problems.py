"""How near the myopic planner comes to the optimum, on problems small enough to solve exactly.

Expectimax over every order of buying and every report: a few thousand beliefs a problem. Knows the filter and
the planner, and no episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.promise import Figure
from env_server.envs.drug_target.actions import ASSAYS
from env_server.envs.drug_target.belief import Belief, opening
from env_server.envs.drug_target.channels import levels_of
from env_server.envs.drug_target.planner import CREDIT_COST, STEP_COST, Offer, choose, skill

SMALL: tuple[tuple[str, tuple[str, ...], int], ...] = (
    (
        "tractability",
        (
            "druggability_screen",
            "binding_site_analysis",
            "in_vitro_assay",
            "crispr_knockout",
            "toxicity_panel",
        ),
        16,
    ),
    (
        "safety",
        (
            "toxicity_panel",
            "off_target_screen",
            "clinical_trial_lookup",
            "patient_stratification",
            "crispr_knockout",
        ),
        14,
    ),
    (
        "cheap",
        (
            "literature_search",
            "competitor_landscape",
            "query_expression",
            "differential_expression",
            "protein_interaction_network",
        ),
        8,
    ),
    (
        "mixed",
        (
            "crispr_knockout",
            "druggability_screen",
            "toxicity_panel",
            "clinical_trial_lookup",
            "literature_search",
        ),
        12,
    ),
    (
        "laboratory",
        (
            "in_vitro_assay",
            "crispr_knockout",
            "toxicity_panel",
            "clinical_trial_lookup",
            "differential_expression",
        ),
        16,
    ),
)


def figures(only: Sequence[str] = ()) -> list[Figure]:
    """The better of the two myopic planners against exact expectimax on five sub-problems."""
    found = []
    for name, assays, budget in SMALL:
        if only and name not in only:
            continue
        offers = tuple(
            Offer(ASSAYS[a].variants[-1 if a == "binding_site_analysis" else 0], ASSAYS[a].cost)
            for a in assays
        )
        belief = opening("small_molecule")
        nodes: dict[Any, float] = {}
        best = _optimal(belief, offers, frozenset(), budget, 32, nodes, ())
        mine = max(
            _myopic(belief, offers, frozenset(), budget, 32, rule) for rule in ("net", "ratio")
        )
        found.append(
            Figure(
                f"small problem {name}: share of the optimum",
                mine / best,
                "",
                len(nodes),
                "least",
                0.9,
            )
        )
    return found


def _reports(belief: Belief, offer: Offer) -> list[tuple[float, Belief, tuple[Any, ...]]]:
    """(chance, belief after, what was reported) of everything an offer may report."""
    combos: list[tuple[Any, ...]] = [()]
    for reading in offer.variant.readings:
        outcomes = [*range(levels_of(reading.factor)), None]
        combos = [(*c, (reading, o)) for c in combos for o in outcomes]
    before = sum(belief.weights())
    found = []
    for combo in combos:
        after = belief.after(combo)
        chance = sum(after.weights()) / before
        if chance > 1e-12:
            found.append((chance, after, combo))
    return found


def _price(offer: Offer, budget: int) -> float:
    return CREDIT_COST * offer.credits / budget + STEP_COST


def _optimal(
    belief: Belief,
    offers: tuple[Offer, ...],
    taken: frozenset[int],
    left: int,
    budget: int,
    nodes: dict[Any, float],
    seen: tuple[Any, ...],
) -> float:
    """The best expected skill less prices from here; memory is keyed by what has been read."""
    key = frozenset(seen)
    if key in nodes:
        return nodes[key]
    best = skill(belief.p_go)
    for at, offer in enumerate(offers):
        if at in taken or offer.credits > left:
            continue
        value = -_price(offer, budget)
        for chance, after, combo in _reports(belief, offer):
            value += chance * _optimal(
                after,
                offers,
                taken | {at},
                left - offer.credits,
                budget,
                nodes,
                (*seen, (at, *combo)),
            )
        best = max(best, value)
    nodes[key] = best
    return best


def _myopic(
    belief: Belief,
    offers: tuple[Offer, ...],
    taken: frozenset[int],
    left: int,
    budget: int,
    rule: Any,
) -> float:
    """What the planner expects to get from here, following it to the end of every branch."""
    open_ = [o for at, o in enumerate(offers) if at not in taken and o.credits <= left]
    chosen = choose(belief, open_, budget, rule).offer
    if chosen is None:
        return skill(belief.p_go)
    at = offers.index(chosen)
    rest = sum(
        chance * _myopic(after, offers, taken | {at}, left - chosen.credits, budget, rule)
        for chance, after, _ in _reports(belief, chosen)
    )
    return rest - _price(chosen, budget)
