"""The kinds of row a table set holds, and the closed vocabularies their columns use.

Knows nothing of files: `tables.py` reads and checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Severity = Literal["mild", "moderate", "severe"]
Recommendation = Literal["avoid_combination", "monitor_closely", "dose_adjust", "no_action"]
CriterionType = Literal["avoid", "caution", "dose_adjust", "avoid_in_condition"]
QtRisk = Literal["none", "conditional", "possible", "known"]
Strength = Literal["weak", "moderate", "strong"]
Formulary = Literal["core", "common", "full"]
ConditionKind = Literal["disease", "state"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
RECOMMENDATIONS: tuple[Recommendation, ...] = get_args(Recommendation)
CRITERION_TYPES: tuple[CriterionType, ...] = get_args(CriterionType)
QT_RISKS: tuple[QtRisk, ...] = get_args(QtRisk)
STRENGTHS: tuple[Strength, ...] = get_args(Strength)
FORMULARIES: tuple[Formulary, ...] = get_args(Formulary)
CONDITION_KINDS: tuple[ConditionKind, ...] = get_args(ConditionKind)

EFFECTS = frozenset(
    {
        "serotonergic",
        "cns_depressant",
        "bleeding",
        "hyperkalaemia",
        "hypokalaemia",
        "hypoglycaemia",
        "hypotension",
        "bradycardia",
        "hyponatraemia",
        "falls",
        "gi_ulcer",
        "nephrotoxic",
        "delirium",
    }
)

# What a criterion may ask that no condition of a patient answers: how a drug is used, or a sum over
# age, weight, laboratory values or the rest of the list. A model that cannot tell leaves such rows alone.
CIRCUMSTANCES: Mapping[str, str] = MappingProxyType(
    {
        "af_or_hf_first_line": "first drug tried for atrial fibrillation or heart failure",
        "age_over_60": "older than 60",
        "atrial_fibrillation_first_line": "first drug tried for atrial fibrillation",
        "chronic_use_no_gastroprotection": "long use without a proton pump inhibitor or misoprostol",
        "copd_monotherapy": "the only drug for chronic obstructive pulmonary disease",
        "first_line": "first drug tried",
        "immediate_release": "the immediate-release form",
        "long_term_use": "long-term use",
        "new_start_af_vte": "newly started for atrial fibrillation or venous thromboembolism",
        "new_start_systemic": "newly started, systemic form",
        "no_psychosis_indication": "taken for neither psychosis nor bipolar disorder",
        "over_200_mg_elemental": "more than 200 mg of the element a day",
        "permanent_af_or_severe_hf": "permanent atrial fibrillation or severe heart failure",
        "primary_prevention": "no vascular disease so far",
        "ras_blocker_and_low_crcl": "with a RAS blocker and poor kidney function",
        "sliding_scale_only": "sliding scale without basal insulin",
        "two_of_age80_weight60_cr133": "two of: age 80 or more, 60 kg or less, creatinine 133 umol/l or more",
        "use_over_8_weeks_no_indication": "longer than 8 weeks without an indication",
    }
)


@dataclass(frozen=True, slots=True)
class Drug:
    """One substance as an older person takes it. Doses are per day, in the unit of `dose_basis`."""

    drug_id: str
    generic_name: str
    atc_class: str
    atc_code: str
    drug_class: str
    substitution_group: str
    is_high_risk_elderly: bool
    is_critical: bool
    needs_taper: bool
    critical_reason: str
    default_dose_mg: float
    min_dose_mg: float
    max_dose_mg: float
    dose_basis: str
    frequency: str
    route: str
    renal_clearance: int
    substrates: frozenset[str]
    inhibitors: tuple[tuple[str, Strength], ...]
    inducers: tuple[tuple[str, Strength], ...]
    acb_score: int
    qt_risk: QtRisk
    effects: frozenset[str]
    indications: tuple[str, ...]
    formulary: Formulary


@dataclass(frozen=True, slots=True)
class Pair:
    """Two drugs that interact, drug_id_1 < drug_id_2."""

    drug_id_1: str
    drug_id_2: str
    severity: Severity
    mechanism: str
    recommendation: Recommendation
    base_risk_score: float
    evidence: str


@dataclass(frozen=True, slots=True)
class Criterion:
    """A reason to be careful with one drug in an older person.

    It holds for everybody where both gates are None; where `condition` names a condition, for those who
    have it; where it names one of CIRCUMSTANCES, for those in it; where `crcl_below` is given, for those
    whose creatinine clearance (ml/min) is below it.
    """

    drug_id: str
    criterion_type: CriterionType
    condition: str | None
    crcl_below: float | None
    rationale: str
    source_table: str

    @property
    def circumstance(self) -> str | None:
        """The condition, if it is something that no condition of a patient can show."""
        return self.condition if self.condition in CIRCUMSTANCES else None


@dataclass(frozen=True, slots=True)
class Alternative:
    """A safer drug for the same condition; rank 1 is tried first."""

    drug_id: str
    alternative_id: str
    rank: int
    indication: str
    note: str


@dataclass(frozen=True, slots=True)
class Condition:
    """Something a patient has: a disease that drugs treat, or a state that only gates criteria.

    `need_weight` is the cost in [0, 1] of leaving it untreated, `prevalence` a relative weight at 75.
    """

    condition_id: str
    name: str
    kind: ConditionKind
    critical: bool
    need_weight: float
    prevalence: float
    treated_by: tuple[str, ...]


# The header of each file; a test holds this to the shipped tables.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "conditions.csv": (
        "condition_id",
        "name",
        "kind",
        "critical",
        "need_weight",
        "prevalence",
        "treated_by",
    ),
    "drug_metadata.csv": (
        "drug_id",
        "generic_name",
        "atc_class",
        "is_high_risk_elderly",
        "default_dose_mg",
        "min_dose_mg",
        "max_dose_mg",
        "is_critical",
        "critical_reason",
        "atc_code",
        "drug_class",
        "substitution_group",
        "dose_basis",
        "frequency",
        "route",
        "renal_clearance",
        "cyp_transport_substrate",
        "inhibitor",
        "inducer",
        "acb_score",
        "qt_risk",
        "effects",
        "needs_taper",
        "indications",
        "formulary",
    ),
    "ddi_rules.csv": (
        "drug_id_1",
        "drug_id_2",
        "severity",
        "mechanism",
        "recommendation",
        "base_risk_score",
        "evidence",
    ),
    "beers_criteria.csv": (
        "drug_id",
        "criterion_type",
        "condition",
        "crcl_below",
        "rationale",
        "source_table",
    ),
    "alternatives.csv": (
        "drug_id",
        "alternative_id",
        "rank",
        "indication",
        "note",
    ),
}
