"""The records of the drug target tables: a gene, a disease, the two together, an assay, a scenario.

Plain frozen data; `tables.py` fills and checks it, the environment gives it meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Factor = Literal["expr", "spec", "dep", "drug", "allo", "sel", "tox", "clin", "strat"]
Modality = Literal["small_molecule", "antibody_adc"]
Quality = Literal["clean", "typical", "poor", "hyped"]

FACTORS: Final[tuple[Factor, ...]] = get_args(Factor)
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
QUALITIES: Final[tuple[Quality, ...]] = get_args(Quality)
# 0 unfavourable, 1 ambiguous, 2 favourable; the two binary factors are absent or present
LEVELS: Final[Mapping[Factor, int]] = {f: 2 if f in ("allo", "strat") else 3 for f in FACTORS}
# read through others: T is tractability, pharm what cells and animals show of the mechanism
DERIVED: Final = ("T", "pharm")
VOTE: Final = "decision"  # what an expert votes on

Profile = tuple[int, int, int, int, int, int, int, int, int]  # a level for each of FACTORS


@dataclass(frozen=True, slots=True)
class Target:
    """One gene with what holds of it in every disease."""

    symbol: str
    name: str
    uniprot: str
    chembl_target: str
    ensembl: str
    target_class: str
    modality: Modality
    levels: Mapping[Factor, int]  # spec, drug, allo, sel, tox
    vital_tissues_ge10: int  # of 8 vital tissues, how many show nTPM of 10 or more
    top_normal_tissues: tuple[str, ...]
    off_targets: tuple[str, ...]
    tox_notes: str
    approvals: tuple[str, ...]  # with years that nobody has checked
    held_out: bool  # never drawn in training


@dataclass(frozen=True, slots=True)
class Indication:
    """One cancer."""

    key: str
    name: str
    mondo_unverified: str
    tcga_codes: tuple[str, ...]
    normal_tissue: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One gene in one cancer: its profile, and what it rests on."""

    symbol: str
    indication: str
    profile: Profile
    tumour_rna_band: str
    override: bool  # disease expression set by hand, against the rule of the band
    dependency_note: str
    clinical_note: str
    clinical_source: str
    checked: bool  # whether the clinical level rests on a source that was looked up
    biomarker: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One channel of an assay: which factor it reads, and how much worse than its data's usual error."""

    factor: str  # one of FACTORS, DERIVED, or VOTE
    error: float
    literature: bool = False
    upward: float = 1.0  # multiplies the upward error alone


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of running an assay, as the parameters that tell it from the others."""

    parameters: tuple[tuple[str, str | bool], ...]
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of an action."""

    name: str
    kind: Literal["enum", "bool", "float", "int", "str"]
    values: tuple[str, ...]
    default: str | bool | float | None  # None: it must be given
    low: float
    high: float  # of a number, or the longest text


@dataclass(frozen=True, slots=True)
class Assay:
    """One kind of action: what it costs, needs and reads."""

    action_type: str
    category: str
    cost: int
    dimension: str | None
    purpose: str
    soft: tuple[str, ...]  # any of these dimensions should have been looked at
    hard: tuple[str, ...]  # any of these must have been
    parameters: tuple[Parameter, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Noise:
    """How often a quality of data errs."""

    false_positive: float
    false_negative: float
    coverage: float
    literature_false_positive: float | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One case made by hand."""

    name: str
    difficulty: str
    decision: Literal["go", "no_go"]
    viability: float
    target: str
    indication: str
    disease_context: str
    modality: Modality
    direction: str
    programme_hypothesis: str
    credits: int
    profile: Profile
    quality: Quality
    key_dimensions: tuple[str, ...]
    misleading: tuple[Factor, ...]
    off_targets: tuple[str, ...]
    ids: Mapping[str, str]
    evidence: tuple[tuple[str, str, str], ...]  # fact, source, status
    caveat: str
