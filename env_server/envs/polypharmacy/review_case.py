"""A patient under the rules a pharmacist would accept: what evidence is, what counts, how it is graded.

Score = attained / attainable change of U, less small charges. Harm itself is `harm.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any

from data.polypharmacy.tables import Tables
from env_server.contract import NOTHING, clamp_score
from env_server.envs.polypharmacy.actions import FINISH, ReviewAction, intervene, query
from env_server.envs.polypharmacy.episode import Books, Charges, Finding, Grade
from env_server.envs.polypharmacy.harm import HarmModel, SetEffect
from env_server.envs.polypharmacy.observation import InteractionQuery, Medication, describe
from env_server.envs.polypharmacy.patient import Patient
from env_server.envs.polypharmacy.reference import Change, Optimum, apply, optimum
from env_server.envs.polypharmacy.regimen import Regimen, Slot
from env_server.envs.polypharmacy.tasks import ReviewTask

CHARGES = Charges(query=-0.002, intervention=-0.002, invalid=-0.1, timeout=-0.2, discovery=NOTHING)


@dataclass(frozen=True, slots=True)
class Grading:
    """What a review is charged and credited, in units of score or reward."""

    unsupported_credit: float = 0.5
    """Share of the benefit of a change that nothing the agent had seen spoke for."""
    unsupported_charge: float = 0.03
    """Score lost for each such change."""
    idle_query_charge: float = 0.01
    """Score lost for each query whose finding no change used."""
    clean_scale: float = 0.12
    """Loss of U at which a patient who needed no change scores 0."""
    charges: Charges = CHARGES
    """Small enough that the best return is the best score (tested), large enough to break ties."""


GRADING = Grading()
CLEAN = 1e-6  # attainable gain of U below which the best review changes nothing

_FLAGS = {  # how a criterion reads on the list
    "avoid": "avoid",
    "avoid_in_condition": "avoid_in",
    "dose_adjust": "dose_adjust",
    "caution": "caution",
}


class ReviewCase:
    """One patient of a review task. Satisfies `episode.Case`; pure, and remembers what it worked out."""

    def __init__(
        self, review: ReviewTask, patient: Patient, tables: Tables, grading: Grading = GRADING
    ) -> None:
        self.review = review
        self.patient = patient
        self.tables = tables
        self.grading = grading
        self.charges = grading.charges
        self.start = Regimen(tuple(Slot(p.drug_id, p.indication) for p in patient.prescriptions))
        self.harm = HarmModel(tables, patient)
        self._allowed = frozenset(d.drug_id for d in tables.formulary(review.formulary))
        self._medications: dict[Slot, Medication] = {}
        self._views: dict[tuple[Slot, ...], tuple[Mapping[str, Any], frozenset[str]]] = {}
        self._substitutes: dict[tuple[tuple[Slot, ...], Slot], tuple[str, ...]] = {}
        self._optimum: Optimum | None = None
        self._plan: tuple[ReviewAction, ...] | None = None

    # -- what the episode asks ----------------------------------------------------------------

    def value(self, regimen: Regimen) -> float:
        return self.harm.value(regimen)

    def finding(self, drug_a: str, drug_b: str) -> Finding:
        pair = self.tables.pair(drug_a, drug_b)
        if pair is None:
            return Finding("none", "no_action", 0.0, "")
        return Finding(pair.severity, pair.recommendation, pair.base_risk_score, pair.mechanism)

    def medication(self, regimen: Regimen, slot: Slot) -> Medication:
        seen = self._medications.get(slot)
        if seen is None:
            drug, flags = self.tables.drugs[slot.drug_id], self.flags(slot.drug_id)
            seen = self._medications[slot] = describe(drug, slot, flags, self.can_reduce(slot))
        return seen

    def flags(self, drug_id: str) -> tuple[str, ...]:
        """The criteria that concern this patient, as the list shows them."""
        flags: dict[str, None] = {}
        for c in self.harm.criteria(drug_id):
            gate = c.condition or ("renal" if c.crcl_below is not None else "")
            flags[_FLAGS[c.criterion_type] + (f":{gate}" if gate else "")] = None
        return tuple(flags)

    def view(self, regimen: Regimen) -> Mapping[str, Any]:
        return self._looked(regimen)[0]

    def _looked(self, regimen: Regimen) -> tuple[Mapping[str, Any], frozenset[str]]:
        found = self._views.get(regimen.slots)
        if found is None:
            effects = self.harm.set_effects(regimen.slots)
            found = self._views[regimen.slots] = (self._show(effects), _members(effects))
        return found

    def _show(self, effects: list[SetEffect]) -> Mapping[str, Any]:
        patient = self.patient
        return MappingProxyType(
            {
                "weight_kg": patient.weight_kg,
                "creatinine_mg_dl": patient.creatinine_mg_dl,
                "crcl_ml_min": patient.crcl_ml_min,
                "allergies": list(patient.allergies),
                "set_effects": [{"effect": e.name, "drugs": list(e.drugs)} for e in effects],
            }
        )

    def can_reduce(self, slot: Slot) -> bool:
        return self.harm.can_reduce(slot)

    def abrupt(self, slot: Slot) -> bool:
        return self.tables.drugs[slot.drug_id].needs_taper and slot.dose_step == 0

    def substitutes(self, regimen: Regimen, slot: Slot) -> tuple[str, ...]:
        """Listed alternatives for the same need that the rest of the list allows, best first."""
        key = (regimen.slots, slot)
        found = self._substitutes.get(key)
        if found is None:
            rest = [s.drug_id for s in regimen.slots if s.drug_id != slot.drug_id]
            found = tuple(d for d in self.swaps(slot) if self._fits(d, rest))
            self._substitutes[key] = found
        return found

    def swaps(self, slot: Slot) -> tuple[str, ...]:
        """Listed alternatives for the same need that this patient may take, best first."""
        wanted: dict[str, None] = {}
        for row in self.tables.alternatives.get(slot.drug_id, ()):
            drug = self.tables.drugs[row.alternative_id]
            if slot.indication in drug.indications and self._tolerated(drug.drug_id):
                wanted[drug.drug_id] = None
        return tuple(wanted)

    def _tolerated(self, drug_id: str) -> bool:
        """In the formulary, no allergy to its group, no renal row against it."""
        drug = self.tables.drugs[drug_id]
        renal = any(
            c.crcl_below is not None and c.criterion_type in ("avoid", "avoid_in_condition")
            for c in self.harm.criteria(drug_id)
        )
        allergic = drug.substitution_group in self.patient.allergies
        return drug_id in self._allowed and not allergic and not renal

    def _fits(self, drug_id: str, rest: list[str]) -> bool:
        """Neither a duplicate nor in a severe pair with the rest of the list."""
        drugs = self.tables.drugs
        for other in rest:
            if other == drug_id or drugs[other].drug_class == drugs[drug_id].drug_class:
                return False
            pair = self.tables.pair(drug_id, other)
            if pair is not None and pair.severity == "severe":
                return False
        return True

    def credit(
        self, regimen: Regimen, slot: Slot, queries: tuple[InteractionQuery, ...], worth: float
    ) -> tuple[float, bool]:
        supported = (
            bool(self.harm.criteria(slot.drug_id))
            or slot.drug_id in self._looked(regimen)[1]
            or any(
                q.severity != "none" and slot.drug_id in (q.drug_id_1, q.drug_id_2) for q in queries
            )
        )
        if supported or worth <= 0:
            return worth, supported
        return worth * self.grading.unsupported_credit, False

    def info(self, regimen: Regimen, grade: Grade | None) -> Mapping[str, Any]:
        return NOTHING

    # -- grading ------------------------------------------------------------------------------

    def grade(self, books: Books) -> Grade:
        g = self.grading
        best = self.optimum()
        start = self.harm.value(self.start)
        attainable = best.value - start
        attained = sum(
            w if ok or w <= 0 else w * g.unsupported_credit
            for w, ok in zip(books.worth, books.supported, strict=True)
        )
        unsupported = sum(not ok for ok in books.supported)
        idle = idle_queries(books)
        charges = g.unsupported_charge * unsupported + g.idle_query_charge * idle
        clean = attainable <= CLEAN
        if clean:
            share = 1.0 - min(1.0, max(0.0, -attained) / g.clean_scale)
        else:
            share = min(1.0, max(0.0, attained / attainable))
        score = share - charges
        end = self.harm.assess(books.regimen)
        return Grade(
            score,
            MappingProxyType(
                {
                    "optimum": attainable,
                    "attained": attained,
                    "share_of_optimum": share,
                    "score_best": clamp_score(1.0),
                    "regret": clamp_score(1.0) - clamp_score(score),
                    "clean": clean,
                    "unsupported": unsupported,
                    "idle_queries": idle,
                    "harm_start": self.harm.assess(self.start).harm,
                    "harm_end": end.harm,
                    "untreated_end": end.untreated,
                    "best_plan": [a.to_json() for a in self.plan()],
                }
            ),
        )

    def optimum(self) -> Optimum:
        """The certified best set of changes within the intervention budget; found once."""
        if self._optimum is None:
            budget = self.review.intervention_budget
            self._optimum = optimum(
                self.harm,
                self.start,
                budget,
                self.swaps,
                self._fits,
                lambda changes: self._order(changes) is not None,
            )
        return self._optimum

    def plan(self) -> tuple[ReviewAction, ...]:
        """Actions that attain the optimum with every change supported, then finish; found once."""
        if self._plan is None:
            self._plan = self._justify()
        return self._plan

    def _justify(self) -> tuple[ReviewAction, ...]:
        order = self._order(self.optimum().changes) or ()
        actions: list[ReviewAction] = []
        regimen, asked = self.start, set[tuple[str, str]]()
        for change in order:
            pair = self._evidence(regimen, change.drug_id)
            if pair and pair not in asked:
                asked.add(pair)
                actions.append(query(*pair))
            actions.append(intervene(change.drug_id, change.kind, change.new_drug))
            regimen = self._after(regimen, change)
        return (*actions, FINISH)

    def _order(self, changes: tuple[Change, ...]) -> tuple[Change, ...] | None:
        """An order in which every change is accepted and can be supported, or None."""
        return self._arrange(self.start, changes, set())

    def _arrange(
        self,
        regimen: Regimen,
        left: tuple[Change, ...],
        dead: set[tuple[tuple[Slot, ...], tuple[Change, ...]]],
    ) -> tuple[Change, ...] | None:
        """`dead`: lists from which no order of the changes left was found, however they were reached."""
        if not left:
            return ()
        if (regimen.slots, left) in dead:
            return None
        for i, change in enumerate(left):
            if not self._possible(regimen, change):
                continue
            after = self._after(regimen, change)
            rest = self._arrange(after, left[:i] + left[i + 1 :], dead)
            if rest is not None:
                return (change, *rest)
        dead.add((regimen.slots, left))
        return None

    def _possible(self, regimen: Regimen, change: Change) -> bool:
        position = regimen.position(change.drug_id)
        if position is None or self._evidence(regimen, change.drug_id) is None:
            return False
        slot = regimen.slots[position]
        if change.kind == "dose_reduce":
            return self.can_reduce(slot)
        if change.kind == "add_monitoring":
            return not slot.monitored
        if change.kind == "substitute":
            return change.new_drug in self.substitutes(regimen, slot)
        return True

    def _after(self, regimen: Regimen, change: Change) -> Regimen:
        position = regimen.position(change.drug_id)
        slot = regimen.slots[position or 0]
        return apply(regimen, change, self.abrupt(slot))

    def _evidence(self, regimen: Regimen, drug_id: str) -> tuple[()] | tuple[str, str] | None:
        """() where something visible speaks for a change, else the pair to ask about, else None."""
        if self.harm.criteria(drug_id) or drug_id in self._looked(regimen)[1]:
            return ()
        best, pair = 0.0, None
        for slot in regimen.slots:
            found = self.tables.pair(drug_id, slot.drug_id) if slot.drug_id != drug_id else None
            if found is not None and found.base_risk_score > best:
                best, pair = found.base_risk_score, (found.drug_id_1, found.drug_id_2)
        return pair


def idle_queries(books: Books) -> int:
    """Queries that found nothing, or whose drugs were left as they were."""
    changed = {i.target_drug_id for i in books.interventions}
    return sum(
        q.severity == "none" or not changed.intersection((q.drug_id_1, q.drug_id_2))
        for q in books.queries
    )


def _members(effects: list[SetEffect]) -> frozenset[str]:
    return frozenset(d for e in effects for d in e.drugs)


def severe_pairs(tables: Tables, drugs: tuple[str, ...]) -> list[tuple[str, str]]:
    """The severe pairs among `drugs`, ordered."""
    found = []
    for a, b in combinations(sorted(drugs), 2):
        pair = tables.pair(a, b)
        if pair is not None and pair.severity == "severe":
            found.append((a, b))
    return found
