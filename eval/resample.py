"""A sample drawn again and again: bootstrap intervals and sign flips, whole matrices at a time.

B resamples, N patients, S statistics (or samples) side by side. Knows arrays and generators;
nothing of what a value means. Strata are drawn each by itself, as a table of several tasks was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.uint8]

_AT_ONCE = 4_000_000  # cells of a matrix that is filled at once: 32 MB of integers
SAME = 1e-12  # scores are sums of a few decimals: what is nearer than this is equal


def draw_counts(sizes: Sequence[int], resamples: int, rng: np.random.Generator) -> Counts:
    """How often each patient is in each resample, shape (B, N): `sizes` patients a stratum.

    Every row draws as many patients of a stratum, with replacement, as the stratum has.
    """
    counts = np.empty((resamples, sum(sizes)), dtype=np.uint8)
    first = 0
    for size in sizes:
        for rows in _blocks(resamples, size):
            drawn = rng.integers(0, size, (rows.stop - rows.start, size))
            drawn += np.arange(len(drawn))[:, None] * size
            flat = np.bincount(drawn.ravel(), minlength=drawn.size)
            counts[rows, first : first + size] = flat.reshape(-1, size)
        first += size
    return counts


@lru_cache(maxsize=2)
def fixed_counts(sizes: tuple[int, ...], resamples: int, seed: int) -> Counts:
    """`draw_counts` that every row of one table shares."""
    return draw_counts(sizes, resamples, np.random.default_rng(seed))


def resampled_sums(counts: Counts, values_NS: Floats) -> Floats:
    """Sum of each column of `values_NS` over each resample, shape (B, S)."""
    sums = np.empty((len(counts), values_NS.shape[1]))
    for rows in _blocks(*counts.shape):
        sums[rows] = counts[rows].astype(np.float64) @ values_NS
    return sums


def bca(
    resampled_BS: Floats, observed_S: Floats, jackknife: Sequence[Floats], level: float = 0.95
) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated bounds (Efron 1987), each of shape (S,).

    jackknife: for each stratum the statistic without one patient in turn, shape (N_h, S). Where the
    correction has no answer (all resamples on one side, or all alike) the percentiles stand.
    """
    from scipy.special import ndtr, ndtri

    below = np.mean(resampled_BS < observed_S - SAME, axis=0)
    at_or_below = np.mean(resampled_BS <= observed_S + SAME, axis=0)
    with np.errstate(all="ignore"):
        bias = ndtri((below + at_or_below) / 2)
        pull = _acceleration(jackknife)
        bounds = []
        for tail in ((1 - level) / 2, (1 + level) / 2):
            moved = bias + ndtri(tail)
            corrected = ndtr(bias + moved / (1 - pull * moved))
            bounds.append(np.where(np.isfinite(corrected), corrected, np.nan))
    unanswered = np.isnan(bounds[0]) | np.isnan(bounds[1])
    low = np.where(unanswered, (1 - level) / 2, bounds[0])
    high = np.where(unanswered, (1 + level) / 2, bounds[1])
    ordered = np.sort(resampled_BS, axis=0)
    return _quantile(ordered, low), _quantile(ordered, high)


def percentiles(resampled_BS: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """The middle `level` of the resampled statistics, each bound of shape (S,)."""
    ordered, ones = np.sort(resampled_BS, axis=0), np.ones(resampled_BS.shape[1])
    return _quantile(ordered, ones * (1 - level) / 2), _quantile(ordered, ones * (1 + level) / 2)


def sign_flip_ps(gaps_NS: Floats, flips: int, rng: np.random.Generator) -> Floats:
    """Two-sided p of a mean of zero for each column, shape (S,): every gap might have been its mirror.

    Exact where there are at most `flips` patterns of signs; else sampled, the observed one counted
    in, so that p is never zero and never too small on average.
    """
    n = len(gaps_NS)
    exact = 2**n <= flips
    extreme = np.abs(gaps_NS.sum(axis=0)) - SAME * n
    total = gaps_NS.sum(axis=0)
    reached = np.zeros(gaps_NS.shape[1])
    for kept in _every_pattern(n) if exact else _patterns(n, flips, rng):
        reached += np.sum(np.abs(2 * (kept @ gaps_NS) - total) >= extreme, axis=0)
    return reached / 2**n if exact else (reached + 1) / (flips + 1)


def _every_pattern(n: int) -> Iterator[Floats]:
    yield ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _patterns(n: int, flips: int, rng: np.random.Generator) -> Iterator[Floats]:
    for rows in _blocks(flips, n):
        shape = rows.stop - rows.start, n
        yield rng.integers(0, 2, shape, dtype=np.int8).astype(np.float64)


def _acceleration(jackknife: Sequence[Floats]) -> Any:
    """A sixth of the skewness of the statistic, from what each patient moves it."""
    cubes, squares = 0.0, 0.0
    for left_out in jackknife:
        n = len(left_out)
        moved = (n - 1) * (left_out.mean(axis=0) - left_out)
        cubes = cubes + (moved**3).sum(axis=0) / n**3
        squares = squares + (moved**2).sum(axis=0) / n**2
    return cubes / (6 * squares**1.5)


def _quantile(ordered_BS: Floats, share_S: Floats) -> Floats:
    """The `share` quantile of each column, between two order statistics where it falls there."""
    at = share_S * (len(ordered_BS) - 1)
    below = np.clip(np.floor(at).astype(int), 0, len(ordered_BS) - 1)
    above = np.minimum(below + 1, len(ordered_BS) - 1)
    column = np.arange(ordered_BS.shape[1])
    found: Floats = ordered_BS[below, column] + (at - below) * (
        ordered_BS[above, column] - ordered_BS[below, column]
    )
    return found


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` rows, so that a block of them is never larger than memory likes."""
    step = max(1, _AT_ONCE // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
