"""What an agent may do in a medication review, and how such a decision is read strictly.

Knows the forms, not the patient: whether a form is possible now is the episode's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal, cast, get_args

from env_server.contract import JsonObject, Refusal, nearest

ActionType = Literal["query_ddi", "propose_intervention", "finish_review"]
InterventionType = Literal["stop", "dose_reduce", "substitute", "add_monitoring"]

ACTION_TYPES: Final = get_args(ActionType)
INTERVENTION_TYPES: Final = get_args(InterventionType)
MAX_RATIONALE: Final = 500  # characters kept of a free-text reason
_FIELDS: Final = (
    "action_type",
    "drug_id_1",
    "drug_id_2",
    "target_drug_id",
    "intervention_type",
    "proposed_new_drug_id",
    "rationale",
)


@dataclass(frozen=True, slots=True)
class ReviewAction:
    """One decision of a review; fields of other forms stay None."""

    action_type: ActionType
    drug_id_1: str | None = None
    drug_id_2: str | None = None
    target_drug_id: str | None = None
    intervention_type: InterventionType | None = None
    proposed_new_drug_id: str | None = None
    rationale: str | None = None

    def to_json(self) -> JsonObject:
        """The decision's own fields in the schema's order, without nulls."""
        return {f: v for f in _FIELDS if (v := getattr(self, f)) is not None}


FINISH: Final = ReviewAction("finish_review")


@lru_cache(
    maxsize=65536
)  # a review lists its legal actions often, and they are always the same few
def query(drug_id_1: str, drug_id_2: str) -> ReviewAction:
    """Ask what the pair does together; the order of the two is immaterial."""
    first, second = sorted((drug_id_1, drug_id_2))
    return ReviewAction("query_ddi", drug_id_1=first, drug_id_2=second)


def intervene(
    target: str, kind: InterventionType, new_drug: str | None = None, rationale: str | None = None
) -> ReviewAction:
    """Change one drug of the regimen; `new_drug` goes with substitute (None = best listed)."""
    if rationale is None:
        return _unexplained(target, kind, new_drug)
    return replace(_unexplained(target, kind, new_drug), rationale=rationale)


@lru_cache(maxsize=65536)
def _unexplained(target: str, kind: InterventionType, new_drug: str | None) -> ReviewAction:
    return ReviewAction(
        "propose_intervention",
        target_drug_id=target,
        intervention_type=kind,
        proposed_new_drug_id=new_drug,
    )


def from_json(payload: object) -> ReviewAction | Refusal:
    """Read one action strictly: an object with the form's own fields, others absent or null."""
    if not isinstance(payload, Mapping):
        return _malformed(f"an action is a JSON object, not {type(payload).__name__}")
    for key in payload:
        if key not in _FIELDS and key != "metadata":  # stock OpenEnv clients always send metadata
            return _malformed(f"unknown field {key!r}{nearest(str(key), _FIELDS)}")
    for key in _FIELDS:
        value = payload.get(key)
        if value is not None and not isinstance(value, str):
            return _malformed(f"{key} must be a string, not {type(value).__name__}")
    kind = payload.get("action_type")
    if kind == "query_ddi":
        return _read_query(payload)
    if kind == "propose_intervention":
        return _read_intervention(payload)
    if kind == "finish_review":
        return FINISH
    return _malformed(
        f"action_type {kind!r} is none of {', '.join(ACTION_TYPES)}{nearest(str(kind), ACTION_TYPES)}"
    )


def _read_query(payload: Mapping[str, str]) -> ReviewAction | Refusal:
    first, second = payload.get("drug_id_1"), payload.get("drug_id_2")
    if not first or not second:
        return _malformed("query_ddi needs drug_id_1 and drug_id_2")
    if first == second:
        return _malformed(f"query_ddi needs two different drugs, not {first!r} twice")
    return query(first, second)


def _read_intervention(payload: Mapping[str, str]) -> ReviewAction | Refusal:
    # the source document lists drug_id_1 "for some interventions": accepted where the target is absent
    target = payload.get("target_drug_id") or payload.get("drug_id_1")
    kind = payload.get("intervention_type")
    if not target:
        return _malformed("propose_intervention needs target_drug_id")
    if kind not in INTERVENTION_TYPES:
        return _malformed(
            f"intervention_type {kind!r} is none of {', '.join(INTERVENTION_TYPES)}"
            f"{nearest(str(kind), INTERVENTION_TYPES)}"
        )
    new_drug = payload.get("proposed_new_drug_id") or None
    if new_drug and kind != "substitute":
        return _malformed(f"proposed_new_drug_id goes with substitute, not with {kind}")
    rationale = payload.get("rationale")
    reason = rationale[:MAX_RATIONALE] if rationale else None
    return intervene(target, cast(InterventionType, kind), new_drug, reason)


def _malformed(why: str) -> Refusal:
    return Refusal("malformed", why)


def schema() -> JsonObject:
    """JSON schema of an action: one branch a form, no field of another form allowed."""

    def form(
        kind: str, required: dict[str, JsonObject], optional: dict[str, JsonObject]
    ) -> JsonObject:
        return {
            "type": "object",
            "title": kind,
            "properties": {"action_type": {"const": kind}, **required, **optional},
            "required": ["action_type", *required],
            "additionalProperties": False,
        }

    drug: JsonObject = {"type": "string", "description": "a drug_id"}
    return {
        "title": "PolypharmacyAction",
        "oneOf": [
            form("query_ddi", {"drug_id_1": drug, "drug_id_2": drug}, {}),
            form(
                "propose_intervention",
                {
                    "target_drug_id": drug,
                    "intervention_type": {"enum": list(INTERVENTION_TYPES)},
                },
                {
                    "proposed_new_drug_id": drug,
                    "rationale": {"type": "string", "maxLength": MAX_RATIONALE},
                },
            ),
            form("finish_review", {}, {}),
        ],
    }
