"""What needs no neural bandit: remember what was sampled, look at one drug at a time, draw a straight line.

Every table of the bandit shows these beside it. Each takes a set, a budget and a random stream, and
returns (flags, rows asked); rewards are exact.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eval.neural_ts import Leg, with_pairs
from training.combinations import THRESHOLD, Combinations
from training.flagging import Asked, Flags, beyond, expected_precision, probability_of

Screened = tuple[Flags, npt.NDArray[np.int64]]
NO_PAIRS = np.zeros((0, 2), np.int64)


def remembered(data: Combinations, budget: int, rng: np.random.Generator) -> Screened:
    """Ask random rows, with replacement as the authors do, and flag those that were dangerous."""
    asked = rng.integers(len(data.risk), size=budget)
    flags = np.zeros(len(data.risk), bool)
    flags[asked] = data.dangerous[asked]
    return flags, asked


def ridge_line(data: Combinations, budget: int, rng: np.random.Generator) -> Screened:
    """Fit a line to random rows; flag what is above the threshold by three spreads of its slopes."""
    asked = rng.choice(len(data.risk), budget, replace=False)
    bits = with_pairs(data.bits, NO_PAIRS)
    values = data.risk[asked].astype(float)
    leg = Leg.fitted(bits[asked], values, np.ones(budget), ridge=1.0)
    unexplained = float(np.var(values - leg(bits[asked])))
    return beyond(leg(bits), leg.variance(bits) * unexplained), asked


def marginal(data: Combinations, budget: int, rng: np.random.Generator) -> Screened:
    """Flag every row that holds a drug whose random rows are dangerous on average.

    A drug counts from three rows on.
    """
    asked = rng.choice(len(data.risk), budget, replace=False)
    bits = data.bits[asked].astype(float)
    count = bits.sum(0)
    mean = (bits * data.risk[asked][:, None]).sum(0) / np.maximum(count, 1)
    risky = (mean > THRESHOLD) & (count >= 3)
    flags: Flags = data.bits[:, risky].sum(1) > 0
    return flags, asked


def ridge_search(
    data: Combinations,
    budget: int,
    rng: np.random.Generator,
    warmup: int = 1000,
    batch: int = 500,
    cap: float = np.inf,
) -> Screened:
    """Ask what a line draws highest, never a row twice; flag what was dangerous and what is sure to be.

    Sure is a set of expected precision .98 under the line's own errors. The line learns from answers up to
    `cap`: those far above the threshold would bend it for all of their drugs.
    """
    bits = with_pairs(data.bits, NO_PAIRS)
    asked = rng.choice(len(data.risk), min(warmup, budget), replace=False)
    while True:
        values = data.risk[asked].astype(float)
        taught = np.minimum(values, cap)
        leg = Leg.fitted(bits[asked], taught, np.full(len(asked), 100.0), ridge=10.0)
        if len(asked) >= budget:
            break
        drawn = leg.drawn(rng)(bits)
        drawn[asked] = -np.inf
        room = min(batch, budget - len(asked))
        asked = np.concatenate((asked, np.argpartition(-drawn, room - 1)[:room]))
    unexplained = float(np.mean((taught - leg(bits[asked])) ** 2))
    heard = Asked(asked, values, np.zeros(len(asked)))
    chance = probability_of(leg(bits), leg.variance(bits) + unexplained, heard)
    return expected_precision(chance, 0.98), asked
