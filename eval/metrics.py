"""How sure a mean is, how sure a difference is: intervals and tests clustered by patient.

Knows numbers and the patients they belong to; nothing of agents, tasks or tables. What scipy
computes is scipy's (bootstrap, permutation, trimmed mean); the rest is a few lines of numpy.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from env_server.contract import RoundsError

Floats: TypeAlias = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 4000
SEED = 20260  # of the resampling alone: the same results give the same interval


class NothingToMeasure(RoundsError, ValueError):
    """A statistic was asked of no values at all."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % interval. low and high are None where one patient is all there is."""

    mean: float
    low: float | None
    high: float | None
    n: int  # patients


@dataclass(frozen=True, slots=True)
class Difference:
    """One agent against a baseline on the patients both played.

    p: two-sided sign-flip permutation test. wins: probability of improvement, ties counted half.
    detectable: the smallest true difference this n would have found in 80 of 100 repetitions.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    wins: float
    detectable: float | None
    n: int


def estimate(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of `values` with a BCa bootstrap interval that resamples whole clusters.

    clusters: the patient of each value; None where every value is a patient of its own.
    Raises NothingToMeasure on no values.
    """
    sums, counts = _by_cluster(values, clusters)
    mean = fsum(sums.tolist()) / float(counts.sum())
    low, high = _interval(sums, counts, mean)
    return Estimate(mean, low, high, len(sums))


def paired_difference(
    ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float]
) -> Difference:
    """How much better `ours` is than `theirs`, patient by patient, on the patients in both.

    Raises NothingToMeasure where no patient is in both.
    """
    both = [patient for patient in ours if patient in theirs]
    gaps = np.array([ours[patient] - theirs[patient] for patient in both], dtype=np.float64)
    found = estimate(gaps.tolist())
    wins = float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))
    p, detectable = sign_flip_p(gaps), smallest_detectable(gaps)
    return Difference(found.mean, found.low, found.high, p, wins, detectable, len(both))


def sign_flip_p(gaps: Floats) -> float:
    """Two-sided p of a mean difference of zero: exact for few pairs, sampled beyond."""
    if not np.any(gaps):
        return 1.0
    from scipy import stats  # a second to import: `--help` must not wait for it

    tested = stats.permutation_test(
        (gaps,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(SEED),
    )
    return float(tested.pvalue)


def smallest_detectable(gaps: Floats, power: float = 0.8) -> float | None:
    """The true mean difference a two-sided 5 % test on as many pairs finds with `power`."""
    if len(gaps) < 2:
        return None
    from scipy import stats

    z = stats.norm.ppf(0.5 + LEVEL / 2) + stats.norm.ppf(power)
    return float(z * gaps.std(ddof=1) / np.sqrt(len(gaps)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: each result stays in [p, 1]."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = worst
    return corrected


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: neither the easiest nor the hopeless patients decide it."""
    if not values:
        raise NothingToMeasure("an interquartile mean needs at least one value")
    from scipy import stats

    return float(stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25))


def share_of_optimum(attained: Sequence[float], optimum: Sequence[float]) -> float | None:
    """What was gained of what could be gained, over all patients; None where nothing could be.

    A ratio of sums: a ratio a patient would let those with almost nothing to gain shout.
    """
    possible = sum(optimum)
    return sum(attained) / possible if possible > 0 else None


def _by_cluster(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[Floats, Floats]:
    """(sum, count) of each cluster, in order of first appearance."""
    if not len(values):
        raise NothingToMeasure("an estimate needs at least one value")
    if clusters is None:
        return np.asarray(values, dtype=np.float64), np.ones(len(values))
    at = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    index = [at[cluster] for cluster in clusters]
    sums, counts = np.zeros(len(at)), np.zeros(len(at))
    np.add.at(sums, index, np.asarray(values, dtype=np.float64))
    np.add.at(counts, index, 1.0)
    return sums, counts


def _interval(sums: Floats, counts: Floats, mean: float) -> tuple[float | None, float | None]:
    if len(sums) < 2:
        return None, None
    if np.ptp(sums / counts) < 1e-12:  # all patients alike: the bootstrap has nothing to move
        return mean, mean
    from scipy import stats

    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"):
            found = stats.bootstrap(
                (sums, counts),
                _ratio,
                paired=True,
                vectorized=True,
                method=method,
                confidence_level=LEVEL,
                n_resamples=RESAMPLES,
                rng=np.random.default_rng(SEED),
            ).confidence_interval
        # BCa has no answer where all resamples fall on one side of the mean
        if isfinite(found.low) and isfinite(found.high):
            return float(found.low), float(found.high)
    return None, None


def _ratio(sums: Floats, counts: Floats, axis: int = -1) -> Any:
    return sums.sum(axis=axis) / counts.sum(axis=axis)
