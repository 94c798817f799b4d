"""The seed's three graders, from the trajectory alone: what was reduced, aimed at, found and disrupted.

Knows the formulas of the seed documents and `SeedRules`; what a list risks is told by the case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.polypharmacy.tables import Tables
from env_server.contract import Difficulty
from env_server.envs.polypharmacy.observation import InteractionQuery, Intervention
from env_server.envs.polypharmacy.seed_risk import RULES, SeedRules

LESS = 1e-9  # a smaller change of risk is rounding


@dataclass(frozen=True, slots=True)
class Marks:
    """What a finished review did, in the terms of all three graders. Each in [0, 1]."""

    reduction: float
    targeted: float  # 1 when a drug of a severe pair of the first list was changed
    precision: float  # share of interventions that lowered the risk or mended a broken criterion
    efficiency: float  # severe and moderate findings a query
    disruption: float

    def score(self, difficulty: Difficulty, rules: SeedRules = RULES) -> float:
        """The seed's grade for this difficulty, in [0, 1]."""
        return min(max(self.unclipped(difficulty, rules), 0.0), 1.0)

    def unclipped(self, difficulty: Difficulty, rules: SeedRules = RULES) -> float:
        """The grade before it is clipped: below 0 where disruption outweighs what was gained."""
        if difficulty == "easy":
            return rules.easy_reduction * self.reduction + rules.easy_targeted * self.targeted
        if difficulty == "medium":
            return (
                rules.medium_reduction * self.reduction
                + rules.medium_precision * self.precision
                + rules.medium_efficiency * self.efficiency
            )
        return self.reduction - rules.disruption_weight * self.disruption


def reduction(start: float, end: float, rules: SeedRules = RULES) -> float:
    """The share of the first risk that is gone, in [0, 1]; a written value where there was none."""
    return max(0.0, start - end) / start if start > 0 else rules.reduction_of_no_risk


def efficiency(queries: Sequence[InteractionQuery], rules: SeedRules = RULES) -> float:
    """Severe and moderate findings as a share of the queries used."""
    found = sum(q.severity in ("severe", "moderate") for q in queries)
    return share(found, len(queries), rules.efficiency_of_no_query)


def precision(worth: Sequence[float], mended: Sequence[int], rules: SeedRules = RULES) -> float:
    """Share of interventions that lowered the risk (`worth`) or broke fewer criteria (`mended`)."""
    helped = sum(w > LESS or m > 0 for w, m in zip(worth, mended, strict=True))
    return share(helped, len(worth), rules.precision_of_no_intervention)


def share(counted: int, of: int, of_none: float) -> float:
    """`counted` of `of`; a written value where there was nothing to count."""
    return counted / of if of else of_none


def targeted(interventions: Iterable[Intervention], in_severe_pair: frozenset[str]) -> float:
    """1 when any intervention, of whatever kind, touched a drug of a severe pair; else 0."""
    return float(any(i.target_drug_id in in_severe_pair for i in interventions))


def disruption(changes: int, critical_stops: int, budget: int, rules: SeedRules = RULES) -> float:
    """How much of the list was upset, in [0, 1]: stops and substitutions, and critical drugs left out."""
    return min(1.0, rules.changes_share * changes / budget + rules.critical_stop * critical_stops)


def critical_stops(
    tables: Tables, first: Iterable[str], interventions: Iterable[Intervention]
) -> int:
    """How many critical needs were dropped: a critical drug, or what replaced one, was stopped."""
    critical = {drug for drug in first if tables.drugs[drug].is_critical}
    dropped = 0
    for change in interventions:
        target, started = change.target_drug_id, change.proposed_new_drug_id
        if change.action_type == "stop" and target in critical:
            critical.discard(target)
            dropped += 1
        elif started is not None and (target in critical or tables.drugs[started].is_critical):
            critical.discard(target)
            critical.add(started)
    return dropped
