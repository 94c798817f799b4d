"""How sure a mean is, how sure a difference is: intervals and tests clustered by patient.

Knows values, the patients they belong to and the strata (tasks) patients were drawn in; nothing of
agents or tables. How a sample is drawn again is `resample`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from env_server.contract import RoundsError
from eval.resample import (
    SAME,
    Counts,
    Floats,
    bca,
    fixed_counts,
    percentiles,
    resampled_sums,
    sign_flip_ps,
)

Patient = TypeVar("Patient", bound=Hashable)

LEVEL = 0.95
RESAMPLES = 4000
FLIPS = 9999  # with the observed one ten thousand: p is a multiple of .0001
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

    p: two-sided sign-flip permutation test. wins: probability of improvement, ties counted half,
    with its 95 % interval. detectable: the smallest true difference this n would have found in 80
    of 100 repetitions.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    wins: float
    wins_low: float | None
    wins_high: float | None
    detectable: float | None
    n: int


@dataclass(frozen=True, slots=True)
class _Sample:
    """Values by patient, patients by stratum: what a bootstrap draws from."""

    values: Floats  # each value
    patient: NDArray[np.intp]  # of each value
    sizes: tuple[int, ...]  # patients of each stratum, which lie one after another

    @property
    def n(self) -> int:
        return sum(self.sizes)

    def counts(self) -> Counts:
        return fixed_counts(self.sizes, RESAMPLES, SEED)

    def sums(self) -> tuple[Floats, Floats]:
        """(sum, count) of the values of each patient."""
        n = self.n
        summed: Floats = np.bincount(self.patient, self.values, n).astype(np.float64)
        return summed, np.bincount(self.patient, minlength=n).astype(np.float64)


def estimate(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Estimate:
    """Mean of `values` with a BCa bootstrap interval that draws whole clusters within strata.

    clusters: the patient of each value; None where every value is a patient of its own. strata: the
    task of each value; None where there is one. Raises NothingToMeasure on no values.
    """
    sample = _sample(values, clusters, strata)
    mean = fsum(sample.values.tolist()) / len(sample.values)
    low, high = _mean_interval(sample, mean)
    return Estimate(mean, low, high, sample.n)


def interquartile_estimate(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Estimate:
    """Mean of the middle half of all values, with a percentile interval drawn as in `estimate`.

    Neither the easiest nor the hopeless patients decide it (Agarwal et al. 2021, over tasks and runs).
    """
    sample = _sample(values, clusters, strata)
    order = np.argsort(sample.values, kind="stable")
    ordered, patient = sample.values[order], sample.patient[order]
    middle = float(_middle_half(np.ones((1, len(ordered))), ordered)[0])
    if sample.n < 2:
        return Estimate(middle, None, None, sample.n)
    counts, resampled = sample.counts(), np.empty((RESAMPLES, 1))
    step = max(1, 1_000_000 // len(ordered))
    for start in range(0, RESAMPLES, step):
        drawn = counts[start : start + step, patient].astype(np.float64)
        resampled[start : start + step, 0] = _middle_half(drawn, ordered)
    low, high = percentiles(resampled, LEVEL)
    return Estimate(middle, float(low[0]), float(high[0]), sample.n)


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: a quarter is left out at each end, rounded down."""
    if not values:
        raise NothingToMeasure("an interquartile mean needs at least one value")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(_middle_half(np.ones((1, len(ordered))), ordered)[0])


def paired_difference(
    ours: Mapping[Patient, float],
    theirs: Mapping[Patient, float],
    stratum: Callable[[Patient], Hashable] | None = None,
) -> Difference:
    """How much better `ours` is than `theirs`, patient by patient, on the patients in both.

    stratum: the task of a patient; None where there is one. Raises NothingToMeasure where no
    patient is in both.
    """
    both = [patient for patient in ours if patient in theirs]
    gaps = np.array([ours[patient] - theirs[patient] for patient in both], dtype=np.float64)
    gaps[np.abs(gaps) < SAME] = 0.0
    strata = None if stratum is None else [stratum(patient) for patient in both]
    found = estimate(gaps.tolist(), None, strata)
    better = improvement(gaps.tolist(), strata)
    return Difference(
        found.mean,
        found.low,
        found.high,
        sign_flip_p(gaps),
        better.mean,
        better.low,
        better.high,
        smallest_detectable(gaps, strata),
        len(both),
    )


def improvement(gaps: Sequence[float], strata: Sequence[Hashable] | None = None) -> Estimate:
    """Probability that a patient does better, ties counted half, with its 95 % interval.

    Where all patients agree the bootstrap would be certain after any number of them; there the
    bounds are exact: what other outcome may still be that rare (Clopper and Pearson 1934).
    """
    wins = [1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps]
    found = estimate(wins, None, strata)
    if found.low is None or min(wins) < max(wins):
        return found
    unseen = 1 - ((1 - LEVEL) / 2) ** (1 / found.n)
    low, high = found.mean * (1 - unseen), found.mean + unseen * (1 - found.mean)
    return Estimate(found.mean, low, high, found.n)


def sign_flip_p(gaps: Floats) -> float:
    """Two-sided p of a mean difference of zero: exact for few pairs, sampled beyond."""
    told = gaps[gaps != 0]  # a tie is its own mirror: it moves nothing
    if not len(told):
        return 1.0
    return float(sign_flip_ps(told[:, None], FLIPS, np.random.default_rng(SEED))[0])


def smallest_detectable(
    gaps: Floats, strata: Sequence[Hashable] | None = None, power: float = 0.8
) -> float | None:
    """The true mean difference a two-sided 5 % test on as many pairs finds with `power`."""
    if len(gaps) < 2:
        return None
    from scipy.special import ndtri

    sample = _sample(gaps.tolist(), None, strata)
    squares, first = 0.0, 0
    for size in sample.sizes:
        own = sample.values[first : first + size]
        squares += size * float(own.var(ddof=1))
        first += size
    z = float(ndtri(0.5 + LEVEL / 2) + ndtri(power))
    return float(z * np.sqrt(squares) / sample.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: each result stays in [p, 1]."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = worst
    return corrected


def share_of_optimum(attained: Sequence[float], optimum: Sequence[float]) -> float | None:
    """What was gained of what could be gained, over all patients; None where nothing could be.

    A ratio of sums: a ratio a patient would let those with almost nothing to gain shout.
    """
    possible = sum(optimum)
    return sum(attained) / possible if possible > 0 else None


def _sample(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None,
    strata: Sequence[Hashable] | None,
) -> _Sample:
    """Patients in order of stratum, then of first appearance.

    A stratum of one patient has no spread to draw from: all are drawn as one stratum then.
    """
    if not len(values):
        raise NothingToMeasure("an estimate needs at least one value")
    named = range(len(values)) if clusters is None else clusters
    within = [None] * len(values) if strata is None else strata
    stratum_of = dict(zip(named, within, strict=True))
    members: dict[Hashable, list[Hashable]] = {}
    for patient, stratum in stratum_of.items():
        members.setdefault(stratum, []).append(patient)
    sizes = tuple(len(patients) for patients in members.values())
    ordered = [patient for patients in members.values() for patient in patients]
    at = {patient: i for i, patient in enumerate(ordered)}
    where = np.array([at[patient] for patient in named], dtype=np.intp)
    by_patient = np.argsort(where, kind="stable")
    held = np.asarray(values, dtype=np.float64)[by_patient]
    return _Sample(held, where[by_patient], sizes if min(sizes) > 1 else (sum(sizes),))


def _mean_interval(sample: _Sample, mean: float) -> tuple[float | None, float | None]:
    if sample.n < 2:
        return None, None
    sums, sizes = sample.sums()
    resampled = resampled_sums(sample.counts(), np.stack([sums, sizes], axis=1))
    means = resampled[:, :1] / resampled[:, 1:]
    if np.ptp(means) < SAME:  # all patients alike: the bootstrap has nothing to move
        return mean, mean
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    jackknife = np.split(without[:, None], np.cumsum(sample.sizes)[:-1])
    low, high = bca(means, np.array([mean]), jackknife, LEVEL)
    return float(low[0]), float(high[0])


def _middle_half(weights_BN: Floats, ordered: Floats) -> Floats:
    """Mean of the middle half of each weighted copy of the ordered values, shape (B,)."""
    reached = np.cumsum(weights_BN, axis=1)
    whole = reached[:, -1:]
    cut = np.floor(whole / 4)
    upto = np.clip(reached, cut, whole - cut)
    kept = np.diff(upto, axis=1, prepend=cut)
    found: Floats = kept @ ordered / (whole - 2 * cut)[:, 0]
    return found
