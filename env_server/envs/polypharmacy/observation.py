"""What the agent sees of a review: the patient, the list, what was asked and done, what is left.

Frozen records with one `to_json`; holds nothing that the task hides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.polypharmacy.tables import Drug
from env_server.contract import JsonObject, Refusal
from env_server.envs.polypharmacy.actions import InterventionType
from env_server.envs.polypharmacy.patient import Patient
from env_server.envs.polypharmacy.regimen import Slot, dose_mg


@dataclass(frozen=True, slots=True)
class Medication:
    """One drug of the current regimen as a pharmacist sees it at a glance."""

    drug_id: str
    generic_name: str
    atc_class: str  # ATC level 4, e.g. B01AA
    dose_mg: float  # daily dose in the unit of the drug's dose_basis
    frequency: str
    route: str
    is_high_risk_elderly: bool
    beers_flags: tuple[
        str, ...
    ]  # criteria that apply to this patient, e.g. avoid_in_condition:dementia
    drug_class: str
    group: str  # substitution group
    indication: str
    dose_step: int  # 0 = usual dose, each reduction adds one
    can_reduce: bool
    effects: tuple[str, ...]  # bleeding, cns_depressant, qt_known, acb_2 ...
    is_critical: bool
    needs_taper: bool
    monitored: bool

    def to_json(self) -> JsonObject:
        return {
            "drug_id": self.drug_id,
            "generic_name": self.generic_name,
            "atc_class": self.atc_class,
            "dose_mg": self.dose_mg,
            "frequency": self.frequency,
            "route": self.route,
            "is_high_risk_elderly": self.is_high_risk_elderly,
            "beers_flags": list(self.beers_flags),
            "drug_class": self.drug_class,
            "group": self.group,
            "indication": self.indication,
            "dose_step": self.dose_step,
            "can_reduce": self.can_reduce,
            "effects": list(self.effects),
            "is_critical": self.is_critical,
            "needs_taper": self.needs_taper,
            "monitored": self.monitored,
        }


def describe(drug: Drug, slot: Slot, flags: tuple[str, ...], can_reduce: bool) -> Medication:
    """One line of the list as it is shown: the drug's facts, and how this patient takes it."""
    qt = (f"qt_{drug.qt_risk}",) if drug.qt_risk != "none" else ()
    acb = (f"acb_{drug.acb_score}",) if drug.acb_score else ()
    return Medication(
        drug_id=drug.drug_id,
        generic_name=drug.generic_name,
        atc_class=drug.atc_class,
        dose_mg=dose_mg(drug.default_dose_mg, drug.min_dose_mg, slot.dose_step),
        frequency=drug.frequency,
        route=drug.route,
        is_high_risk_elderly=drug.is_high_risk_elderly,
        beers_flags=flags,
        drug_class=drug.drug_class,
        group=drug.substitution_group,
        indication=slot.indication,
        dose_step=slot.dose_step,
        can_reduce=can_reduce,
        effects=(*sorted(drug.effects), *qt, *acb),
        is_critical=drug.is_critical,
        needs_taper=drug.needs_taper,
        monitored=slot.monitored,
    )


@dataclass(frozen=True, slots=True)
class InteractionQuery:
    """A pair that was asked about and what the reference work said."""

    drug_id_1: str
    drug_id_2: str
    severity: str  # none, mild, moderate, severe
    recommendation: str
    risk_score: float
    mechanism: str
    step_index: int

    def to_json(self) -> JsonObject:
        return {
            "drug_id_1": self.drug_id_1,
            "drug_id_2": self.drug_id_2,
            "severity": self.severity,
            "recommendation": self.recommendation,
            "risk_score": self.risk_score,
            "mechanism": self.mechanism,
            "step_index": self.step_index,
        }


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change that was made."""

    target_drug_id: str
    action_type: InterventionType
    proposed_new_drug_id: str | None  # the drug actually started, for substitute
    rationale: str
    step_index: int

    def to_json(self) -> JsonObject:
        return {
            "target_drug_id": self.target_drug_id,
            "action_type": self.action_type,
            "proposed_new_drug_id": self.proposed_new_drug_id,
            "rationale": self.rationale,
            "step_index": self.step_index,
        }


@dataclass(frozen=True, slots=True)
class ReviewObservation:
    """One moment of a review. `view` holds what this task shows beyond the common fields."""

    episode_id: str
    task_id: str
    patient: Patient
    current_medications: tuple[Medication, ...]
    interaction_queries: tuple[InteractionQuery, ...]
    interventions: tuple[Intervention, ...]
    step_index: int
    max_steps: int
    remaining_query_budget: int
    remaining_intervention_budget: int
    legal_action_types: tuple[str, ...]
    substitutable: tuple[str, ...]  # drugs on the list that something listed may replace now
    view: Mapping[str, Any]
    shaped_reward: float
    reward_parts: Mapping[str, float]
    refusal: Refusal | None
    done: bool
    score: float | None  # the grader's, once done
    outcome: Mapping[str, Any] | None  # what was hidden, once done

    def to_json(self) -> JsonObject:
        patient = self.patient
        return {
            "episode_id": self.episode_id,
            "task_id": self.task_id,
            "age": patient.age,
            "sex": patient.sex,
            "conditions": list(patient.conditions),
            "eGFR_category": patient.egfr_category,
            "liver_function_category": patient.liver_function_category,
            "current_medications": [m.to_json() for m in self.current_medications],
            "interaction_queries": [q.to_json() for q in self.interaction_queries],
            "interventions": [i.to_json() for i in self.interventions],
            "step_index": self.step_index,
            "max_steps": self.max_steps,
            "remaining_query_budget": self.remaining_query_budget,
            "remaining_intervention_budget": self.remaining_intervention_budget,
            "legal_action_types": list(self.legal_action_types),
            "substitutable": list(self.substitutable),
            "view": dict(self.view),
            "shaped_reward": self.shaped_reward,
            "reward_parts": dict(self.reward_parts),
            "refusal": self.refusal.to_json() if self.refusal else None,
            "done": self.done,
            "score": self.score,
            "outcome": dict(self.outcome) if self.outcome is not None else None,
        }
