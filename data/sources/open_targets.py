"""Open Targets: tractability, safety, dependency and clinical precedent of a target, over GraphQL.

Its schema was renamed in 2026: what `knownDrugs` and the evidence source `chembl` told is told by
`drugAndClinicalCandidates` and `clinical_precedence`. Which one speaks is found out by introspection.
Errors come with HTTP 200. Knows the two generations; the rules of levels are in `open_targets_levels.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, Literal

from data.sources.finding import Disease, EvidenceSource, Judged, Params, Subject
from data.sources.open_targets_levels import (
    ROWS,
    dependency,
    precedent_2025,
    precedent_2026,
    safety,
    tractability,
)
from data.sources.wire import Garbled, Refused, Request, SourceError, Wire

HOME: Final = "https://api.platform.opentargets.org/api/v4/graphql"
Generation = Literal["2025", "2026"]

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


class OpenTargets(EvidenceSource):
    """Four kinds of evidence of one gene."""

    name = "opentargets"
    offers = (
        ("protein_structure_lookup", {"source": "PDB"}),
        ("toxicity_panel", _GENERAL),
        ("crispr_knockout", _MATCHED),
        ("crispr_knockout", _ALL_CANCERS),
        ("competitor_landscape", {}),
    )

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._generation: Generation | None = None

    def _judge(self, target: Subject, indication: Disease, action: str, params: Params) -> Judged:
        if action == "protein_structure_lookup":
            told = self._target(target, "Tractability")
            return tractability(told.get("tractability") or [], target.modality)
        if action == "toxicity_panel":
            return safety(self._target(target, "Safety").get("safetyLiabilities") or [])
        if action == "crispr_knockout":
            told = self._target(target, "Essentiality")
            matched = params["panel"] == "disease_matched"
            return dependency(told.get("depMapEssentiality") or [], indication if matched else None)
        return self._precedent(target, indication)

    def _release(self, action: str) -> str:
        if action != "competitor_landscape":
            return self._wire.release
        return f"{self._wire.release} (schema {self.generation()})"

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
