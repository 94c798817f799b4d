"""How a careful practitioner and one who knows everything would review a list.

The heuristic sees only the observation; the reference reads the certified plan off the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from env_server.contract import Action, Observation, Refusal
from env_server.envs.polypharmacy.actions import (
    FINISH,
    InterventionType,
    ReviewAction,
    intervene,
    query,
)
from env_server.envs.polypharmacy.observation import Medication, ReviewObservation

Legal = Callable[[], Sequence[Action]]

# Effects that two drugs add to each other: a shared one is a reason to ask.
SHARED = frozenset(
    [
        "bleeding",
        "gi_ulcer",
        "serotonergic",
        "cns_depressant",
        "hyperkalaemia",
        "hypoglycaemia",
        "bradycardia",
        "nephrotoxic",
        "hypotension",
        "qt_known",
        "qt_possible",
        "qt_conditional",
    ]
)
# Groups that change how others are broken down, or are broken down by a narrow path.
SUSPICIOUS = (
    3  # how much must speak for a question before it is asked; 2 and 4 do no better over the tasks
)
METABOLIC = frozenset({"antibiotic", "antifungal", "antiarrhythmic", "antiepileptic", "statin"})


class ReviewHeuristic:
    """Asks about suspicious pairs, defuses the severe ones, then works through Beers rows and set effects."""

    def act(self, observation: Observation, legal: Legal) -> Action | Refusal:
        assert isinstance(observation, ReviewObservation)
        self.seen = observation
        if observation.remaining_intervention_budget <= 0:
            return FINISH
        self.possible = set(legal())
        self.by_id = {m.drug_id: m for m in observation.current_medications}
        self.handled = {i.target_drug_id for i in observation.interventions}
        self.handled |= {i.proposed_new_drug_id or "" for i in observation.interventions}
        urgent = next((c for c in self._severe() if c in self.possible), None)
        ask = urgent or self._question()
        return ask or next((c for c in self._visible() if c in self.possible), FINISH)

    def _severe(self) -> Iterator[ReviewAction]:
        """What the severe pairs found so far call for."""
        for q in self.seen.interaction_queries:
            pair = [self.by_id[d] for d in (q.drug_id_1, q.drug_id_2) if d in self.by_id]
            known = self.handled.intersection((q.drug_id_1, q.drug_id_2))
            if q.severity == "severe" and len(pair) == 2 and not known:
                yield from self._defuse(sorted(pair, key=_dispensable, reverse=True))

    def _visible(self) -> Iterator[ReviewAction]:
        """What the list itself calls for: criteria, then set effects, then doses."""
        fresh = [m for m in self.seen.current_medications if m.drug_id not in self.handled]
        for m in fresh:
            if _avoid(m):
                yield from self._replace(m)
        for effect in self.seen.view.get("set_effects", ()):
            for m in sorted(fresh, key=_dispensable, reverse=True):
                if m.drug_id in effect["drugs"]:
                    yield intervene(m.drug_id, "substitute")
        for m in fresh:
            if any(flag.startswith("dose_adjust") for flag in m.beers_flags):
                yield intervene(m.drug_id, "dose_reduce")

    def _defuse(self, pair: list[Medication]) -> Iterator[ReviewAction]:
        for m in pair:
            yield intervene(m.drug_id, "substitute")
        for m in pair:
            if not m.is_critical and not m.needs_taper:
                yield intervene(m.drug_id, "stop")
        yield self._first(pair[0], ("add_monitoring", "dose_reduce"))

    def _replace(self, m: Medication) -> Iterator[ReviewAction]:
        yield intervene(m.drug_id, "substitute")
        if m.needs_taper or m.is_critical:
            yield intervene(m.drug_id, "dose_reduce")
        else:
            yield intervene(m.drug_id, "stop")

    def _first(self, m: Medication, kinds: tuple[InterventionType, ...]) -> ReviewAction:
        for kind in kinds:
            if intervene(m.drug_id, kind) in self.possible:
                return intervene(m.drug_id, kind)
        return FINISH

    def _question(self) -> ReviewAction | None:
        if self.seen.remaining_query_budget <= 0 or self.seen.remaining_intervention_budget <= 0:
            return None
        pairs = combinations(self.seen.current_medications, 2)
        ranked = sorted(pairs, key=lambda p: -_suspicion(*p))
        for a, b in ranked:
            if _suspicion(a, b) < SUSPICIOUS:
                return None
            if query(a.drug_id, b.drug_id) in self.possible:
                return query(a.drug_id, b.drug_id)
        return None


def _suspicion(a: Medication, b: Medication) -> int:
    """How much a list at a glance speaks for asking about two drugs."""
    shared = len(SHARED.intersection(a.effects) & set(b.effects))
    risky = a.is_high_risk_elderly + b.is_high_risk_elderly
    metabolic = (a.group in METABOLIC) + (b.group in METABOLIC)
    return 2 * shared + risky + metabolic


def _avoid(m: Medication) -> bool:
    return any(flag.startswith("avoid") for flag in m.beers_flags)


def _dispensable(m: Medication) -> tuple[bool, bool, int]:
    """Larger = rather changed than its partner."""
    return (not m.is_critical, m.is_high_risk_elderly, len(m.beers_flags))


class ReviewReference:
    """Plays the certified plan: asks for the evidence each change needs, changes, finishes."""

    def __init__(self, plan: Sequence[ReviewAction]) -> None:
        self._left = iter(plan)

    def act(self, observation: Observation, legal: Legal) -> Action | Refusal:
        return next(self._left, FINISH)
