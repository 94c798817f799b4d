"""All sources together: ask each for what it offers, keep what it found and why something failed.

Knows which sources there are; nothing of what an answer is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from data.sources.chembl import Chembl
from data.sources.clinical_trials import ClinicalTrials
from data.sources.finding import Disease, EvidenceSource, Finding, Params, Subject, spelled
from data.sources.gtex import Gtex
from data.sources.live import TIMEOUT_S, live
from data.sources.open_targets import OpenTargets
from data.sources.recorded import SAMPLES, recorded
from data.sources.wire import SourceError, Transport, Wire

SOURCES: Final[Mapping[str, Callable[[Wire], EvidenceSource]]] = MappingProxyType(
    {
        "opentargets": OpenTargets,
        "chembl": Chembl,
        "gtex": Gtex,
        "clinicaltrials": ClinicalTrials,
    }
)
CACHE: Final = Path("runs") / "sources"


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be asked, and why."""

    source: str
    asked: str
    why: str


@dataclass(frozen=True, slots=True)
class Access:
    """How sources are reached.

    samples: from recorded answers instead of the network. cache: folder of raw answers; None keeps
    none. release: what the cache is pinned to. refresh: ask again. timeout_s: of one request. gtex: GTEx's data set.
    """

    samples: Path | None = None
    cache: Path | None = CACHE
    release: str = "current"
    refresh: bool = False
    timeout_s: float = TIMEOUT_S
    gtex: str = "gtex_v8"


@contextmanager
def opened(names: Iterable[str], access: Access) -> Iterator[list[EvidenceSource]]:
    """The sources, connected; recorded ones are never cached."""
    if access.samples is not None:
        yield [
            _source(
                name,
                Wire(recorded(access.samples / name), release="samples", sleep=_no_wait),
                access,
            )
            for name in names
        ]
        return
    with live(access.timeout_s) as transport:
        yield [_source(name, _wire(transport, name, access), access) for name in names]


def ask(
    sources: Sequence[EvidenceSource],
    target: Subject,
    indication: Disease,
    wanted: Callable[[str, Params], bool] = lambda action, params: True,
    tick: Callable[[str, str], None] = lambda source, asked: None,
) -> tuple[list[Finding], list[Failure]]:
    """Every wanted answer of every source. One that fails does not stop the others."""
    found: list[Finding] = []
    failed: list[Failure] = []
    for source in sources:
        for action, params in source.offers:
            if not wanted(action, params):
                continue
            tick(source.name, spelled(action, params))
            try:
                found.append(source.fetch(target, indication, action, params))
            except SourceError as why:
                failed.append(Failure(source.name, spelled(action, params), str(why)))
    return found, failed


def _source(name: str, wire: Wire, access: Access) -> EvidenceSource:
    return Gtex(wire, access.gtex) if name == Gtex.name else SOURCES[name](wire)


def _wire(transport: Transport, name: str, access: Access) -> Wire:
    cache = None if access.cache is None else access.cache / name
    return Wire(transport, cache, access.release, access.refresh)


def _no_wait(seconds: float) -> None:
    return None


__all__ = ["CACHE", "SAMPLES", "SOURCES", "Access", "Failure", "ask", "opened"]
