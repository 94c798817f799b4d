"""The drug target tables, read once and checked row by row, so that nothing after it has to.

Knows the rules by which facts became levels; knows nothing of episodes, of rewards or of belief.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from data.drug_target.records import (
    DERIVED,
    FACTORS,
    LEVELS,
    MODALITIES,
    QUALITIES,
    VOTE,
    Assay,
    Factor,
    Indication,
    Noise,
    Pair,
    Parameter,
    Profile,
    Quality,
    Reading,
    Scenario,
    Target,
    Variant,
)
from data.rows import BadTable, Row, read

__all__ = ["BadTable", "Tables", "expression_levels", "load", "specificity_levels"]

HOME: Final = Path(__file__).parent
FILES: Final = (
    "targets.csv",
    "indications.csv",
    "target_indication.csv",
    "actions.json",
    "curated_scenarios.json",
)
PATTERNS: Final = MappingProxyType(
    {
        "uniprot": re.compile(
            r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}"
        ),
        "ensembl": re.compile(r"ENSG[0-9]{11}"),
        "chembl_target": re.compile(r"CHEMBL[0-9]+"),
        "mondo_unverified": re.compile(r"MONDO_[0-9]{7}"),
        "symbol": re.compile(r"[A-Z][A-Z0-9]*"),
        "key": re.compile(r"[a-z][a-z0-9]*"),
    }
)
BANDS: Final = ("below_3", "3_to_5", "5_to_20", "20_up")  # tumour median RNA, FPKM
_TARGETS: Final = [
    "symbol",
    "name",
    "uniprot",
    "chembl_target",
    "ensembl",
    "target_class",
    "modality",
    "druggability",
    "allosteric_site",
    "selectivity",
    "on_target_tox",
    "tissue_specificity",
    "vital_tissues_ge10",
    "top_normal_tissues",
    "off_targets",
    "tox_notes",
    "approvals_unverified",
    "split",
]
_INDICATIONS: Final = ["key", "name", "mondo_unverified", "tcga_codes", "normal_reference_tissue"]
_PAIRS: Final = [
    "symbol",
    "indication",
    "tumour_rna_band",
    "disease_expression",
    "override",
    "dependency",
    "dependency_note",
    "clinical_precedent",
    "clinical_note",
    "clinical_source",
    "clinical_status",
    "stratification",
    "biomarker",
]


@dataclass(frozen=True)
class Tables:
    """One checked table set. `version` is a digest of its five files."""

    targets: Mapping[str, Target]
    indications: Mapping[str, Indication]
    pairs: Mapping[tuple[str, str], Pair]
    assays: Mapping[str, Assay]
    noise: Mapping[Quality, Noise]
    scenarios: Mapping[str, Scenario]
    version: str


def specificity_levels(vital_tissues_ge10: int) -> tuple[int, ...]:
    """Restriction to few tissues by the number of vital tissues at nTPM 10 or more.

    Four or more: broad. One to three: partial. None: restricted, or partial where six reach 5.
    """
    if vital_tissues_ge10 >= 4:
        return (0,)
    return (1,) if vital_tissues_ge10 else (1, 2)


def expression_levels(tumour_rna_band: str) -> tuple[int, ...]:
    """Over-expression by tumour median: 20 or more is high, 3 or more some, else none.

    Between 5 and 20 it is also high where it reaches three times the median over all cancers.
    """
    return {"below_3": (0,), "3_to_5": (1,), "5_to_20": (1, 2), "20_up": (2,)}[tumour_rna_band]


@lru_cache(maxsize=1)
def load() -> Tables:
    """The shipped tables. Raises BadTable, naming file, line, value and remedy."""
    targets = {t.symbol: t for t in map(_target, read(HOME / FILES[0], _TARGETS))}
    indications = {i.key: i for i in map(_indication, read(HOME / FILES[1], _INDICATIONS))}
    pairs = {
        (p.symbol, p.indication): p
        for p in (_pair(row, targets, indications) for row in read(HOME / FILES[2], _PAIRS))
    }
    missing = [(s, i) for s in targets for i in indications if (s, i) not in pairs]
    if missing:
        raise BadTable(f"{FILES[2]} has no row for {missing[0]}; every target needs every cancer")
    bought = json.loads((HOME / FILES[3]).read_text(encoding="utf-8"))
    scenarios = json.loads((HOME / FILES[4]).read_text(encoding="utf-8"))
    return Tables(
        MappingProxyType(targets),
        MappingProxyType(indications),
        MappingProxyType(pairs),
        MappingProxyType({a["action_type"]: _assay(a) for a in bought["actions"]}),
        MappingProxyType({q: _noise(bought["quality"][q]) for q in QUALITIES}),
        MappingProxyType({s["name"]: _scenario(s) for s in scenarios}),
        blake2b(b"".join((HOME / f).read_bytes() for f in FILES), digest_size=6).hexdigest(),
    )


def _matching(row: Row, column: str) -> str:
    value = row.text(column)
    if not PATTERNS[column].fullmatch(value):
        raise row.wrong(
            column, "is not written like one", f"write it as {PATTERNS[column].pattern}"
        )
    return value


def _target(row: Row) -> Target:
    count, level = (
        row.whole("vital_tissues_ge10", 0, 8),
        row.whole("tissue_specificity", 0, 2),
    )
    if level not in specificity_levels(count):
        raise row.wrong(
            "tissue_specificity",
            f"is against the rule for {count} vital tissues",
            f"write {specificity_levels(count)[0]}",
        )
    return Target(
        _matching(row, "symbol"),
        row.text("name"),
        _matching(row, "uniprot"),
        _matching(row, "chembl_target"),
        _matching(row, "ensembl"),
        row.text("target_class"),
        row.one_of("modality", MODALITIES),
        MappingProxyType(
            {
                "spec": level,
                "drug": row.whole("druggability", 0, 2),
                "allo": row.whole("allosteric_site", 0, 1),
                "sel": row.whole("selectivity", 0, 2),
                "tox": row.whole("on_target_tox", 0, 2),
            }
        ),
        count,
        row.many("top_normal_tissues"),
        row.many("off_targets"),
        row.text("tox_notes"),
        row.many("approvals_unverified"),
        row.one_of("split", ("train", "test")) == "test",
    )


def _indication(row: Row) -> Indication:
    return Indication(
        _matching(row, "key"),
        row.text("name"),
        _matching(row, "mondo_unverified"),
        row.many("tcga_codes"),
        row.text("normal_reference_tissue"),
    )


def _pair(row: Row, targets: Mapping[str, Target], indications: Mapping[str, Indication]) -> Pair:
    symbol = row.known("symbol", row.text("symbol"), targets, FILES[0])
    key = row.known("indication", row.text("indication"), indications, FILES[1])
    band = row.one_of("tumour_rna_band", BANDS)
    level = row.whole("disease_expression", 0, 2)
    by_hand = row.maybe("override") is not None
    if not by_hand and level not in expression_levels(band):
        raise row.wrong(
            "disease_expression",
            f"is against the rule for {band}",
            "write what the rule gives, or say in override why not",
        )
    here: dict[Factor, int] = {
        **targets[symbol].levels,
        "expr": level,
        "dep": row.whole("dependency", 0, 2),
        "clin": row.whole("clinical_precedent", 0, 2),
        "strat": row.whole("stratification", 0, 1),
    }
    return Pair(
        symbol,
        key,
        _profile(here),
        band,
        by_hand,
        row.maybe("dependency_note") or "",
        row.maybe("clinical_note") or "",
        row.maybe("clinical_source") or "",
        row.one_of("clinical_status", ("checked", "unverified")) == "checked",
        row.maybe("biomarker") or "",
    )


def _profile(levels: Mapping[Factor, int]) -> Profile:
    for factor in FACTORS:
        if not 0 <= levels[factor] < LEVELS[factor]:
            raise BadTable(f"{factor} has no level {levels[factor]}; it has {LEVELS[factor]}")
    return cast(Profile, tuple(levels[factor] for factor in FACTORS))


# -- the two JSON files -----------------------------------------------------------------------


def _noise(body: Mapping[str, float]) -> Noise:
    return Noise(
        body["false_positive"],
        body["false_negative"],
        body["coverage"],
        body.get("literature_false_positive"),
    )


def _assay(body: Mapping[str, Any]) -> Assay:
    name = body["action_type"]
    parameters = tuple(_parameter(p) for p in body["parameters"])
    variants = tuple(_variant(name, v, parameters) for v in body["variants"])
    return Assay(
        name,
        body["category"],
        body["cost"],
        body["dimension"],
        body["purpose"],
        tuple(body["soft"]),
        tuple(body["hard"]),
        parameters,
        variants,
    )


def _parameter(body: Mapping[str, Any]) -> Parameter:
    low, high = body.get("range", (0, body.get("max_length", 0)))
    return Parameter(
        body["name"],
        body["type"],
        tuple(body.get("values", ())),
        body.get("default"),
        low,
        high,
    )


def _variant(assay: str, body: Mapping[str, Any], parameters: tuple[Parameter, ...]) -> Variant:
    named = {p.name: p for p in parameters}
    for name, value in body["parameters"].items():
        if name not in named or (named[name].values and value not in named[name].values):
            raise BadTable(f"{FILES[3]}: {assay} has no {name} {value!r}; correct its variants")
    readings = tuple(Reading(**r) for r in body["readings"])
    for reading in readings:
        if reading.factor not in (*FACTORS, *DERIVED, VOTE):
            raise BadTable(f"{FILES[3]}: {assay} reads {reading.factor!r}, which is no factor")
    return Variant(tuple(body["parameters"].items()), readings)


def _scenario(body: Mapping[str, Any]) -> Scenario:
    return Scenario(
        name=body["name"],
        difficulty=body["difficulty"],
        decision=body["decision"],
        viability=body["viability"],
        target=body["target"],
        indication=body["indication"],
        disease_context=body["disease_context"],
        modality=body["modality"],
        direction=body["direction"],
        programme_hypothesis=body["programme_hypothesis"],
        credits=body["credits"],
        profile=_profile(body["profile"]),
        quality=body["quality"],
        key_dimensions=tuple(body["key_dimensions"]),
        misleading=tuple(body["misleading"]),
        off_targets=tuple(body["off_targets"]),
        ids=MappingProxyType(dict(_identified(body["name"], body["ids"]))),
        evidence=tuple((e["fact"], e["source"], e["status"]) for e in body["evidence"]),
        caveat=body["caveat"],
    )


def _identified(name: str, ids: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for column, value in ids.items():
        if not PATTERNS[column].fullmatch(value):
            raise BadTable(f"{FILES[4]}: {name} has {column} {value!r}; correct it")
        yield column, value
