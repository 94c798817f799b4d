"""What the agent sees: the target, the purse, the dossier, and what was done. Nothing hidden.

Typed inside, JSON by `to_json`. Knows no rewards beyond the ones it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from env_server.contract import JsonObject, Refusal
from env_server.envs.drug_target import rules
from env_server.envs.drug_target.actions import DrugTargetAction

# the part of the dossier that a category of actions fills
DRAWERS: Final[Mapping[str, str]] = {
    "query_expression": "expression",
    "differential_expression": "expression",
    "pathway_enrichment": "expression",
    "coexpression_network": "expression",
    "protein_structure_lookup": "protein",
    "binding_site_analysis": "protein",
    "druggability_screen": "protein",
    "protein_interaction_network": "protein",
    "clinical_trial_lookup": "clinical",
    "patient_stratification": "clinical",
    "request_expert_review": "clinical",
    "toxicity_panel": "safety",
    "off_target_screen": "safety",
    "literature_search": "literature",
    "evidence_synthesis": "literature",
    "competitor_landscape": "literature",
    "crispr_knockout": "experimental",
    "biomarker_correlation": "experimental",
    "in_vitro_assay": "experimental",
    "in_vivo_model": "experimental",
}
DRAWER_NAMES: Final = tuple(dict.fromkeys(DRAWERS.values()))


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the dossier: what a reading reported. `level` None is no data."""

    dimension: str
    factor: str
    action: str
    variant: str  # `database=GTEx`, or nothing
    level: int | None
    said: str  # the level in words
    value: float | None
    unit: str
    step: int
    names: tuple[str, ...] = ()  # off-target proteins, tissues: what may be quoted with it

    def to_json(self) -> JsonObject:
        return {
            "dimension": self.dimension,
            "factor": self.factor,
            "action": self.action,
            "variant": self.variant,
            "level": self.level,
            "said": self.said,
            "value": self.value,
            "unit": self.unit,
            "names": list(self.names),
            "step": self.step,
        }


@dataclass(frozen=True, slots=True)
class Record:
    """One action that was carried out, with its outputs in a line."""

    step: int
    action_type: str
    variant: str
    credits: int
    output: str
    reasoning: str
    violations: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {
            "step": self.step,
            "action_type": self.action_type,
            "variant": self.variant,
            "credits": self.credits,
            "output": self.output,
            "reasoning": self.reasoning,
            "violations": list(self.violations),
        }


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What is to be decided, as the agent reads it."""

    target_gene: str
    target_alias: str
    indication: str
    disease_context: str
    modality: str
    direction: str
    programme_hypothesis: str
    programme_code: str


@dataclass(frozen=True, slots=True)
class ValidationObservation:
    """One moment of a validation."""

    episode_id: str
    task_id: str
    about: Hypothesis
    credits_remaining: int
    credits_total: int
    costs: Mapping[str, int]
    usual_costs: bool
    step_index: int
    max_steps: int
    findings: tuple[Finding, ...]
    flagged: tuple[str, ...]
    seen: frozenset[str]  # dimensions looked at
    bought: tuple[rules.Key, ...]
    history: tuple[Record, ...]
    shaped_reward: float
    reward_parts: Mapping[str, float]
    refusal: Refusal | None
    done: bool
    score: float | None
    told: Callable[[], Mapping[str, Any]] | None  # what was hidden, once done

    def to_json(self) -> JsonObject:
        about, history = self.about, self.history
        return {
            "episode_id": self.episode_id,
            "task_id": self.task_id,
            "target_gene": about.target_gene,
            "target_alias": about.target_alias,
            "indication": about.indication,
            "disease_context": about.disease_context,
            "modality": about.modality,
            "direction": about.direction,
            "programme_hypothesis": about.programme_hypothesis,
            "programme_code": about.programme_code,
            "credits_remaining": self.credits_remaining,
            "credits_total": self.credits_total,
            "costs": dict(self.costs),
            "usual_costs": self.usual_costs,
            "step_index": self.step_index,
            "max_steps": self.max_steps,
            "dossier": self._dossier(),
            "pipeline_history": [r.to_json() for r in history],
            "latest_output": history[-1].to_json() if history else None,
            "rule_violations": [
                {"step": r.step, "violation": v} for r in history for v in r.violations
            ],
            "legal_action_types": list(self.legal_action_types),
            "shaped_reward": self.shaped_reward,
            "reward_parts": dict(self.reward_parts),
            "refusal": self.refusal.to_json() if self.refusal else None,
            "done": self.done,
            "score": self.score,
            "outcome": dict(self.told()) if self.told is not None else None,
        }

    @property
    def legal_action_types(self) -> tuple[str, ...]:
        """The forms that are possible now, in the order of the menu."""
        if self.done:
            return ()
        now = self.legal()
        return tuple(dict.fromkeys(a.action_type for a in now))

    def legal(self) -> tuple[DrugTargetAction, ...]:
        """Every listed action that is possible now."""
        if self.done:
            return ()
        return tuple(
            rules.legal(self.costs, self.credits_remaining, self.seen, self.bought, self.flagged)
        )

    def _dossier(self) -> JsonObject:
        drawers: dict[str, Any] = {name: [] for name in DRAWER_NAMES}
        for finding in self.findings:
            drawers[DRAWERS[finding.action]].append(finding.to_json())
        return {
            **drawers,
            "flagged_red_flags": list(self.flagged),
            "not_covered": [d for d in rules.DIMENSIONS if d not in self.seen],
        }
