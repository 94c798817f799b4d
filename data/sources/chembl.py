"""ChEMBL: drugs whose mechanism is the target, and how far they came in a cancer.

A mechanism may hang on the salt while the indication hangs on the parent, phases come as strings or
numbers, and -1 is "unknown", not "before phase 1". Knows the REST API; nothing of other sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from data.sources.finding import Disease, EvidenceSource, Judged, Params, Subject
from data.sources.wire import Garbled, Request, listed

HOME: Final = "https://www.ebi.ac.uk/chembl/api/data"
PAGE: Final = 1000  # the default of 20 is too few; more than 1000 is not given
AT_ONCE: Final = 40  # molecules of one question: the address must not grow too long
MOST_PAGES: Final = 50
APPROVED: Final = 4.0


class Chembl(EvidenceSource):
    """Precedent by mechanism of action, in one cancer."""

    name = "chembl"
    offers = (("competitor_landscape", {}),)

    def _judge(self, target: Subject, indication: Disease, action: str, params: Params) -> Judged:
        mechanisms = self._pages("mechanism", "mechanisms", (("target_chembl_id", target.chembl),))
        named = sorted(molecules_of(mechanisms))
        molecules = self._of(named, "molecule", "molecules")
        families = hierarchy(mechanisms, molecules)
        everyone = sorted({*families, *families.values()})
        indications = self._of(everyone, "drug_indication", "drug_indications")
        return precedent(mechanisms, molecules, indications, indication)

    def _of(self, ids: Sequence[str], resource: str, key: str) -> list[Mapping[str, Any]]:
        """The rows of many molecules, some at once."""
        rows: list[Mapping[str, Any]] = []
        left = iter(ids)
        while some := tuple(islice(left, AT_ONCE)):
            rows += self._pages(resource, key, (("molecule_chembl_id__in", ",".join(some)),))
        return rows

    def _pages(
        self, resource: str, key: str, asked: tuple[tuple[str, str], ...]
    ) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        for page in range(MOST_PAGES):
            payload = self._wire.json(
                Request(
                    f"{HOME}/{resource}.json",
                    (*asked, ("limit", str(PAGE)), ("offset", str(page * PAGE))),
                )
            )
            rows += listed(payload, key, f"ChEMBL {resource}")
            if not payload.get("page_meta", {}).get("next"):
                break
        return rows


def phase(value: object) -> float | None:
    """A phase as a number: "4.0", 4 and 4.0 are one; None, "" and -1 are unknown; 0.5 is early phase 1.

    Raises Garbled for anything else.
    """
    if value is None or value == "":
        return None
    try:
        number = float(str(value))
    except ValueError as error:
        raise Garbled(f"ChEMBL sent the phase {value!r}; expected a number from -1 to 4") from error
    if not -1 <= number <= APPROVED:
        raise Garbled(f"ChEMBL sent the phase {value!r}; expected a number from -1 to 4")
    return number if number >= 0 else None


def molecules_of(mechanisms: Sequence[Mapping[str, Any]]) -> set[str]:
    """Every molecule that a mechanism names, salts and parents."""
    keys = ("molecule_chembl_id", "parent_molecule_chembl_id")
    return {str(row[key]) for row in mechanisms for key in keys if row.get(key)}


def hierarchy(
    mechanisms: Sequence[Mapping[str, Any]], molecules: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Molecule -> its parent (itself, where it is one), from both places that tell."""
    parents: dict[str, str] = {}
    for row in mechanisms:
        if row.get("molecule_chembl_id"):
            own = str(row["molecule_chembl_id"])
            parents[own] = str(row.get("parent_molecule_chembl_id") or own)
    for row in molecules:
        own = str(row["molecule_chembl_id"])
        told = (row.get("molecule_hierarchy") or {}).get("parent_chembl_id")
        parents[own] = str(told or parents.get(own) or own)
    return parents


def precedent(
    mechanisms: Sequence[Mapping[str, Any]],
    molecules: Sequence[Mapping[str, Any]],
    indications: Sequence[Mapping[str, Any]],
    disease: Disease,
) -> Judged:
    """Level of `clin`: 2 where a drug of this mechanism is approved in this cancer, 1 where one is in trials.

    ChEMBL keeps no failures: it never says 0. None: no drug of this mechanism in this cancer.
    """
    parents = hierarchy(mechanisms, molecules)
    names = {str(row["molecule_chembl_id"]): row.get("pref_name") for row in molecules}
    ours = {parents.get(m, m) for m in molecules_of(mechanisms)}
    reached: dict[str, float] = {}
    elsewhere: set[str] = set()
    for row in indications:
        told = [row.get("parent_molecule_chembl_id"), row.get("molecule_chembl_id")]
        drug = next((parents.get(str(m), str(m)) for m in told if m), "")
        if drug not in ours:
            continue
        if not _is_here(row, disease):
            elsewhere.add(drug)
            continue
        at = phase(row.get("max_phase_for_ind"))
        if at is not None:
            reached[drug] = max(at, reached.get(drug, 0.0))
    remarks = []
    if away := elsewhere - reached.keys():
        remarks.append(
            f"drugs of this mechanism in other diseases only, no precedent here: {len(away)}"
        )
    if not reached:
        said = (
            f"{len(ours)} drugs of this mechanism, none in this cancer"
            if ours
            else "no drug has this mechanism"
        )
        return Judged("clin", None, said, remarks=tuple(remarks))
    best = sorted(reached, key=lambda drug: (-reached[drug], drug))
    top = reached[best[0]]
    shown = ", ".join(f"{names.get(d) or d} {reached[d]:g}" for d in best[:4])
    return Judged(
        "clin",
        2 if top >= APPROVED else 1,
        f"{len(reached)} drugs of this mechanism in this cancer, by phase: {shown}",
        value=top,
        unit="highest phase",
        remarks=(*remarks, "ChEMBL lists no failed programmes"),
        records=tuple(best[:8]),
    )


def _is_here(row: Mapping[str, Any], disease: Disease) -> bool:
    told = [row.get("efo_term"), row.get("mesh_heading")]
    return any(disease.is_named(str(term), str(row.get("efo_id") or "")) for term in told if term)
