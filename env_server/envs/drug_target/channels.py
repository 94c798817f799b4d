"""How a true level turns into a reading: confusion rows, gaps in the data, and draws that never change.

Knows the qualities of data and one factor at a time; neither decisions nor agents.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from data.drug_target.records import VOTE, Modality, Profile, Quality, Reading
from data.drug_target.tables import load
from env_server.envs.drug_target import biology
from env_server.seeds import Stream

Row = tuple[float, ...]  # chance of each level, and last of no data

WORST: Final = 0.48  # no channel errs more often than this

# Where a number is shown with a level, it is drawn evenly inside the band of the level *reported*:
# it says nothing that the level does not.
BANDS: Final[Mapping[str, tuple[str, tuple[tuple[float, float], ...]]]] = MappingProxyType(
    {
        "expr": ("log2FC", ((-0.5, 0.5), (0.5, 1.5), (1.5, 4.0))),
        "spec": ("nTPM in vital tissue", ((10.0, 80.0), (5.0, 10.0), (0.1, 5.0))),
        "dep": ("gene effect", ((-0.2, 0.1), (-0.6, -0.2), (-1.6, -0.6))),
        "drug": ("score", ((0.05, 0.35), (0.35, 0.65), (0.65, 0.97))),
        "T": ("score", ((0.05, 0.35), (0.35, 0.65), (0.65, 0.97))),
        "allo": ("site score", ((0.05, 0.40), (0.60, 0.90))),
        "sel": ("fold", ((1.0, 5.0), (5.0, 50.0), (50.0, 500.0))),
        "tox": ("margin", ((0.3, 2.0), (2.0, 10.0), (10.0, 50.0))),
        "clin": ("effect", ((-0.3, -0.02), (-0.02, 0.1), (0.1, 0.6))),
        "strat": ("hazard ratio", ((0.85, 1.10), (0.35, 0.70))),
        "pharm": ("IC50 nM", ((5e3, 5e4), (300.0, 5e3), (5.0, 300.0))),
    }
)
WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "spec": ("BROAD", "PARTIAL", "RESTRICTED"),
        "dep": ("NONE", "PARTIAL", "STRONG"),
        "tox": ("SEVERE", "MANAGEABLE", "MILD"),
        "clin": ("NEGATIVE", "MIXED", "POSITIVE"),
        "allo": ("ABSENT", "PRESENT"),
        "strat": ("ABSENT", "PRESENT"),
        VOTE: ("NO_GO", "GO"),
    }
)
THREE: Final = ("LOW", "MEDIUM", "HIGH")
NO_DATA: Final = "NO_DATA"


def levels_of(factor: str) -> int:
    """How many levels a reading of this factor may report."""
    return 2 if factor in ("allo", "strat", VOTE) else 3


def word(factor: str, reported: int | None) -> str:
    """A reported level in words; None is no data."""
    return NO_DATA if reported is None else WORDS.get(factor, THREE)[reported]


@cache
def confusion(reading: Reading, quality: Quality) -> tuple[Row, ...]:
    """Chance of each report by true level: one row a level, its last entry no data. Rows sum to 1.

    A vote's two rows are no_go and go; it errs alike in any quality of data.
    """
    if reading.factor == VOTE:
        wrong = reading.error
        return ((1 - wrong, wrong, 0.0), (wrong, 1 - wrong, 0.0))
    noise = load().noise[quality]
    rate = noise.false_positive
    if reading.literature and noise.literature_false_positive is not None:
        rate = noise.literature_false_positive / max(reading.error, 1.0)
    up = min(WORST, rate * reading.error * reading.upward)
    down = min(WORST, noise.false_negative * reading.error)
    rows = _binary(up, down) if levels_of(reading.factor) == 2 else _ternary(up, down)
    seen = noise.coverage
    return tuple((*(p * seen for p in row), 1 - seen) for row in rows)


def _binary(up: float, down: float) -> tuple[Row, ...]:
    return ((1 - up, up), (down, 1 - down))


def _ternary(up: float, down: float) -> tuple[Row, ...]:
    return (
        (1 - up, 0.75 * up, 0.25 * up),
        (0.6 * down, 1 - 0.6 * (up + down), 0.6 * up),
        (0.25 * down, 0.75 * down, 1 - down),
    )


def draw(
    stream: Stream, reading: Reading, profile: Profile, modality: Modality, quality: Quality
) -> tuple[int | None, float | None]:
    """(the level reported, the number shown with it); (None, None) is no data."""
    if reading.factor == VOTE:
        true = int(biology.decision(profile, modality) == "go")
    else:
        true = biology.level(reading.factor, profile, modality)
    left = stream.uniform()
    for reported, chance in enumerate(confusion(reading, quality)[true][:-1]):
        left -= chance
        if left < 0:
            return reported, _number(stream, reading.factor, reported)
    return None, None


def _number(stream: Stream, factor: str, reported: int) -> float | None:
    if factor not in BANDS:
        return None
    low, high = BANDS[factor][1][reported]
    return float(f"{stream.uniform(low, high):.3g}")


def unit(factor: str) -> str:
    """What the number beside a level counts."""
    return BANDS[factor][0] if factor in BANDS else ""
