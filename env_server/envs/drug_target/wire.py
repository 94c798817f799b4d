"""The validation's types as other programs see them: pydantic models for schemas, docs and typed clients.

Describes what travels; decides nothing. `actions.from_json` stays the one strict reader of actions.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from env_server.envs.drug_target.actions import ACTION_TYPES

Decision = Literal["go", "no_go"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FindingRecord(_Record):
    """One line of the dossier."""

    dimension: str
    factor: str = Field(
        description="expr, spec, dep, drug, allo, sel, tox, clin, strat, T or pharm"
    )
    action: str
    variant: str = Field(description="database=GTEx ...; empty where an assay has one variant")
    level: int | None = Field(description="0 unfavourable to 2 favourable; null is no data")
    said: str = Field(description="the level in words")
    value: float | None = Field(description="drawn inside the reported level's band")
    unit: str
    names: list[str] = Field(description="proteins quoted with the reading")
    step: int


class EvidenceDossier(_Record):
    """Everything read so far, by drawer."""

    expression: list[FindingRecord]
    protein: list[FindingRecord]
    clinical: list[FindingRecord]
    safety: list[FindingRecord]
    literature: list[FindingRecord]
    experimental: list[FindingRecord]
    flagged_red_flags: list[str]
    not_covered: list[str] = Field(description="dimensions that nothing was asked about")


class IntermediateOutput(_Record):
    """One action that was carried out."""

    step: int
    action_type: str
    variant: str
    credits: int
    output: str
    reasoning: str = Field(description="the agent's own words, cut short")
    violations: list[str] = Field(description="soft ones: order, repetition, unknown parameters")

    @property
    def summary(self) -> str:
        """The output, under the name that the published client reads."""
        return self.output


class RefusalRecord(_Record):
    """Why the last answer was not acted on."""

    kind: Literal["malformed", "truncated", "illegal", "budget", "empty"]
    why: str


class ViolationRecord(_Record):
    """One soft violation."""

    step: int
    violation: str


class DrugTargetAction(BaseModel):
    """One decision. Parameters may stand in `parameters` or beside `action_type`."""

    model_config = ConfigDict(extra="allow")

    action_type: str = Field(
        description="one of the 22 forms", json_schema_extra={"enum": list(ACTION_TYPES)}
    )
    parameters: dict[str, Any] | None = Field(None, description="the form's own parameters")
    reasoning: str | None = Field(None, description="at most 200 characters; not graded")
    final_decision: Decision | None = Field(None, description="for submit_validation_report")
    confidence: float | None = Field(
        None, ge=0, le=1, description="chance that final_decision is right"
    )


class ValidationObservation(_Record):
    """Everything the agent may see of one moment of a validation."""

    episode_id: str = Field(description="task, split and seed: what it takes to begin it again")
    task_id: str = Field(description="one of the four tiers")
    target_gene: str = Field(description="the gene's symbol, or its alias where names are hidden")
    target_alias: str
    indication: str = Field(description="the disease")
    disease_context: str = Field(description="line of treatment, selection of patients")
    modality: Literal["small_molecule", "antibody_adc"]
    direction: str = Field(description="inhibit, activate or degrade")
    programme_hypothesis: str = Field(description="what go or no_go is about")
    programme_code: str
    credits_remaining: int
    credits_total: int
    costs: dict[str, int] = Field(description="credits of each form in this case")
    usual_costs: bool = Field(description="whether these are the prices of the briefing")
    step_index: int = Field(description="steps taken; a refused answer counts as one")
    max_steps: int = Field(description="the validation is closed, at a cost, after so many")
    dossier: EvidenceDossier
    pipeline_history: list[IntermediateOutput] = Field(description="actions carried out, in order")
    latest_output: IntermediateOutput | None
    rule_violations: list[ViolationRecord] = Field(description="soft ones, all so far")
    legal_action_types: list[str] = Field(description="forms that are possible now")
    shaped_reward: float = Field(description="reward of the last step")
    reward_parts: dict[str, float] = Field(description="its components; never part of a prompt")
    refusal: RefusalRecord | None = Field(description="why the last answer was not acted on")
    done: bool = Field(description="whether the validation is closed")
    score: float | None = Field(description="the grader's, once done")
    outcome: dict[str, Any] | None = Field(description="what was hidden, once done")


class DrugTargetState(_Record):
    """Counters of a validation; nothing hidden."""

    episode_id: str
    task_id: str
    step_count: int
    max_steps: int
    credits_used: int
    evidence_actions: int
    red_flags: int


# -- what no agent sees: the outcome's `latent_state`, and the server's /debug/latent ------------


class TargetProfile(_Record):
    """The target as it is."""

    levels: dict[str, int] = Field(description="nine factors, 0 unfavourable to 2 favourable")
    modality: Literal["small_molecule", "antibody_adc"]
    expected_in_vitro: int = Field(description="level of pharmacology")
    expected_in_vivo: tuple[int, int] = Field(description="levels of pharmacology and of toxicity")
    true_viability_score: float = Field(description="go is right from .68")
    correct_decision: Decision
    key_evidence_dimensions: list[str]
    misleading_signals: list[str] = Field(description="factors that speak against the decision")


class DataQualityState(_Record):
    """How the evidence errs."""

    noise_level: Literal["clean", "typical", "poor", "hyped"]
    false_positive_rate: float
    false_negative_rate: float
    database_coverage: float


class CreditState(_Record):
    """The purse."""

    credits_total: int
    credits_used: int
    credits_remaining: int


class ValidationProgress(_Record):
    """What has been looked at, and whether a report was filed."""

    investigated: dict[str, bool]
    report_submitted: bool


class FullLatentState(_Record):
    """All of it."""

    target: TargetProfile
    quality: DataQualityState
    credits: CreditState
    progress: ValidationProgress


class BeliefRecord(_Record):
    """The exact posterior on the evidence bought so far."""

    p_go: float
    marginals: dict[str, list[float]] = Field(description="chance of each level of a factor")


class LatentReport(_Record):
    """What /debug/latent tells of an episode under way."""

    latent_state: FullLatentState
    belief: BeliefRecord


# the names by which the server and the OpenEnv adapter find a family's models
Action = DrugTargetAction
Observation = ValidationObservation
State = DrugTargetState
