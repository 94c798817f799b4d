"""What is known about the drugs an older person takes: drugs, pairs, criteria, alternatives, conditions.

Every row is checked when a table set is loaded, so that nothing after it has to. Knows nothing of any
patient, of harm, or of what an agent may see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

from data.polypharmacy.records import (
    CIRCUMSTANCES,
    COLUMNS,
    CONDITION_KINDS,
    CRITERION_TYPES,
    EFFECTS,
    FORMULARIES,
    QT_RISKS,
    RECOMMENDATIONS,
    SEVERITIES,
    STRENGTHS,
    Alternative,
    Condition,
    Criterion,
    Drug,
    Pair,
    Strength,
)
from data.rows import BadTable, Row, read

__all__ = [
    "CIRCUMSTANCES",
    "EFFECTS",
    "Alternative",
    "BadTable",
    "Condition",
    "Criterion",
    "Drug",
    "Pair",
    "Tables",
    "UnknownDrug",
    "load",
]

_SHIPPED = Path(__file__).parent
_DRUG_ID = re.compile(r"[a-z][a-z0-9_]*")
_ATC_LEVEL_5 = re.compile(r"[A-Z][0-9]{2}[A-Z]{2}[0-9]{2}")


class UnknownDrug(KeyError):
    """No drug of that id is in the tables."""

    __str__ = Exception.__str__  # KeyError would show the quoted repr of the message


@dataclass(frozen=True)
class Tables:
    """One checked table set. `version` is a digest of its five files."""

    drugs: Mapping[str, Drug]
    pairs: Mapping[tuple[str, str], Pair]
    criteria: Mapping[str, tuple[Criterion, ...]]
    alternatives: Mapping[str, tuple[Alternative, ...]]
    conditions: Mapping[str, Condition]
    version: str
    directory: Path

    def drug(self, drug_id: str) -> Drug:
        """Look a drug up. Raises UnknownDrug, which names the nearest id."""
        try:
            return self.drugs[drug_id]
        except KeyError:
            near = get_close_matches(drug_id, self.drugs, 1)
            hint = f"did you mean {near[0]!r}?" if near else "drug_metadata.csv lists all ids"
            raise UnknownDrug(
                f"no drug {drug_id!r} among {len(self.drugs)} drugs; {hint}"
            ) from None

    def pair(self, a: str, b: str) -> Pair | None:
        """What is known of two drugs together, in either order; None where nothing is."""
        return self.pairs.get((a, b) if a < b else (b, a))

    def formulary(self, name: str) -> tuple[Drug, ...]:
        """The drugs of `core`, `common` (core included) or `full` (all), in table order."""
        if name not in FORMULARIES:
            raise ValueError(f"no formulary {name!r}; formularies: {', '.join(FORMULARIES)}")
        held = FORMULARIES[: FORMULARIES.index(name) + 1]
        return tuple(drug for drug in self.drugs.values() if drug.formulary in held)


def load(directory: str | Path | None = None) -> Tables:
    """Load and check a table set, once per directory; None is the shipped one.

    Raises BadTable for the first row that cannot be used.
    """
    return _load(_SHIPPED if directory is None else Path(directory).resolve())


@lru_cache(maxsize=8)
def _load(directory: Path) -> Tables:
    if not directory.is_dir():
        raise BadTable(
            f"no table directory {str(directory)!r}; name one that holds {', '.join(COLUMNS)}"
        )
    conditions = _conditions(directory)
    drugs = _drugs(directory, conditions)
    _check_groups(directory, conditions, drugs)
    return Tables(
        drugs=MappingProxyType(drugs),
        pairs=MappingProxyType(_pairs(directory, drugs)),
        criteria=MappingProxyType(_criteria(directory, drugs, conditions)),
        alternatives=MappingProxyType(_alternatives(directory, drugs, conditions)),
        conditions=MappingProxyType(conditions),
        version=_version(directory),
        directory=directory,
    )


def _version(directory: Path) -> str:
    content = blake2b(digest_size=8)
    for name in sorted(COLUMNS):
        content.update(name.encode())
        content.update((directory / name).read_bytes().replace(b"\r\n", b"\n"))
    return content.hexdigest()


def _rows(directory: Path, file: str) -> list[Row]:
    return list(read(directory / file, COLUMNS[file]))


def _conditions(directory: Path) -> dict[str, Condition]:
    conditions: dict[str, Condition] = {}
    for row in _rows(directory, "conditions.csv"):
        condition = _condition(row)
        if condition.condition_id in conditions:
            raise row.wrong("condition_id", "is there twice", "remove one of the rows")
        conditions[condition.condition_id] = condition
    return conditions


def _condition(row: Row) -> Condition:
    condition = Condition(
        condition_id=row.text("condition_id"),
        name=row.text("name"),
        kind=row.one_of("kind", CONDITION_KINDS),
        critical=row.flag("critical"),
        need_weight=row.number("need_weight", 0, 1, "a cost from 0 to 1 such as 0.3"),
        prevalence=row.number("prevalence", 0, 1e6, "a relative weight such as 10"),
        treated_by=row.many("treated_by"),
    )
    if condition.condition_id in CIRCUMSTANCES:
        raise row.wrong("condition_id", "is the name of a circumstance", "choose another id")
    if condition.kind == "state" and condition.treated_by:
        raise row.wrong(
            "treated_by", "gives drugs to a state", "leave it empty or write kind disease"
        )
    if condition.kind == "state" and condition.need_weight:
        raise row.wrong("need_weight", "is a need of a state", "write 0 or kind disease")
    if condition.kind == "disease" and not condition.treated_by:
        raise row.wrong("treated_by", "is empty for a disease", "name a group or write kind state")
    return condition


def _drugs(directory: Path, conditions: Mapping[str, Condition]) -> dict[str, Drug]:
    drugs: dict[str, Drug] = {}
    for row in _rows(directory, "drug_metadata.csv"):
        drug = _drug(row)
        _check_drug(row, drug, conditions)
        if drug.drug_id in drugs:
            raise row.wrong("drug_id", "is there twice", "remove one of the rows")
        drugs[drug.drug_id] = drug
    return drugs


def _drug(row: Row) -> Drug:
    dose = "a daily dose such as 5.0"
    return Drug(
        drug_id=row.text("drug_id"),
        generic_name=row.text("generic_name"),
        atc_class=row.text("atc_class"),
        atc_code=row.text("atc_code"),
        drug_class=row.text("drug_class"),
        substitution_group=row.text("substitution_group"),
        is_high_risk_elderly=row.flag("is_high_risk_elderly"),
        is_critical=row.flag("is_critical"),
        needs_taper=row.flag("needs_taper"),
        critical_reason=row.maybe("critical_reason") or "",
        default_dose_mg=row.number("default_dose_mg", 0, 1e6, dose),
        min_dose_mg=row.number("min_dose_mg", 0, 1e6, dose),
        max_dose_mg=row.number("max_dose_mg", 0, 1e6, dose),
        dose_basis=row.text("dose_basis"),
        frequency=row.text("frequency"),
        route=row.text("route"),
        renal_clearance=row.whole("renal_clearance", 0, 2),
        substrates=frozenset(row.many("cyp_transport_substrate")),
        inhibitors=_strengths(row, "inhibitor"),
        inducers=_strengths(row, "inducer"),
        acb_score=row.whole("acb_score", 0, 3),
        qt_risk=row.one_of("qt_risk", QT_RISKS),
        effects=frozenset(row.many("effects")),
        indications=row.many("indications"),
        formulary=row.one_of("formulary", FORMULARIES),
    )


def _strengths(row: Row, column: str) -> tuple[tuple[str, Strength], ...]:
    found: list[tuple[str, Strength]] = []
    for item in row.many(column):
        enzyme, _, word = item.partition(":")
        strength = next((known for known in STRENGTHS if known == word), None)
        if not enzyme or strength is None:
            raise row.wrong(column, f"has the item {item!r}", "write items such as CYP3A4:strong")
        found.append((enzyme, strength))
    return tuple(found)


def _check_drug(row: Row, drug: Drug, conditions: Mapping[str, Condition]) -> None:
    if not _DRUG_ID.fullmatch(drug.drug_id):
        raise row.wrong("drug_id", "is not a plain id", "use a-z, 0-9 and _ such as insulin_nph")
    if not _ATC_LEVEL_5.fullmatch(drug.atc_code):
        raise row.wrong("atc_code", "is not an ATC level-5 code", "write one such as B01AA03")
    if drug.atc_class != drug.atc_code[:5]:
        raise row.wrong("atc_class", "is not the start of atc_code", f"write {drug.atc_code[:5]}")
    if drug.is_critical != bool(drug.critical_reason):
        raise row.wrong("critical_reason", "disagrees with is_critical", "write both or neither")
    if drug.min_dose_mg <= 0:
        raise row.wrong("min_dose_mg", "is not above 0", "write the lowest daily dose in use")
    if not drug.min_dose_mg <= drug.default_dose_mg <= drug.max_dose_mg:
        bounds = f"{drug.min_dose_mg:g} to {drug.max_dose_mg:g}"
        raise row.wrong("default_dose_mg", f"is outside {bounds}", "write min <= default <= max")
    for effect in sorted(drug.effects):
        if effect not in EFFECTS:
            known = ", ".join(sorted(EFFECTS))
            raise row.wrong(
                "effects", f"names the unknown effect {effect!r}", f"write one of {known}"
            )
    if not drug.indications:
        raise row.wrong("indications", "is empty", "name at least one row of conditions.csv")
    for indication in drug.indications:
        row.known("indications", indication, conditions, "conditions.csv")
        if drug.substitution_group not in conditions[indication].treated_by:
            raise row.wrong(
                "indications",
                f"has {indication!r}, which group {drug.substitution_group!r} does not treat",
                "remove it or add the group to treated_by in conditions.csv",
            )


def _check_groups(
    directory: Path, conditions: Mapping[str, Condition], drugs: Mapping[str, Drug]
) -> None:
    groups = {drug.substitution_group for drug in drugs.values()}
    for row in _rows(directory, "conditions.csv"):
        for group in conditions[row.text("condition_id")].treated_by:
            row.known("treated_by", group, groups, "drug_metadata.csv")


def _pairs(directory: Path, drugs: Mapping[str, Drug]) -> dict[tuple[str, str], Pair]:
    pairs: dict[tuple[str, str], Pair] = {}
    for row in _rows(directory, "ddi_rules.csv"):
        a = row.known("drug_id_1", row.text("drug_id_1"), drugs, "drug_metadata.csv")
        b = row.known("drug_id_2", row.text("drug_id_2"), drugs, "drug_metadata.csv")
        if a >= b:
            remedy = "name two different drugs" if a == b else f"swap the two: {b},{a}"
            raise row.wrong("drug_id_1", f"does not sort before drug_id_2 {b!r}", remedy)
        if (a, b) in pairs:
            raise row.wrong("drug_id_2", f"is there twice with {a!r}", "remove one of the rows")
        pairs[a, b] = Pair(
            drug_id_1=a,
            drug_id_2=b,
            severity=row.one_of("severity", SEVERITIES),
            mechanism=row.text("mechanism"),
            recommendation=row.one_of("recommendation", RECOMMENDATIONS),
            base_risk_score=row.number("base_risk_score", 0, 1, "a score from 0 to 1 such as 0.75"),
            evidence=row.text("evidence"),
        )
    return pairs


def _criteria(
    directory: Path, drugs: Mapping[str, Drug], conditions: Mapping[str, Condition]
) -> dict[str, tuple[Criterion, ...]]:
    by_drug: dict[str, tuple[Criterion, ...]] = {}
    for row in _rows(directory, "beers_criteria.csv"):
        criterion = _criterion(row, drugs, conditions)
        held = by_drug.get(criterion.drug_id, ())
        if any(_gate(criterion) == _gate(other) for other in held):
            raise row.wrong("drug_id", "has this criterion twice", "remove one of the rows")
        by_drug[criterion.drug_id] = (*held, criterion)
    return by_drug


def _gate(criterion: Criterion) -> tuple[str, str | None, float | None]:
    return criterion.criterion_type, criterion.condition, criterion.crcl_below


def _criterion(
    row: Row, drugs: Mapping[str, Drug], conditions: Mapping[str, Condition]
) -> Criterion:
    condition = row.maybe("condition")
    if condition == "renal_impairment":
        raise row.wrong("condition", "is not a condition", "leave it empty and write crcl_below")
    if condition is not None and condition not in CIRCUMSTANCES:
        row.known("condition", condition, conditions, "conditions.csv")
    limit = row.maybe("crcl_below")
    kind = row.one_of("criterion_type", CRITERION_TYPES)
    if kind == "avoid_in_condition" and condition is None and limit is None:
        raise row.wrong("condition", "is empty for avoid_in_condition", "write it or crcl_below")
    return Criterion(
        drug_id=row.known("drug_id", row.text("drug_id"), drugs, "drug_metadata.csv"),
        criterion_type=kind,
        condition=condition,
        crcl_below=row.number("crcl_below", 1, 200, "ml/min such as 30") if limit else None,
        rationale=row.text("rationale"),
        source_table=row.text("source_table"),
    )


def _alternatives(
    directory: Path, drugs: Mapping[str, Drug], conditions: Mapping[str, Condition]
) -> dict[str, tuple[Alternative, ...]]:
    by_drug: dict[str, list[Alternative]] = {}
    for row in _rows(directory, "alternatives.csv"):
        found = _alternative(row, drugs, conditions)
        held = by_drug.setdefault(found.drug_id, [])
        for other in held:
            if (other.alternative_id, other.indication) == (found.alternative_id, found.indication):
                raise row.wrong("alternative_id", "is there twice for the indication", "remove one")
            if (other.rank, other.indication) == (found.rank, found.indication):
                raise row.wrong(
                    "rank", f"is also that of {other.alternative_id!r}", "rank them apart"
                )
        held.append(found)
    return {
        drug_id: tuple(sorted(held, key=lambda one: one.rank)) for drug_id, held in by_drug.items()
    }


def _alternative(
    row: Row, drugs: Mapping[str, Drug], conditions: Mapping[str, Condition]
) -> Alternative:
    drug_id = row.known("drug_id", row.text("drug_id"), drugs, "drug_metadata.csv")
    alternative_id = row.known(
        "alternative_id", row.text("alternative_id"), drugs, "drug_metadata.csv"
    )
    if alternative_id == drug_id:
        raise row.wrong("alternative_id", "is the drug itself", "name another drug")
    indication = row.known("indication", row.text("indication"), conditions, "conditions.csv")
    for one in (drug_id, alternative_id):
        if indication not in drugs[one].indications:
            raise row.wrong(
                "indication",
                f"is no indication of {one!r}",
                "add it in drug_metadata.csv or remove the row",
            )
    return Alternative(
        drug_id, alternative_id, row.whole("rank", 1, 99), indication, row.maybe("note") or ""
    )
