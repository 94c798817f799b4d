"""How risky a list is by the seed's rules, and what the seed's events cost and pay.

The seed gives the ingredients of the risk (pair scores, weighted criteria, high-risk drugs, divided by
the length of the list, clipped to [0, 1]); what it leaves open is a constant in `SeedRules` with its
reason. Knows nothing of need: by these rules an empty list is a perfect one, which is why they can be gamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from data.polypharmacy.tables import Criterion, Drug, Pair, Tables
from env_server.envs.polypharmacy.patient import Patient
from env_server.envs.polypharmacy.regimen import Slot

OPEN_TO_ALL = "age_over_60"  # the one circumstance that everybody in these tasks is in


@dataclass(frozen=True, slots=True)
class SeedRules:
    """Every number that the seed documents give or leave open, with the reason beside it."""

    # -- shaping. README: a severe finding nets .035 and a moderate one .005; the document: a query costs .01
    query: float = -0.01
    severe_found: float = 0.045
    moderate_found: float = 0.015
    # "small": heavier than a question, lighter than the least useful change (a caution in a list of ten)
    intervention: float = -0.01
    invalid: float = -0.1  # the document's example
    timeout: float = -0.1  # not given: letting the clock run out is one more wrong answer

    # -- risk. A pair weighs its base_risk_score (mild ~.07, moderate ~.34, severe ~.78)
    # "avoid" for everybody is about a moderate interaction; in a condition likewise, since it applies here
    avoid: float = 0.3
    avoid_in_condition: float = 0.3
    dose_adjust: float = 0.2  # mended by a lower dose, so less than avoid
    caution: float = 0.1  # between a mild and a moderate interaction
    high_risk: float = 0.1  # a drug that old age alone makes risky: as a caution

    # -- graders. Weights of easy and medium are the document's
    easy_reduction: float = 0.5
    easy_targeted: float = 0.5
    medium_reduction: float = 0.5
    medium_precision: float = 0.3
    medium_efficiency: float = 0.2
    # hard: score = reduction - disruption_weight * disruption, disruption in [0, 1] from the share of the
    # budget spent on stops and substitutions and from critical drugs stopped without another in their place.
    # With a full budget of harmless changes it takes .25, so that about two well-chosen stops pay for five.
    disruption_weight: float = 0.5
    changes_share: float = (
        0.5  # of the disruption when every intervention was a stop or a substitution
    )
    critical_stop: float = (
        0.3  # of the disruption for each critical drug left out: two undo a good review
    )
    # -- undefined cases, by name
    efficiency_of_no_query: float = 0.0  # who asks nothing has found nothing
    precision_of_no_intervention: float = 0.0  # who changes nothing has mended nothing
    reduction_of_no_risk: float = (
        0.0  # max(0, 0 - end) over a small number; the generator never draws it
    )

    criterion: Mapping[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weights = {
            "avoid": self.avoid,
            "avoid_in_condition": self.avoid_in_condition,
            "dose_adjust": self.dose_adjust,
            "caution": self.caution,
        }
        object.__setattr__(self, "criterion", MappingProxyType(weights))


RULES = SeedRules()


class Known:
    """A table set arranged for speed: partners, severe partners and same-purpose drugs of every drug."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.partners: dict[str, dict[str, Pair]] = {drug: {} for drug in tables.drugs}
        for (a, b), pair in tables.pairs.items():
            self.partners[a][b] = pair
            self.partners[b][a] = pair
        self.severe: dict[str, frozenset[str]] = {
            drug: frozenset(o for o, p in found.items() if p.severity == "severe")
            for drug, found in self.partners.items()
        }
        self.treating: dict[str, tuple[Drug, ...]] = {
            condition: tuple(d for d in tables.drugs.values() if condition in d.indications)
            for condition in tables.conditions
        }
        self._pools: dict[tuple[str, str], tuple[str, ...]] = {}

    def pool(self, drug_id: str, indication: str) -> tuple[str, ...]:
        """Drugs that could stand in for `drug_id` in this need, best first; the list is not looked at.

        Same ATC class or same substitution group, and meant for the same condition. ATC level 4, as
        these tables have it, alone would leave warfarin only acenocoumarol, although the seed asks for
        safer substitutes of critical drugs. Never a step up: a drug that is not high-risk is not
        replaced by one that is. Order: not high-risk, own ATC class, id.
        """
        key = (drug_id, indication)
        if key not in self._pools:
            self._pools[key] = self._find_pool(self.tables.drugs[drug_id], indication)
        return self._pools[key]

    def _find_pool(self, target: Drug, indication: str) -> tuple[str, ...]:
        found = [
            d
            for d in self.treating[indication]
            if d.drug_id != target.drug_id
            and (
                d.atc_class == target.atc_class or d.substitution_group == target.substitution_group
            )
            and (target.is_high_risk_elderly or not d.is_high_risk_elderly)
        ]
        found.sort(
            key=lambda d: (d.is_high_risk_elderly, d.atc_class != target.atc_class, d.drug_id)
        )
        return tuple(d.drug_id for d in found)


_known: dict[str, Known] = {}


def known(tables: Tables) -> Known:
    """The arrangement of `tables`, made once for each version of them."""
    if tables.version not in _known:
        _known[tables.version] = Known(tables)
    return _known[tables.version]


def applies(criterion: Criterion, patient: Patient) -> bool:
    """Whether the criterion's gates are open for this patient; circumstances nobody can see stay shut."""
    condition = criterion.condition
    if criterion.circumstance is not None and condition != OPEN_TO_ALL:
        return False
    if criterion.circumstance is None and condition and condition not in patient.conditions:
        return False
    return criterion.crcl_below is None or patient.crcl_ml_min < criterion.crcl_below


def flag(criterion: Criterion) -> str:
    """How the criterion reads on the list: `avoid`, `avoid_in:dementia`, `dose_adjust:renal`."""
    kind = (
        "avoid_in" if criterion.criterion_type == "avoid_in_condition" else criterion.criterion_type
    )
    gate = criterion.condition or ("renal" if criterion.crcl_below is not None else "")
    return f"{kind}:{gate}" if gate else kind


def violations(tables: Tables, patient: Patient, slot: Slot) -> tuple[Criterion, ...]:
    """The criteria that this drug breaks in this patient; a lower dose settles `dose_adjust`."""
    return tuple(
        c
        for c in tables.criteria.get(slot.drug_id, ())
        if applies(c, patient) and not (c.criterion_type == "dose_adjust" and slot.dose_step > 0)
    )


def drug_risk(tables: Tables, patient: Patient, slot: Slot, rules: SeedRules = RULES) -> float:
    """What one drug adds to the sum by itself: its broken criteria, and being high-risk."""
    return own_risk(tables.drugs[slot.drug_id], violations(tables, patient, slot), rules)


def own_risk(drug: Drug, broken: tuple[Criterion, ...], rules: SeedRules = RULES) -> float:
    """`drug_risk` where the broken criteria are known already."""
    weight = rules.high_risk if drug.is_high_risk_elderly else 0.0
    return weight + sum(rules.criterion[c.criterion_type] for c in broken)


def normalised(total: float, drugs: int) -> float:
    """Sum of contributions as a risk in [0, 1]: divided by the length of the list, clipped; none is 0."""
    return min(max(total / drugs, 0.0), 1.0) if drugs else 0.0
