"""GTEx: how broadly a gene is expressed in normal tissue, as medians in TPM.

GTEx knows genes by the versioned GENCODE id of its own release; any other version gets an empty list
and no error, so the id is asked for first. It has no bone marrow. Knows the API v2 and the rule of the
drug target tables; nothing of other sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from data.sources.finding import Disease, EvidenceSource, Judged, Params, Subject
from data.sources.wire import Garbled, Request, SourceError, Wire, listed

HOME: Final = "https://gtexportal.org/api/v2"
DATASETS: Final[Mapping[str, str]] = MappingProxyType({"gtex_v8": "v26", "gtex_v10": "v39"})
PAGE: Final = 250
# the eight tissues that the tables' rule looks at; the highest of a tissue's parts counts
VITAL: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "brain": ("Brain_Cortex", "Brain_Cerebellum"),
        "heart": ("Heart_Left_Ventricle", "Heart_Atrial_Appendage"),
        "lung": ("Lung",),
        "liver": ("Liver",),
        "kidney": ("Kidney_Cortex", "Kidney_Medulla"),
        "pancreas": ("Pancreas",),
        "colon": ("Colon_Transverse", "Colon_Sigmoid"),
        "bone marrow": (),  # GTEx has none; blood and spleen do not stand for it
    }
)
BROAD, SOME, MANY_BROAD, MANY_SOME = 10.0, 5.0, 4, 6


class UnknownGene(SourceError):
    """GTEx has no gene of this name in its release."""


class Gtex(EvidenceSource):
    """Normal-tissue restriction of a target."""

    name = "gtex"
    offers = (("query_expression", {"database": "GTEx"}),)

    def __init__(self, wire: Wire, dataset: str = "gtex_v8") -> None:
        if dataset not in DATASETS:
            raise SourceError(
                f"GTEx has no data set {dataset!r} here; data sets: {', '.join(DATASETS)}"
            )
        super().__init__(wire)
        self._dataset = dataset

    def _judge(self, target: Subject, indication: Disease, action: str, params: Params) -> Judged:
        """Expression in normal tissue; the indication does not matter to it."""
        gencode = self._gencode_id(target)
        rows = self._medians(gencode)
        return restriction(rows, gencode)

    def _release(self, action: str) -> str:
        return f"{self._dataset} {self._wire.release}"

    def _gencode_id(self, target: Subject) -> str:
        payload = self._wire.json(
            Request(
                f"{HOME}/reference/geneSearch",
                (
                    ("geneId", target.symbol),
                    ("gencodeVersion", DATASETS[self._dataset]),
                    ("genomeBuild", "GRCh38/hg38"),
                ),
            )
        )
        return gencode_id(payload, target)

    def _medians(self, gencode: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        page, pages = 0, 1
        while page < pages:
            payload = self._wire.json(
                Request(
                    f"{HOME}/expression/medianGeneExpression",
                    (
                        ("gencodeId", gencode),
                        ("datasetId", self._dataset),
                        ("page", str(page)),
                        ("itemsPerPage", str(PAGE)),
                    ),
                )
            )
            found += listed(payload, "data", "GTEx")
            pages = int(payload.get("paging_info", {}).get("numberOfPages", 1))
            page += 1
        return found


def gencode_id(payload: Any, target: Subject) -> str:
    """The versioned id of exactly this gene: the search also returns its antisense and its likes.

    Raises UnknownGene, Garbled.
    """
    rows = listed(payload, "data", "GTEx geneSearch")
    exact = [r for r in rows if str(r.get("geneSymbol", "")).upper() == target.symbol]
    exact += [r for r in rows if str(r.get("gencodeId", "")).split(".")[0] == target.ensembl]
    if not exact:
        near = ", ".join(str(r.get("geneSymbol")) for r in rows[:5]) or "nothing"
        raise UnknownGene(
            f"GTEx has no gene {target.symbol} ({target.ensembl}) in this release; its search found {near}."
            " Older releases use older symbols"
        )
    found = str(exact[0].get("gencodeId", ""))
    if "." not in found:
        raise Garbled(
            f"GTEx gave {found!r} for {target.symbol}, without a version; it would find nothing"
        )
    return found


def restriction(rows: Sequence[Mapping[str, Any]], gencode: str) -> Judged:
    """Level of `spec`: 0 where 4 of 8 vital tissues reach 10, 1 where any does or 6 reach 5, else 2.

    Bone marrow is not in GTEx: where the level hangs on it, the less favourable one is taken, and said.
    """
    if not rows:
        return Judged(
            "spec",
            None,
            f"GTEx sent no medians for {gencode}",
            remarks=(
                "an empty list is what a wrong version of the gene's id gets; it is no sign of low expression",
            ),
            records=(gencode,),
        )
    at = {str(row["tissueSiteDetailId"]): float(row["median"]) for row in rows}
    seen = {
        organ: max(at[part] for part in parts if part in at)
        for organ, parts in VITAL.items()
        if any(part in at for part in parts)
    }
    unseen = len(VITAL) - len(seen)
    low, high = level_of(seen.values(), 0, 0), level_of(seen.values(), unseen, unseen)
    level = min(low, high)
    top = sorted(seen, key=lambda organ: -seen[organ])
    remarks = (
        [f"not in GTEx: {', '.join(organ for organ in VITAL if organ not in seen)}"]
        if unseen
        else []
    )
    if low != high:
        remarks.append(f"the level would be {max(low, high)} if the gene were silent there")
    units = {str(row.get("unit", "TPM")) for row in rows}
    remarks.append(f"{'/'.join(sorted(units))} stands in for the nTPM of the rule")
    return Judged(
        "spec",
        level,
        f"{sum(v >= BROAD for v in seen.values())} of {len(seen)} vital tissues at 10 or more; highest:"
        f" {', '.join(f'{organ} {seen[organ]:.1f}' for organ in top[:3])}",
        value=round(max(seen.values()), 2) if seen else None,
        unit="TPM in vital tissue",
        remarks=tuple(remarks),
        records=(gencode,),
    )


def level_of(medians: Any, broad_more: int, some_more: int) -> int:
    """The tables' rule, with so many tissues more that might reach 10 and 5."""
    values = list(medians)
    broad = sum(v >= BROAD for v in values) + broad_more
    some = sum(v >= SOME for v in values) + some_more
    if broad >= MANY_BROAD:
        return 0
    return 1 if broad or some >= MANY_SOME else 2
