"""Open Targets: tractability, safety, dependency and clinical precedent of a target, over GraphQL.

Its schema was renamed in 2026: what `knownDrugs` and the evidence source `chembl` told is told by
`drugAndClinicalCandidates` and `clinical_precedence`. Which one speaks is found out by introspection.
Errors come with HTTP 200. Knows the two generations and the level rules; nothing of other sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from types import MappingProxyType
from typing import Any, Final, Literal

from data.drug_target.records import Modality
from data.sources.finding import Disease, Finding, Judged, Params, Subject, check_offered
from data.sources.why_stopped import why_stopped
from data.sources.wire import Garbled, Refused, Request, SourceError, Wire

HOME: Final = "https://api.platform.opentargets.org/api/v4/graphql"
Generation = Literal["2025", "2026"]
ROWS: Final = 500

_PROBE: Final = 'query Generation { __type(name: "Target") { fields { name } } }'
_HEAD: Final = "target(ensemblId: $ensemblId) { id approvedSymbol"
QUERIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Disease": 'query Disease($name: String!) { search(queryString: $name, entityNames: ["disease"],'
        " page: { index: 0, size: 10 }) { hits { id name entity } } }",
        "Tractability": f"query Tractability($ensemblId: String!) {{ {_HEAD} tractability {{ modality label value }} }} }}",
        "Safety": f"query Safety($ensemblId: String!) {{ {_HEAD} safetyLiabilities {{ event eventId biosamples {{ tissueLabel }}"
        " effects { direction dosing } datasource literature } } }",
        "Essentiality": f"query Essentiality($ensemblId: String!) {{ {_HEAD} depMapEssentiality {{ tissueName"
        " screens { geneEffect expression cellLineName } } } }",
        "Precedent2025": f"query Precedent2025($ensemblId: String!, $size: Int!) {{ {_HEAD} knownDrugs(size: $size)"
        " { count rows { phase status drug { id name } disease { id name } ctIds } } } }",
        "Precedent2026": "query Precedent2026($ensemblId: String!, $efoIds: [String!]!, $size: Int!) {"
        f" {_HEAD} drugAndClinicalCandidates {{ count rows {{ maxClinicalStage drug {{ id name }}"
        " diseases { disease { id name } } clinicalReports { id } } }"
        ' evidences(efoIds: $efoIds, datasourceIds: ["clinical_precedence"], size: $size)'
        " { count rows { clinicalStage directionOnTrait drug { id name } disease { id name } studyStopReason } } } }",
    }
)
_GENERAL: Final[Params] = MappingProxyType({"panel": "general"})
_MATCHED: Final[Params] = MappingProxyType({"panel": "disease_matched"})
_ALL_CANCERS: Final[Params] = MappingProxyType({"panel": "pan_cancer"})


class UnknownTarget(SourceError):
    """Open Targets has no gene of this identifier, or no disease of this name."""


class OpenTargets:
    """Four kinds of evidence of one gene."""

    name = "opentargets"
    offers: tuple[tuple[str, Params], ...] = (
        ("protein_structure_lookup", {"source": "PDB"}),
        ("toxicity_panel", _GENERAL),
        ("crispr_knockout", _MATCHED),
        ("crispr_knockout", _ALL_CANCERS),
        ("competitor_landscape", {}),
    )

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._generation: Generation | None = None

    def fetch(self, target: Subject, indication: Disease, action: str, params: Params) -> Finding:
        check_offered(self, action, params)
        self._wire.asked.clear()
        if action == "protein_structure_lookup":
            told = self._target(target, "Tractability")
            judged = tractability(told.get("tractability") or [], target.modality)
        elif action == "toxicity_panel":
            judged = safety(self._target(target, "Safety").get("safetyLiabilities") or [])
        elif action == "crispr_knockout":
            told = self._target(target, "Essentiality")
            matched = params["panel"] == "disease_matched"
            judged = dependency(
                told.get("depMapEssentiality") or [], indication if matched else None
            )
        else:
            judged = self._precedent(target, indication)
        return Finding(
            self.name,
            f"{self._wire.release} (schema {self.generation()})"
            if action == "competitor_landscape"
            else self._wire.release,
            target.symbol,
            indication.key,
            action,
            tuple(params.items()),
            judged,
            tuple(dict.fromkeys(self._wire.asked)),
        )

    def generation(self) -> Generation:
        """Which schema this server speaks, asked once."""
        if self._generation is None:
            payload = self._ask("Generation", _PROBE, {})
            self._generation = generation(payload)
        return self._generation

    def _precedent(self, target: Subject, indication: Disease) -> Judged:
        if self.generation() == "2025":
            told = self._target(target, "Precedent2025", size=ROWS)
            return precedent_2025(told.get("knownDrugs") or {}, indication)
        found = self._ask("Disease", QUERIES["Disease"], {"name": indication.name})
        known = replace(indication, ids=disease_ids(found, indication))
        told = self._target(target, "Precedent2026", size=ROWS, efoIds=list(known.ids))
        return precedent_2026(
            told.get("evidences") or {}, told.get("drugAndClinicalCandidates") or {}, known
        )

    def _target(self, target: Subject, operation: str, **more: Any) -> Mapping[str, Any]:
        variables = {"ensemblId": target.ensembl, **more}
        data = self._ask(operation, QUERIES[operation], variables)
        found = data.get("target")
        if not isinstance(found, Mapping):
            raise UnknownTarget(
                f"Open Targets knows no target {target.ensembl} ({target.symbol}); give its Ensembl gene id, without a version"
            )
        return found

    def _ask(self, operation: str, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        request = Request(
            HOME, body={"operationName": operation, "query": query, "variables": dict(variables)}
        )
        payload = self._wire.json(request, lambda told: data_of(told, operation))
        return data_of(payload, operation)


def data_of(payload: Any, operation: str) -> Mapping[str, Any]:
    """What a GraphQL answer holds. Raises Refused where it is errors, HTTP 200 or not; Garbled."""
    if not isinstance(payload, Mapping):
        raise Garbled(f"Open Targets answered {operation} with {type(payload).__name__}")
    errors = payload.get("errors")
    if errors:
        said = "; ".join(str(e.get("message", e)) for e in errors)
        raise Refused(
            f"Open Targets refused {operation}: {said[:300]}. Its schema may have changed again:"
            " see https://api.platform.opentargets.org/api/v4/graphql/browser"
        )
    data = payload.get("data")
    if not isinstance(data, Mapping):
        raise Garbled(f"Open Targets answered {operation} without data")
    return data


def generation(data: Mapping[str, Any]) -> Generation:
    """From the fields of its type Target. Raises Garbled where it is neither."""
    kind = data.get("__type") or {}
    fields = {str(field.get("name")) for field in kind.get("fields") or ()}
    if "drugAndClinicalCandidates" in fields:
        return "2026"
    if "knownDrugs" in fields:
        return "2025"
    raise Garbled(
        f"Open Targets' Target has neither knownDrugs nor drugAndClinicalCandidates, but {len(fields)} other fields;"
        " its schema has changed again"
    )


def disease_ids(data: Mapping[str, Any], disease: Disease) -> tuple[str, ...]:
    """The ids that this release has for the cancer: they move between ontologies. Raises UnknownTarget."""
    hits = (data.get("search") or {}).get("hits") or []
    named = [str(hit["id"]) for hit in hits if disease.is_named(str(hit.get("name") or ""))]
    if not named:
        raise UnknownTarget(f"Open Targets knows no disease called {disease.name!r}")
    return tuple(named)


# -- what the answers say ------------------------------------------------------------------------

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
