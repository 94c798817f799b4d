"""Whether stated chances come true: Brier score, log loss, calibration error, and reliability by tenths.

Knows forecasts alone, (stated chance, whether it came true); nothing of who made them or of what.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, log
from typing import TypeAlias

Forecast: TypeAlias = tuple[float, bool]  # the chance that was stated, and whether it came true
Bin: TypeAlias = tuple[int, float, float]  # forecasts, mean stated chance, share that came true

BINS = 10
LEAST = (
    1e-6  # a chance no smaller than this is charged for in log loss: certain and wrong stays finite
)


def brier(forecasts: Sequence[Forecast]) -> float | None:
    """Mean squared distance of what was stated from what came true; .25 for always one half."""
    return _mean([(p - true) ** 2 for p, true in forecasts])


def log_loss(forecasts: Sequence[Forecast]) -> float | None:
    """Mean of -log of the chance given to what came true, in nats; .693 for always one half."""
    return _mean([-log(max(p if true else 1 - p, LEAST)) for p, true in forecasts])


def calibration_error(forecasts: Sequence[Forecast], bins: int = BINS) -> float | None:
    """Expected calibration error: distance of stated from true in each bin, weighed by its forecasts."""
    if not forecasts:
        return None
    found = reliability(forecasts, bins)
    return fsum(n * abs(stated - true) for n, stated, true in found) / len(forecasts)


def reliability(forecasts: Sequence[Forecast], bins: int = BINS) -> tuple[Bin, ...]:
    """Bins of equal width over [0, 1] that hold a forecast, from low to high."""
    held: dict[int, list[Forecast]] = {}
    for p, true in forecasts:
        held.setdefault(min(int(p * bins), bins - 1), []).append((p, true))
    return tuple(
        (len(own), fsum(p for p, _ in own) / len(own), sum(t for _, t in own) / len(own))
        for _, own in sorted(held.items())
    )


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
