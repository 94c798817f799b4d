"""Which combinations a belief calls dangerous, and how right that is.

Two rules: the paper's (mean - 3 spreads above the threshold, parameters' spread alone), and ours (the
largest set, of rows likelier dangerous than not, whose expected precision is still what was asked).
Knows no search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from eval.neural_ts import Floats, NeuralTS, Rows
from training.combinations import THRESHOLD, Combinations

Flags = npt.NDArray[np.bool_]
# RR is rounded to hundredths, so that being above the threshold means this much before rounding
PASSED = THRESHOLD + 0.005


def beyond(mean: Floats, variance: Floats, sigmas: float = 3.0) -> Flags:
    """The paper's rule: dangerous even `sigmas` spreads below the mean."""
    answer: Flags = mean - sigmas * np.sqrt(variance) > THRESHOLD
    return answer


@dataclass(frozen=True, slots=True)
class Asked:
    """What was heard so far: `rows` in order, their `rewards`, the sd of the noise on each."""

    rows: npt.NDArray[np.int64]
    rewards: Floats
    noise: Floats


def probability(model: NeuralTS, features: Rows, asked: Asked, remember: bool) -> Floats:
    """(N,) chance that each row's RR passes; rows that were asked are judged by their answers too."""
    mean = model.mean(features)
    variance = model.variance(features) + model.scatter(mean) ** 2
    return probability_of(mean, variance, asked if remember else None)


def probability_of(mean: Floats, variance: Floats, asked: Asked | None) -> Floats:
    """(N,) chance to pass of normal beliefs, after the answers in `asked` where they are given."""
    mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    if asked is not None and len(asked.rows):
        _condition(mean, variance, asked)
    chance: Floats = ndtr((mean - PASSED) / np.sqrt(np.maximum(variance, 1e-12)))
    return chance


def _condition(mean: Floats, variance: Floats, asked: Asked) -> None:
    """Each answer, in turn, moves its row's normal belief; exact ones settle it."""
    weight = np.zeros(len(mean))
    total = np.zeros(len(mean))
    exact = asked.noise <= 0
    told = 1 / np.maximum(asked.noise, 1e-9) ** 2
    np.add.at(weight, asked.rows[~exact], told[~exact])
    np.add.at(total, asked.rows[~exact], (told * asked.rewards)[~exact])
    heard = np.flatnonzero(weight)
    before = 1 / np.maximum(variance[heard], 1e-12)
    mean[heard] = (before * mean[heard] + total[heard]) / (before + weight[heard])
    variance[heard] = 1 / (before + weight[heard])
    mean[asked.rows[exact]] = asked.rewards[exact]
    variance[asked.rows[exact]] = 0


def expected_precision(chance: Floats, wanted: float) -> Flags:
    """The largest set, likeliest first, of which `wanted` is expected to be right.

    No row is in it that is likelier harmless: where most rows are sure, a mean alone would let those in.
    """
    likely = np.flatnonzero(chance > 0.5)
    order = likely[np.argsort(-chance[likely], kind="stable")]
    so_far = np.cumsum(chance[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(so_far >= wanted)
    flags = np.zeros(len(chance), dtype=bool)
    if len(good):
        flags[order[: good[-1] + 1]] = True
    return flags


def judged(data: Combinations, flags: Flags, asked: npt.NDArray[np.int64]) -> dict[str, float]:
    """Precision, recall, patterns found, and the share of the flags that was never asked about.

    A pattern is found when some flagged dangerous row is nearest to it. Precision of no flags is nan.
    """
    right = flags & data.dangerous
    flagged = int(flags.sum())
    never = flags.copy()
    never[asked] = False
    return {
        "precision": float(right.sum() / flagged) if flagged else float("nan"),
        "recall": float(right.sum() / data.dangerous.sum()),
        "flagged": flagged,
        "right": int(right.sum()),
        "patterns": len(np.unique(nearest(data, np.flatnonzero(right)))),
        "never_asked": float(never.sum() / flagged) if flagged else float("nan"),
    }


def nearest(data: Combinations, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The pattern each row is nearest to, counted in drugs that differ."""
    bits, patterns = data.bits[rows].astype(np.int32), data.patterns.astype(np.int32)
    apart = patterns.sum(1) - 2 * (bits @ patterns.T)
    return apart.argmin(1)
