"""What is asked of a source of evidence, and what it found: a level of one factor, or no data.

The one interface of all sources. Knows genes, cancers and factors; nothing of how a source is
reached, of belief, or of rewards.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

from data.drug_target.records import Modality, Reading
from data.drug_target.tables import PATTERNS, load
from data.sources.wire import SourceError, Wire

Params: TypeAlias = Mapping[str, str | bool]


class UnknownSubject(SourceError):
    """A gene or a cancer that the tables do not have and the question does not spell out."""


class NotOffered(SourceError):
    """A source was asked for an action, or a variant of one, that it cannot answer."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A gene as the sources name it. drugs: names that trials are searched by."""

    symbol: str
    ensembl: str
    chembl: str
    modality: Modality
    drugs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disease:
    """A cancer as the sources name it. words: any of these in a condition means this cancer, unless
    one of `unlike` is there too; tissues: in the names of tissues of cell lines; ids: in ontologies.
    """

    key: str
    name: str
    words: tuple[str, ...]
    tissues: tuple[str, ...]
    ids: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ("uveal", "ocular", "mucosal", "neuroendocrine", "prevention")

    def is_named(self, condition: str, identifier: str | None = None) -> bool:
        """Whether a source's condition is this cancer, by id or by its words."""
        if identifier is not None and identifier.replace(":", "_") in self.ids:
            return True
        said = f" {plain(condition)} "
        if any(f" {word} " in said for word in self.unlike):
            return False
        return any(f" {plain(word)} " in said for word in self.words)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a payload says of one factor, by the rules of its source's module.

    level: 0 unfavourable, 1 ambiguous, 2 favourable; None where it says nothing. value, unit: the
    number the level rests on. remarks: what a reader must know beside it. records: ids it rests on.
    """

    factor: str
    level: int | None
    summary: str
    value: float | None = None
    unit: str = ""
    remarks: tuple[str, ...] = ()
    records: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What one source answered to one action, and where it can be looked up again."""

    source: str
    release: str
    target: str
    indication: str
    action: str
    params: tuple[tuple[str, str | bool], ...]
    judged: Judged
    urls: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "release": self.release,
            "target": self.target,
            "indication": self.indication,
            "action": self.action,
            "params": dict(self.params),
            "factor": self.judged.factor,
            "level": self.judged.level,
            "value": self.judged.value,
            "unit": self.judged.unit,
            "summary": self.judged.summary,
            "remarks": list(self.judged.remarks),
            "records": list(self.judged.records),
            "urls": list(self.urls),
        }


class EvidenceSource(ABC):
    """One source: the actions that it can answer, and the answer. What it reads there is its own."""

    name: ClassVar[str]
    # the actions it can answer, each with the parameters that tell its variant
    offers: ClassVar[tuple[tuple[str, Params], ...]]

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def fetch(self, target: Subject, indication: Disease, action: str, params: Params) -> Finding:
        """Raises NotOffered for an action that is not of its offers, SourceError where it cannot tell."""
        self._check_offered(action, params)
        self._wire.asked.clear()
        judged = self._judge(target, indication, action, params)
        return Finding(
            source=self.name,
            release=self._release(action),
            target=target.symbol,
            indication=indication.key,
            action=action,
            params=tuple(params.items()),
            judged=judged,
            urls=tuple(dict.fromkeys(self._wire.asked)),
        )

    @abstractmethod
    def _judge(
        self, target: Subject, indication: Disease, action: str, params: Params
    ) -> Judged: ...

    def _release(self, action: str) -> str:
        """Which edition of the source the answer to `action` rests on."""
        return self._wire.release

    def _check_offered(self, action: str, params: Params) -> None:
        if (action, dict(params)) not in [(name, dict(given)) for name, given in self.offers]:
            said = ", ".join(spelled(name, given) for name, given in self.offers)
            raise NotOffered(
                f"{self.name} does not answer {spelled(action, params)}; it answers: {said}"
            )


def spelled(action: str, params: Params) -> str:
    told = ", ".join(f"{name}={value}" for name, value in params.items())
    return f"{action}({told})" if told else action


def channel(finding: Finding) -> Reading | None:
    """The declared error of the action's reading of this factor, from the drug target tables."""
    for variant in load().assays[finding.action].variants:
        if dict(variant.parameters) == dict(finding.params):
            return next((r for r in variant.readings if r.factor == finding.judged.factor), None)
    return None


def plain(words: str) -> str:
    """Lower case, single spaces, no hyphens or commas: `Non-Small Cell` and `non small cell` agree."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", words.lower()).split())


# -- who is asked about --------------------------------------------------------------------------

# conditions are written by hundreds of hands; these words mean the cancer and nothing else
_WORDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = MappingProxyType(
    {
        "nsclc": (
            (
                "non small cell lung",
                "nonsmall cell lung",
                "nsclc",
                "lung adenocarcinoma",
                "adenocarcinoma of the lung",
                "squamous cell lung",
                "lung squamous",
            ),
            ("lung",),
        ),
        "brca": (
            ("breast cancer", "breast carcinoma", "breast neoplasm", "breast neoplasms"),
            ("breast",),
        ),
        "crc": (
            (
                "colorectal",
                "colon cancer",
                "rectal cancer",
                "colon carcinoma",
                "colon adenocarcinoma",
            ),
            ("colon", "bowel", "intestine", "large intestine"),
        ),
        "pdac": (
            (
                "pancreatic cancer",
                "pancreatic ductal",
                "pancreatic adenocarcinoma",
                "pancreatic carcinoma",
            ),
            ("pancreas",),
        ),
        "melanoma": (("cutaneous melanoma", "melanoma", "melanoma skin"), ("skin",)),
        "aml": (
            (
                "acute myeloid leukemia",
                "acute myeloid leukaemia",
                "acute myelogenous leukemia",
                "leukemia myeloid acute",
                "aml",
            ),
            ("myeloid", "haematopoietic", "hematopoietic", "bone marrow"),
        ),
        "prad": (
            (
                "prostate cancer",
                "prostatic cancer",
                "prostate adenocarcinoma",
                "prostate carcinoma",
                "prostatic neoplasms",
            ),
            ("prostate",),
        ),
        "gbm": (
            ("glioblastoma", "glioblastoma multiforme"),
            ("brain", "cns", "central nervous system"),
        ),
    }
)


def subject(
    symbol: str,
    ensembl: str | None = None,
    chembl: str | None = None,
    modality: Modality | None = None,
    drugs: tuple[str, ...] = (),
) -> Subject:
    """A gene of the tables, or one spelled out in full. Raises UnknownSubject."""
    known = load().targets.get(symbol.upper())
    if known is None and not (ensembl and chembl and modality):
        raise UnknownSubject(
            f"{symbol!r} is not among the {len(load().targets)} genes of the tables; give --ensembl, --chembl"
            f" and --modality as well, or one of: {', '.join(load().targets)}"
        )
    asked = Subject(
        symbol.upper(),
        ensembl or (known.ensembl if known else ""),
        chembl or (known.chembl_target if known else ""),
        modality or (known.modality if known else "small_molecule"),
        drugs or (tuple(a.partition(" (")[0] for a in known.approvals) if known else ()),
    )
    for column, value in (("ensembl", asked.ensembl), ("chembl_target", asked.chembl)):
        if not PATTERNS[column].fullmatch(value):
            raise UnknownSubject(f"{value!r} is no {column} identifier; correct it")
    return asked


def disease(key: str) -> Disease:
    """A cancer of the tables by its key. Raises UnknownSubject."""
    known = load().indications.get(key.lower())
    if known is None:
        raise UnknownSubject(f"no indication {key!r}; indications: {', '.join(load().indications)}")
    words, tissues = _WORDS[known.key]
    return Disease(known.key, known.name, (known.name, *words), tissues, (known.mondo_unverified,))
