"""The review's types as other programs see them: pydantic models for schemas, docs and typed clients.

Describes what travels; decides nothing. `actions.from_json` stays the one strict reader of actions.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from env_server.envs.polypharmacy.actions import ActionType, InterventionType

TaskId = Literal[
    "easy_screening",
    "budgeted_screening",
    "complex_tradeoff",
    "review_easy",
    "review_budgeted",
    "review_complex",
]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MedicationEntry(_Record):
    """One drug of the current regimen as a pharmacist sees it at a glance."""

    drug_id: str
    generic_name: str
    atc_class: str
    dose_mg: float = Field(description="daily dose")
    frequency: str = Field(description="qd, bid ...")
    route: str = Field(description="po ...")
    is_high_risk_elderly: bool
    beers_flags: list[str] = Field(description="criteria that apply to this patient")
    drug_class: str
    group: str = Field(description="substitution group")
    indication: str
    dose_step: int = Field(description="0 is the usual dose; each reduction adds one")
    can_reduce: bool
    effects: list[str] = Field(description="bleeding, cns_depressant, qt_known ...")
    is_critical: bool
    needs_taper: bool
    monitored: bool


class InteractionQueryRecord(_Record):
    """A pair that was asked about and what the reference work said."""

    drug_id_1: str
    drug_id_2: str
    severity: str | None
    recommendation: str | None
    risk_score: float | None
    mechanism: str
    step_index: int


class InterventionRecord(_Record):
    """A change that was made; `proposed_new_drug_id` is the drug actually started."""

    target_drug_id: str
    action_type: InterventionType
    proposed_new_drug_id: str | None
    rationale: str
    step_index: int


class RefusalRecord(_Record):
    """Why the last answer was not acted on."""

    kind: Literal["malformed", "truncated", "illegal", "budget", "empty"]
    why: str


class PolypharmacyAction(_Record):
    """One decision; fields of other forms stay null."""

    action_type: ActionType
    drug_id_1: str | None = Field(None, description="for query_ddi")
    drug_id_2: str | None = Field(None, description="for query_ddi")
    target_drug_id: str | None = Field(None, description="for propose_intervention")
    intervention_type: (
        Literal["stop", "dose_reduce", "substitute", "add_monitoring", "none"] | None
    ) = Field(None, description="for propose_intervention")
    proposed_new_drug_id: str | None = Field(
        None, description="for substitute; null takes the best listed drug"
    )
    rationale: str | None = None


class PolypharmacyObservation(_Record):
    """Everything the agent may see of one moment of a review."""

    episode_id: str = Field(description="task, split and seed: what it takes to begin it again")
    task_id: TaskId = Field(description="one of the six tasks")
    age: int = Field(description="years, 65 or more")
    sex: str = Field(description="M, F or O")
    conditions: list[str] = Field(description="diseases, and states such as falls or delirium")
    eGFR_category: str = Field(
        description="normal, mild, moderate or severe impairment, by creatinine clearance"
    )
    liver_function_category: str = Field(description="normal or impaired")
    current_medications: list[MedicationEntry] = Field(description="the list as it is now")
    interaction_queries: list[InteractionQueryRecord] = Field(
        description="pairs asked about, with what the reference work said"
    )
    interventions: list[InterventionRecord] = Field(description="changes made, in order")
    step_index: int = Field(description="steps taken; a refused answer counts as one")
    max_steps: int = Field(description="the review is closed, at a cost, after so many")
    remaining_query_budget: int = Field(description="pairs that may still be asked about")
    remaining_intervention_budget: int = Field(description="changes that may still be made")
    legal_action_types: list[str] = Field(description="forms of action that are possible now")
    substitutable: list[str] = Field(description="drugs that something listed may replace now")
    view: dict[str, Any] = Field(description="what this task shows beyond the common fields")
    shaped_reward: float = Field(description="reward of the last step")
    reward_parts: dict[str, float] = Field(description="its components; they sum to it")
    refusal: RefusalRecord | None = Field(description="why the last answer was not acted on")
    done: bool = Field(description="whether the review is closed")
    score: float | None = Field(description="the grader's, once done")
    outcome: dict[str, Any] | None = Field(description="what was hidden, once done")


class PolypharmacyState(_Record):
    """Counters of a review; nothing hidden."""

    episode_id: str
    task_id: str
    step_count: int
    max_steps: int
    num_query_actions: int
    num_interventions: int


# the names by which the server and the OpenEnv adapter find a family's models
Action = PolypharmacyAction
Observation = PolypharmacyObservation
State = PolypharmacyState
