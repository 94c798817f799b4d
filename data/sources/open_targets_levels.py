"""What Open Targets' answers say of a target: one pure function an answer, each with its rule.

Knows the shapes of both generations and levels; nothing of how they are fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any, Final

from data.drug_target.records import Modality
from data.sources.finding import Disease, Judged
from data.sources.why_stopped import why_stopped

ROWS: Final = 500  # of drugs or evidence that are asked for at once

_STRONG: Final[Mapping[Modality, tuple[str, ...]]] = MappingProxyType(
    {
        "small_molecule": (
            "Approved Drug",
            "Advanced Clinical",
            "Phase 1 Clinical",
            "High-Quality Ligand",
        ),
        "antibody_adc": (
            "Approved Drug",
            "Advanced Clinical",
            "Phase 1 Clinical",
            "UniProt loc high conf",
        ),
    }
)
_BUCKET: Final[Mapping[Modality, str]] = MappingProxyType(
    {"small_molecule": "SM", "antibody_adc": "AB"}
)


def tractability(rows: Sequence[Mapping[str, Any]], modality: Modality) -> Judged:
    """Level of `drug` from the booleans of this modality alone.

    2: a drug in people, a high-quality ligand, or for an antibody a place on the surface with high
    confidence. 1: any other of its labels. 0: none of them is true. None: the modality is not assessed.
    """
    own = [row for row in rows if row.get("modality") == _BUCKET[modality]]
    if not own:
        return Judged("drug", None, f"tractability of {_BUCKET[modality]} was not assessed")
    true = [str(row["label"]) for row in own if row.get("value") is True]
    strong = [label for label in _STRONG[modality] if label in true]
    others = sorted({str(r["modality"]) for r in rows if r.get("value") is True and r not in own})
    remarks = (
        [f"also tractable by: {', '.join(others)}, which this programme is not"] if others else []
    )
    level = 2 if strong else 1 if true else 0
    said = ", ".join(strong or true) or f"none of {len(own)} labels holds"
    return Judged(
        "drug", level, f"{_BUCKET[modality]}: {said}", float(len(true)), "labels", tuple(remarks)
    )


_VITAL: Final = (
    "heart",
    "cardi",
    "liver",
    "hepat",
    "brain",
    "lung",
    "pulmon",
    "kidney",
    "renal",
    "marrow",
    "haemat",
    "hemat",
    "respir",
)
_DOWN: Final = ("inhibition", "decrease", "downregulation", "loss")


def safety(liabilities: Sequence[Mapping[str, Any]]) -> Judged:
    """Level of `tox` for a drug that lowers the target's activity.

    Effects of raising it do not count. 0: an organ that matters for life, in two sources or more.
    1: any other effect. None: nothing is listed, which is not the same as safe.
    """
    lowering = [one for one in liabilities if _speaks_of_lowering(one)]
    raising = len(liabilities) - len(lowering)
    remarks = [f"effects of raising its activity, left aside: {raising}"] if raising else []
    if not lowering:
        remarks.append("an empty list means that nobody listed anything")
        return Judged("tox", None, "no safety liability listed", remarks=tuple(remarks))
    vital = [one for one in lowering if _vital(one)]
    sources = {str(one.get("datasource")) for one in vital}
    events = list(dict.fromkeys(str(one.get("event")) for one in (*vital, *lowering)))
    return Judged(
        "tox",
        0 if len(sources) >= 2 else 1,
        f"{len(lowering)} liabilities, {len(vital)} of organs that matter for life: {', '.join(events[:4])}",
        float(len(lowering)),
        "liabilities",
        tuple(remarks),
        tuple(str(one["eventId"]) for one in lowering if one.get("eventId"))[:8],
    )


def _speaks_of_lowering(liability: Mapping[str, Any]) -> bool:
    told = [str(effect.get("direction", "")).lower() for effect in liability.get("effects") or ()]
    return not told or any(word in direction for direction in told for word in _DOWN)


def _vital(liability: Mapping[str, Any]) -> bool:
    where = [str(b.get("tissueLabel") or "") for b in liability.get("biosamples") or ()]
    said = " ".join([str(liability.get("event") or ""), *where]).lower()
    return any(word in said for word in _VITAL)


STRONG_EFFECT, SOME_EFFECT, COMMON = -0.6, -0.2, 0.9


def dependency(tissues: Sequence[Mapping[str, Any]], disease: Disease | None) -> Judged:
    """Level of `dep` from the median gene effect of the cancer's cell lines, or of all of them.

    2: at or below -0.6. 1: at or below -0.2. 0: above. None: no line of this tissue was screened.
    """
    screens = [
        float(screen["geneEffect"])
        for tissue in tissues
        if disease is None or _tissue(str(tissue.get("tissueName", "")), disease)
        for screen in tissue.get("screens") or ()
        if screen.get("geneEffect") is not None
    ]
    where = "all tissues" if disease is None else ", ".join(disease.tissues)
    if not screens:
        return Judged("dep", None, f"no cell line of {where} was screened")
    effect = median(screens)
    remarks = [] if disease is None else ["lines are matched by tissue, not by subtype or mutation"]
    everywhere = [
        float(s["geneEffect"])
        for t in tissues
        for s in t.get("screens") or ()
        if s.get("geneEffect") is not None
    ]
    if sum(e <= STRONG_EFFECT for e in everywhere) >= COMMON * len(everywhere):
        remarks.append(
            "nearly every line of every tissue needs it: no window between tumour and patient"
        )
    level = 2 if effect <= STRONG_EFFECT else 1 if effect <= SOME_EFFECT else 0
    dependent = sum(e <= STRONG_EFFECT for e in screens)
    return Judged(
        "dep",
        level,
        f"median gene effect {effect:.2f} in {len(screens)} lines of {where}; {dependent} at -0.6 or below",
        round(effect, 3),
        "gene effect",
        tuple(remarks),
    )


def _tissue(name: str, disease: Disease) -> bool:
    return any(word in name.lower() for word in disease.tissues)


_STOPPED: Final = ("withdrawn", "terminated", "suspended")
_APPROVED_STAGES: Final = ("APPROVAL", "PHASE_4")


@dataclass(frozen=True, slots=True)
class _Step:
    """One drug in this cancer: whether it is approved, and whether a trial says that it failed."""

    drug: str
    approved: bool
    failed: bool
    trials: tuple[str, ...] = ()


def precedent_2025(known: Mapping[str, Any], disease: Disease) -> Judged:
    """Level of `clin` from `knownDrugs`: 2 approved in this cancer, 1 anything else in it.

    It tells that a trial was stopped and not why, so that it can never say 0.
    """
    rows = known.get("rows") or []
    here = [row for row in rows if _here(row.get("disease") or {}, disease)]
    ended = [row for row in here if str(row.get("status") or "").lower() in _STOPPED]
    steps = [
        _Step(
            _drug(row),
            float(row.get("phase") or 0) >= 4 and row not in ended,
            False,
            tuple(str(one) for one in row.get("ctIds") or ()),
        )
        for row in here
    ]
    remarks = [f"stopped without a reason: {len(ended)}"] if ended else []
    cut = int(known.get("count") or 0) > len(rows)
    return _precedent(steps, len(rows) - len(here), cut, remarks)


def precedent_2026(
    evidence: Mapping[str, Any], candidates: Mapping[str, Any], disease: Disease
) -> Judged:
    """The same from `clinical_precedence` evidence, whose stage is of this disease; 0 where all failed.

    `maxClinicalStage` of a candidate is over all its diseases: it only counts who is elsewhere.
    """
    rows = evidence.get("rows") or []
    steps = [
        _Step(
            _drug(row),
            str(row.get("clinicalStage") or "") in _APPROVED_STAGES,
            bool({"safety", "efficacy"} & set(why_stopped(row.get("studyStopReason")))),
        )
        for row in rows
        if _here(row.get("disease") or {}, disease)
    ]
    drugs = {step.drug for step in steps}
    elsewhere = sum(_drug(row) not in drugs for row in candidates.get("rows") or [])
    return _precedent(steps, elsewhere, int(evidence.get("count") or 0) > len(rows), [])


def _precedent(steps: Sequence[_Step], elsewhere: int, cut: bool, remarks: list[str]) -> Judged:
    if elsewhere:
        remarks = [*remarks, f"programmes in other diseases, no precedent here: {elsewhere}"]
    if cut:
        remarks = [*remarks, f"there are more rows than the {ROWS} that were asked for"]
    if not steps:
        return Judged("clin", None, "no programme in this cancer", remarks=tuple(remarks))
    approved = sorted({step.drug for step in steps if step.approved})
    drugs = {step.drug for step in steps}
    return Judged(
        "clin",
        2 if approved else 0 if all(step.failed for step in steps) else 1,
        f"{len(drugs)} drugs in this cancer; approved: {', '.join(approved[:4]) or 'none'}",
        float(len(drugs)),
        "drugs",
        tuple(remarks),
        tuple(dict.fromkeys(one for step in steps for one in step.trials))[:8],
    )


def _here(told: Mapping[str, Any], disease: Disease) -> bool:
    return disease.is_named(str(told.get("name") or ""), str(told.get("id") or "") or None)


def _drug(row: Mapping[str, Any]) -> str:
    drug = row.get("drug") or {}
    return str(drug.get("name") or drug.get("id") or "unnamed")
