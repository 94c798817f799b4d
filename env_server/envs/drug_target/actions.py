"""What an agent may do, how a decision is read, and which ways of running an assay differ.

Knows the forms, not the case. Reading is strict about the form and forgiving about its parameters:
an unknown value is replaced by the default, and said so in `slips`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, cast

from data.drug_target.records import Assay, Parameter, Variant
from data.drug_target.tables import load
from env_server.contract import JsonObject, Refusal, canonical, nearest
from env_server.envs.drug_target.biology import DECISIONS, FLAGGABLE, Decision

Value = str | bool | int | float
REPORT: Final = "submit_validation_report"
FLAG: Final = "flag_red_flag"
EXPERT: Final = "request_expert_review"
SYNTHESIS: Final = "evidence_synthesis"
ASSAYS: Final[Mapping[str, Assay]] = load().assays
ACTION_TYPES: Final = tuple(ASSAYS)
EVIDENCE: Final = tuple(a for a in ACTION_TYPES if ASSAYS[a].variants)
# confidences that the list of legal actions offers; any other in [0, 1] is accepted as well
CONFIDENCES: Final = (0.5, 0.65, 0.8, 0.9, 0.98)
MAX_REASONING: Final = 200
MAX_SUMMARY: Final = 600
# what stands beside the parameters; the last few are words that models add and that decide nothing
_COMMON: Final = (
    "action_type",
    "parameters",
    "reasoning",
    "metadata",
    "thought",
    "thoughts",
    "thinking",
    "analysis",
    "explanation",
    "comment",
)
# other names of a field, in lower case
_FIELD_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "db": "database",
        "data_source": "database",
        "geneset": "gene_set",
        "gene_sets": "gene_set",
        "allosteric": "include_allosteric",
        "model_type": "model",
        "assay_type": "assay",
        "decision": "final_decision",
        "conf": "confidence",
        "probability": "confidence",
        "factor": "dimension",
    }
)
_REPORT_FIELDS: Final = ("final_decision", "confidence", "summary")

# other spellings of a parameter's value, in lower case; case alone never matters
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gtex portal": "GTEx",
        "gtex_v8": "GTEx",
        "human protein atlas": "HPA",
        "proteinatlas": "HPA",
        "depmap": "CCLE",
        "tcga-luad": "TCGA",
        "tcga-brca": "TCGA",
        "tcga_gtex": "TCGA_vs_GTEx",
        "tcga vs gtex": "TCGA_vs_GTEx",
        "alphafold": "AlphaFoldDB",
        "afdb": "AlphaFoldDB",
        "rcsb": "PDB",
        "del": "dna_encoded",
        "dna-encoded": "dna_encoded",
        "string-db": "STRING",
        "stringdb": "STRING",
        "ct.gov": "ClinicalTrials.gov",
        "clinicaltrials": "ClinicalTrials.gov",
        "clinicaltrials_gov": "ClinicalTrials.gov",
        "eu_ctr": "EUCTR",
        "liver": "hepatic",
        "heart": "cardiac",
        "hematologic": "haematologic",
        "blood": "haematologic",
        "proteome": "proteome_wide",
        "proteome-wide": "proteome_wide",
        "kinase": "kinome",
        "safety panel": "safety44",
        "toxicity": "safety",
        "tractability": "druggability",
        "dependency": "efficacy",
        "matched": "disease_matched",
        "viability": "cell_viability",
        "biochem": "biochemical",
        "selectivity": "selectivity_panel",
        "cdx": "xenograft",
        "patient_derived_xenograft": "pdx",
    }
)
_DECISION_ALIASES: Final[Mapping[str, Decision]] = MappingProxyType(
    {
        "go": "go",
        "advance": "go",
        "proceed": "go",
        "no_go": "no_go",
        "no-go": "no_go",
        "no go": "no_go",
        "nogo": "no_go",
        "stop": "no_go",
        "reject": "no_go",
    }
)


@dataclass(frozen=True, slots=True)
class DrugTargetAction:
    """One decision. `parameters` holds every parameter of the form, defaults filled in."""

    action_type: str
    parameters: tuple[tuple[str, Value], ...] = ()
    final_decision: Decision | None = None
    confidence: float | None = None
    reasoning: str = field(default="", compare=False)
    slips: tuple[str, ...] = field(default=(), compare=False)  # soft violations of how it was put
    # what was said and not understood: read again it slips again, here, on a server and in a replay
    unread: tuple[tuple[str, Any], ...] = field(default=(), compare=False)

    def to_json(self) -> JsonObject:
        """The decision as it was put: read again, it does the same and is charged the same."""
        body = self.told()
        for name, _ in self.unread:
            body.pop(name, None)
        if self.unread:
            body["action_type"], body["parameters"] = self.action_type, dict(self.unread)
        return body | ({"reasoning": self.reasoning} if self.reasoning else {})

    def told(self) -> JsonObject:
        """The decision in its flat form: what tells it from others, without defaults that only show."""
        body: JsonObject = {"action_type": self.action_type}
        defaults = {p.name: p.default for p in ASSAYS[self.action_type].parameters}
        telling = _telling(self.action_type)
        for name, value in self.parameters:
            if name in telling or value != defaults[name]:
                body[name] = value
        if self.final_decision is not None:
            body["final_decision"] = self.final_decision
        if self.confidence is not None:
            body["confidence"] = self.confidence
        return body

    @property
    def variant(self) -> Variant | None:
        """The way of running the assay; None for flags and reports."""
        return _variant(self.action_type, self.parameters)


@lru_cache(maxsize=64)
def _telling(action_type: str) -> frozenset[str]:
    """Parameters that decide what is read: those of the variants, and the flagged dimension."""
    named = {n for v in ASSAYS[action_type].variants for n, _ in v.parameters}
    return frozenset(named | ({"dimension"} if action_type == FLAG else set()))


@lru_cache(maxsize=4096)
def _variant(action_type: str, parameters: tuple[tuple[str, Value], ...]) -> Variant | None:
    given = dict(parameters)
    for variant in ASSAYS[action_type].variants:
        if all(given[name] == value for name, value in variant.parameters):
            return variant
    return None


def order(action_type: str, variant: Variant | None = None, **named: Value) -> DrugTargetAction:
    """The action of a variant, or of named parameters; the rest at their defaults."""
    given: dict[str, Value] = {**named, **dict(variant.parameters if variant else ())}
    filled = tuple(
        (p.name, given.get(p.name, cast(Value, p.default))) for p in ASSAYS[action_type].parameters
    )
    return DrugTargetAction(action_type, filled)


def report(decision: Decision, confidence: float) -> DrugTargetAction:
    """The closing report: the decision, and how likely it is right."""
    return DrugTargetAction(REPORT, (), decision, confidence)


ORDERS: Final = tuple(order(name, v) for name in EVIDENCE for v in ASSAYS[name].variants)
FLAGS: Final = tuple(order(FLAG, dimension=word) for word in FLAGGABLE)
REPORTS: Final = tuple(report(d, c) for d in DECISIONS for c in CONFIDENCES)
DISCRETE: Final[tuple[DrugTargetAction, ...]] = (*ORDERS, *FLAGS, *REPORTS)


# -- reading ----------------------------------------------------------------------------------


def from_json(payload: object) -> DrugTargetAction | Refusal:
    """Read one action, flat or with its parameters in an object of their own."""
    if not isinstance(payload, Mapping):
        return _malformed(f"an action is a JSON object, not {type(payload).__name__}")
    kind = payload.get("action_type")
    if not isinstance(kind, str) or kind not in ASSAYS:
        return _malformed(
            f"action_type {kind!r} is none of the 22{nearest(str(kind), ACTION_TYPES)}"
        )
    nested = payload.get("parameters") or {}
    if not isinstance(nested, Mapping):
        return _malformed(f"parameters must be an object, not {type(nested).__name__}")
    assay = ASSAYS[kind]
    beside = {k: v for k, v in payload.items() if k not in _COMMON}
    given = {_field(str(k)): v for k, v in {**nested, **beside}.items()}
    reasoning = payload.get("reasoning")
    reasoning = _sound(reasoning[:MAX_REASONING]) if isinstance(reasoning, str) else ""
    if kind == REPORT:
        return _read_report(given, reasoning)
    return _read_order(assay, given, reasoning)


def _field(name: str) -> str:
    folded = name.lower()
    return _FIELD_ALIASES.get(folded, folded)


def _read_order(
    assay: Assay, given: Mapping[str, Any], reasoning: str
) -> DrugTargetAction | Refusal:
    slips: list[str] = []
    unread: list[tuple[str, Any]] = []
    filled: list[tuple[str, Value]] = []
    known = {p.name for p in assay.parameters}
    for name, value in given.items():
        if value is None or name in known or name in _REPORT_FIELDS:
            continue
        slips.append(f"{assay.action_type} has no {str(name)[:40]!r}")
        unread.append((name, _kept(value)))
    for parameter in assay.parameters:
        value = given.get(parameter.name)
        read = None if value is None else _read(parameter, value)
        if read is None and parameter.default is None:
            allowed = ", ".join(parameter.values)
            return _malformed(f"{assay.action_type} needs {parameter.name}: one of {allowed}")
        if value is not None and read is None:
            slips.append(
                f"{parameter.name} {str(value)[:40]!r} is not known, {parameter.default!r} taken"
            )
            unread.append((parameter.name, _kept(value)))
        filled.append((parameter.name, cast(Value, parameter.default) if read is None else read))
    return DrugTargetAction(
        assay.action_type,
        tuple(filled),
        reasoning=reasoning,
        slips=tuple(slips),
        unread=tuple(unread),
    )


def _kept(value: object) -> object:
    """A value that can be written down, as it was said or as near as JSON comes."""
    try:
        canonical(value)
    except (ValueError, TypeError):  # NaN, half a character
        return ascii(value)[:40]
    return value


def _sound(said: str) -> str:
    """The text without halves of characters, which no UTF-8 can hold."""
    return said.encode("utf-8", "replace").decode()


def _read(parameter: Parameter, value: object) -> Value | None:
    """The value in the parameter's own spelling, or None where it has none."""
    if parameter.kind == "enum":
        return _spelled(value, parameter.values)
    if parameter.kind == "bool":
        words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        return words.get(str(value).strip().lower())
    if parameter.kind == "str":
        return value[: int(parameter.high)] if isinstance(value, str) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not isfinite(value) or not parameter.low <= value <= parameter.high:
        return None
    return int(value) if parameter.kind == "int" else float(value)


def _spelled(value: object, allowed: tuple[str, ...]) -> str | None:
    if not isinstance(value, str):
        return None
    folded = value.strip().lower()
    meant = ALIASES.get(folded, folded)
    return next((a for a in allowed if a.lower() in (folded, meant.lower())), None)


def _read_report(given: Mapping[str, Any], reasoning: str) -> DrugTargetAction | Refusal:
    """A report may lack its decision or its confidence: it is then filed, and charged for."""
    unread = tuple(
        (name, _kept(value))
        for name, value in given.items()
        if value is not None and name not in _REPORT_FIELDS
    )
    slips = tuple(f"{REPORT} has no {name[:40]!r}" for name, _ in unread)
    decision, confidence = given.get("final_decision"), given.get("confidence")
    meant = None
    if decision is not None:
        meant = _DECISION_ALIASES.get(str(decision).strip().lower())
        if meant is None:
            return _malformed(f"final_decision {str(decision)[:40]!r} is neither go nor no_go")
    sure = None
    if confidence is not None:
        sure = probability(confidence)
        if sure is None:
            return _malformed(
                f"confidence {str(confidence)[:40]!r} is no probability; write 0 to 1"
            )
    return DrugTargetAction(REPORT, (), meant, sure, reasoning, slips, unread)


def probability(value: object) -> float | None:
    """0.85, "0.85", "85%" and 85 all mean 0.85; None where it is no probability."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        percent = text.endswith("%")
        try:
            number = float(text.rstrip("% "))
        except ValueError:
            return None
        if percent:
            number /= 100
            return number if 0 <= number <= 1 else None
    elif isinstance(value, (int, float)):
        number = float(value)
    else:
        return None
    if 1 < number <= 100:
        number /= 100
    return number if isfinite(number) and 0 <= number <= 1 else None


def _malformed(why: str) -> Refusal:
    return Refusal("malformed", why)


# -- schema -----------------------------------------------------------------------------------


def schema() -> JsonObject:
    """JSON schema of an action: one branch a form, its parameters beside `action_type`."""
    return {"title": "DrugTargetAction", "oneOf": [_form(assay) for assay in ASSAYS.values()]}


def _form(assay: Assay) -> JsonObject:
    properties: dict[str, JsonObject] = {"action_type": {"const": assay.action_type}}
    required = ["action_type"]
    for parameter in assay.parameters:
        properties[parameter.name] = _property(parameter)
        if parameter.name in _telling(assay.action_type):
            required.append(parameter.name)
    if assay.action_type == REPORT:
        properties["final_decision"] = {"enum": list(DECISIONS)}
        properties["confidence"] = {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "0 to 1",
        }
        required += ["final_decision", "confidence"]
        properties["summary"] = {"type": "string", "maxLength": MAX_SUMMARY}
    properties["reasoning"] = {"type": "string", "maxLength": MAX_REASONING}
    return {
        "type": "object",
        "title": assay.action_type,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _property(parameter: Parameter) -> JsonObject:
    if parameter.kind == "enum":
        return {"enum": list(parameter.values)}
    if parameter.kind == "bool":
        return {"type": "boolean", "description": "true or false"}
    if parameter.kind == "str":
        return {"type": "string", "maxLength": int(parameter.high)}
    kind = "integer" if parameter.kind == "int" else "number"
    return {"type": kind, "minimum": parameter.low, "maximum": parameter.high}
