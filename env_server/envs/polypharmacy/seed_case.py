"""One patient under the seed's rules: what a list risks, what may replace a drug, how a review is graded.

Implements `episode.Case`. Knows no agent and no order of events; whatever it remembers is a pure
function of the patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from types import MappingProxyType
from typing import Any

from data.polypharmacy.tables import Criterion, load
from env_server.contract import NOTHING, Split, clamp_score
from env_server.envs.polypharmacy.episode import Books, Charges, Finding, Grade
from env_server.envs.polypharmacy.observation import (
    InteractionQuery,
    Intervention,
    Medication,
    describe,
)
from env_server.envs.polypharmacy.patient import Patient
from env_server.envs.polypharmacy.regimen import DOSE_STEPS, Regimen, Slot
from env_server.envs.polypharmacy.seed_generator import Generator
from env_server.envs.polypharmacy.seed_grade import (
    Marks,
    critical_stops,
    disruption,
    efficiency,
    precision,
    reduction,
    targeted,
)
from env_server.envs.polypharmacy.seed_plan import Plan, best
from env_server.envs.polypharmacy.seed_risk import (
    RULES,
    Known,
    flag,
    known,
    normalised,
    own_risk,
    violations,
)
from env_server.envs.polypharmacy.tasks import REVIEWS, ReviewTask

_ROUNDING = 1e-9  # plans add contributions up in another order than the grader
NO_INTERACTION = Finding("none", "no_action", 0.0, "")
CHARGES = Charges(
    query=RULES.query,
    intervention=RULES.intervention,
    invalid=RULES.invalid,
    timeout=RULES.timeout,
    discovery=MappingProxyType({"severe": RULES.severe_found, "moderate": RULES.moderate_found}),
)


class SeedCase:
    """A patient of a seed task. Satisfies `episode.Case`."""

    __slots__ = (
        "_broken",
        "_contributions",
        "_latest",
        "_medications",
        "_plan",
        "_substitutes",
        "_totals",
        "charges",
        "first_risk",
        "in_severe_pair",
        "known",
        "patient",
        "review",
        "start",
    )

    def __init__(self, review: ReviewTask, patient: Patient, known: Known) -> None:
        self.review = review
        self.patient = patient
        self.known = known
        self.charges = CHARGES
        self.start = Regimen(tuple(Slot(p.drug_id, p.indication) for p in patient.prescriptions))
        self._totals: dict[tuple[Slot, ...], float] = {}
        self._contributions: dict[Slot, tuple[float, int]] = {}
        self._broken: dict[Slot, tuple[Criterion, ...]] = {}
        self._medications: dict[Slot, Medication] = {}
        self._substitutes: dict[tuple[Slot, ...], dict[str, tuple[str, ...]]] = {}
        self._latest: tuple[tuple[Slot, ...] | None, float] = (None, 0.0)
        self._plan: Plan | None = None
        self.first_risk = self.risk(self.start)
        ids = [s.drug_id for s in self.start.slots]
        self.in_severe_pair = frozenset(d for d in ids if not known.severe[d].isdisjoint(ids))

    # -- risk ---------------------------------------------------------------------------------

    def risk(self, regimen: Regimen) -> float:
        """Regimen risk in [0, 1]: the order of the list and monitoring never matter."""
        slots, risk = self._latest
        if slots is not regimen.slots:  # every step tells the risk, few change the list
            risk = normalised(self.total(regimen), len(regimen.slots))
            self._latest = (regimen.slots, risk)
        return risk

    def value(self, regimen: Regimen) -> float:
        return -self.risk(regimen)

    def total(self, regimen: Regimen) -> float:
        """Sum of what every drug and every pair contributes, before it is divided and clipped."""
        slots = regimen.slots
        found = self._totals.get(slots)
        if found is None:
            partners = self.known.partners
            alone = sum(self.contribution(s)[0] for s in slots)
            ids = sorted(s.drug_id for s in slots)  # one order of summing, so one sum
            found = self._totals[slots] = alone + sum(
                partners[a][b].base_risk_score for a, b in combinations(ids, 2) if b in partners[a]
            )
        return found

    def contribution(self, slot: Slot) -> tuple[float, int]:
        """(what the drug adds to the sum by itself, how many criteria it breaks)."""
        found = self._contributions.get(slot)
        if found is None:
            broken = self.broken(slot)
            risk = own_risk(self.known.tables.drugs[slot.drug_id], broken)
            found = self._contributions[slot] = (risk, len(broken))
        return found

    def broken(self, slot: Slot) -> tuple[Criterion, ...]:
        """The criteria that the drug breaks in this patient at this dose."""
        found = self._broken.get(slot)
        if found is None:
            found = self._broken[slot] = violations(self.known.tables, self.patient, slot)
        return found

    def pairs_of(self, drug: str, slots: tuple[Slot, ...], leaving: str = "") -> float:
        """What the interactions of `drug` with the list, less the drug that is leaving, add to the sum."""
        partners = self.known.partners[drug]
        return sum(
            partners[s.drug_id].base_risk_score
            for s in slots
            if s.drug_id in partners and s.drug_id != leaving
        )

    # -- what may be asked and done ---------------------------------------------------------------

    def finding(self, drug_a: str, drug_b: str) -> Finding:
        pair = self.known.tables.pair(drug_a, drug_b)
        if pair is None:
            return NO_INTERACTION
        return Finding(pair.severity, pair.recommendation, pair.base_risk_score, pair.mechanism)

    def medication(self, regimen: Regimen, slot: Slot) -> Medication:
        seen = self._medications.get(slot)
        if seen is None:
            drug = self.known.tables.drugs[slot.drug_id]
            flags = tuple(dict.fromkeys([flag(row) for row in self.broken(slot)]))
            seen = describe(drug, slot, flags, self.can_reduce(slot))
            self._medications[slot] = seen
        return seen

    def view(self, regimen: Regimen) -> Mapping[str, Any]:
        return NOTHING

    def can_reduce(self, slot: Slot) -> bool:
        drug = self.known.tables.drugs[slot.drug_id]
        return slot.dose_step < DOSE_STEPS and drug.min_dose_mg < drug.default_dose_mg

    def abrupt(self, slot: Slot) -> bool:
        """Never: the seed knows no withdrawal."""
        return False

    def substitutes(self, regimen: Regimen, slot: Slot) -> tuple[str, ...]:
        """Stand-ins that are not on the list and have no severe interaction with the rest of it."""
        found = self._substitutes.get(regimen.slots)
        if found is None:  # one look at a list asks for every drug of it
            found = self._substitutes[regimen.slots] = self._stand_ins(regimen.slots)
        return found[slot.drug_id]

    def _stand_ins(self, slots: tuple[Slot, ...]) -> dict[str, tuple[str, ...]]:
        severe, pool = self.known.severe, self.known.pool
        ids = {s.drug_id for s in slots}
        found = {}
        for slot in slots:
            rest = ids - {slot.drug_id}
            found[slot.drug_id] = tuple(
                [
                    new
                    for new in pool(slot.drug_id, slot.indication)
                    if new not in ids and severe[new].isdisjoint(rest)
                ]
            )
        return found

    def credit(
        self, regimen: Regimen, slot: Slot, queries: tuple[InteractionQuery, ...], worth: float
    ) -> tuple[float, bool]:
        """The whole change: the seed asks for no evidence."""
        return worth, True

    # -- the end ------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The best plan known for this patient; worked out when first asked for."""
        if self._plan is None:
            self._plan = best(self)
        return self._plan

    def grade(self, books: Books) -> Grade:
        end = self.risk(books.regimen)
        marks = self._marks(books, end)
        score = marks.score(self.review.task.difficulty)
        return Grade(score, Outcome(self, marks, score, end))

    def _marks(self, books: Books, end: float) -> Marks:
        changed = books.interventions
        upset = sum(i.action_type in ("stop", "substitute") for i in changed)
        dropped = critical_stops(self.known.tables, (s.drug_id for s in self.start.slots), changed)
        return Marks(
            reduction=reduction(self.first_risk, end),
            targeted=targeted(changed, self.in_severe_pair),
            precision=precision(books.worth, self._mended(changed)),
            efficiency=efficiency(books.queries),
            disruption=disruption(upset, dropped, self.review.intervention_budget),
        )

    def _mended(self, changes: tuple[Intervention, ...]) -> list[int]:
        """How many broken criteria each intervention took off the list; negative where it added some."""
        slots = {s.drug_id: s for s in self.start.slots}
        mended = []
        for change in changes:
            slot = slots.pop(change.target_drug_id)
            before = self.contribution(slot)[1]
            after = 0
            if change.action_type != "stop":
                if change.proposed_new_drug_id is not None:
                    slot = Slot(change.proposed_new_drug_id, slot.indication)
                elif change.action_type == "dose_reduce":
                    slot = slot._replace(dose_step=slot.dose_step + 1)
                slots[slot.drug_id] = slot
                after = self.contribution(slot)[1]
            mended.append(before - after)
        return mended

    def info(self, regimen: Regimen, grade: Grade | None) -> Mapping[str, Any]:
        """The seed's `info`: its tasks show the risk as it goes."""
        return {
            "current_risk": self.risk(regimen),
            "baseline_risk": self.first_risk,
            "grader_score_if_terminal": clamp_score(grade.score) if grade else None,
        }


class Outcome(Mapping[str, Any]):
    """What is told at the end. The best plan is searched for only when somebody looks at it."""

    __slots__ = ("_case", "_told")

    _PLANNED = ("score_best", "regret", "optimum", "best_plan")

    def __init__(self, case: SeedCase, marks: Marks, score: float, end: float) -> None:
        self._case = case
        self._told: dict[str, Any] = {
            "attained": score,
            "clean": False,  # every seed patient has a severe pair to mend
            "risk_start": case.first_risk,
            "risk_end": end,
            "risk_reduction": marks.reduction,
            "targeted_intervention": marks.targeted,
            "intervention_precision": marks.precision,
            "query_efficiency": marks.efficiency,
            "regimen_disruption": marks.disruption,
        }

    def __getitem__(self, key: str) -> Any:
        if key in self._PLANNED and key not in self._told:
            plan = self._case.plan()
            score_best = clamp_score(plan.score)
            missed = score_best - clamp_score(self._told["attained"])
            self._told |= {
                "score_best": score_best,
                "optimum": plan.score,
                # a beam is no proof: where an agent did better than the plan, nothing was left
                "regret": missed if missed > _ROUNDING else 0.0,
                "best_plan": [action.to_json() for action in plan.actions],
            }
        return self._told[key]

    def __iter__(self) -> Iterator[str]:
        self["score_best"]
        return iter(self._told)

    def __len__(self) -> int:
        return len(set(self._told) | set(self._PLANNED))


@lru_cache(maxsize=4)
def _generator(directory: str | None) -> Generator:
    return Generator(known(load(directory)))


@lru_cache(maxsize=2048)
def begin(task_name: str, seed: int, split: Split, directory: str | None = None) -> SeedCase:
    """The case of this seed, on the tables of `directory` (None = the shipped ones)."""
    generator = _generator(directory)
    review = REVIEWS[task_name]
    return SeedCase(review, generator.draw(review, seed, split), generator.known)
