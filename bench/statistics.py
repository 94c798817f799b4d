"""Whether the table's statistics keep their word: power, false alarms and coverage, by simulation.

`python -m bench.statistics` measures how scores of real agents spread on `review_budgeted`, plants a
difference of 0.03 (or none) between two of them, and asks the table's own tests 4 000 times.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.promise import Figure, report
from env_server import registry
from env_server.contract import Family
from env_server.seeds import Stream
from eval.metrics import improvement, interquartile_estimate, interquartile_mean
from eval.resample import Floats, bca, draw_counts, resampled_sums, sign_flip_ps

TASK = "review_budgeted"
PLANTED = 0.03
SLIPS = 0.05  # share of moves made at random: what costs the heuristic about 0.03 on this task
AT_ONCE = 250  # samples that share one set of resamples or flips
RESAMPLES = 1999
DEMO = Path(__file__).resolve().parents[1] / "docs" / "results" / "demo" / "before_after.json"

Told: TypeAlias = NDArray[Any]  # yes or no of each simulation
Draw = Callable[[int, int, np.random.Generator], Floats]  # (n, samples, rng) -> (n, samples)


# -- what real scores look like ----------------------------------------------------------------


def heuristic_scores(family: Family, patients: int, slips: float = 0.0, run: int = 0) -> Floats:
    """Scores of the heuristic on validation patients; chance makes `slips` of its moves."""
    return np.array([_score(family, seed, slips, run) for seed in range(patients)])


def _score(family: Family, seed: int, slips: float, run: int) -> float:
    episode = family.begin(TASK, seed, "validation")
    player = family.agents["heuristic"].make(episode)
    chance = Stream("bench.statistics", TASK, seed, run)
    while not episode.done:
        if slips and chance.chance(slips):
            episode.step(chance.choice(episode.legal_actions()))
        else:
            episode.step(player.act(episode.observe(), episode.legal_actions))
    return episode.score()


class Spread:
    """Measured scores, and the pairs of agents that are simulated from them.

    `steady` never slips; `slipping` and `also_slipping` do, each by itself. A pair's gaps are drawn
    with replacement from the measured patients, so correlation and shape are theirs.
    """

    def __init__(self, family: Family, patients: int) -> None:
        self.steady = heuristic_scores(family, patients)
        self.slipping = heuristic_scores(family, patients, SLIPS, run=1)
        self.also_slipping = heuristic_scores(family, patients, SLIPS, run=2)

    def slips_less(self, n: int, samples: int, rng: np.random.Generator) -> Floats:
        """Gaps of the steady one less one that slips on some patients: on average exactly PLANTED."""
        gaps = self.steady - self.slipping
        return self._thinned(gaps, np.zeros_like(gaps), n, samples, rng)

    def improves(self, n: int, samples: int, rng: np.random.Generator) -> Floats:
        """Gaps of two that slip by themselves, one of which finds the best review on some patients."""
        gaps = self.also_slipping - self.slipping
        either_way = rng.choice([-1.0, 1.0], (n, samples))
        who = rng.integers(0, len(gaps), (n, samples))
        ours = np.where(either_way > 0, self.also_slipping[who], self.slipping[who])
        share = PLANTED / (0.999 - (self.slipping.mean() + self.also_slipping.mean()) / 2)
        better = (0.999 - ours) * (rng.random((n, samples)) < share)
        return gaps[who] * either_way + better

    def no_better(self, n: int, samples: int, rng: np.random.Generator) -> Floats:
        """Gaps of two that slip by themselves: which is which is chance, so the truth is zero."""
        gaps = self.also_slipping - self.slipping
        who = rng.integers(0, len(gaps), (n, samples))
        return gaps[who] * rng.choice([-1.0, 1.0], (n, samples))

    def no_better_but_skewed(self, n: int, samples: int, rng: np.random.Generator) -> Floats:
        """Gaps that are zero on average and far from symmetric: often a little, seldom a lot."""
        gaps = self.steady - self.slipping
        return (gaps - gaps.mean())[rng.integers(0, len(gaps), (n, samples))]

    def _thinned(
        self, gaps: Floats, rest: Floats, n: int, samples: int, rng: np.random.Generator
    ) -> Floats:
        who = rng.integers(0, len(gaps), (n, samples))
        share = PLANTED / gaps.mean()
        return np.where(rng.random((n, samples)) < share, gaps[who], rest[who])


# -- what the table would say ------------------------------------------------------------------


def simulated_tables(draw: Draw, n: int, samples: int, seed: int) -> tuple[Floats, Floats]:
    """(p, mean gap) of each of `samples` tables of n patients."""
    rng, p, means = np.random.default_rng(seed), [], []
    for size in _portions(samples):
        gaps = draw(n, size, rng)
        p.append(sign_flip_ps(gaps, RESAMPLES, rng))
        means.append(gaps.mean(axis=0))
    return np.concatenate(p), np.concatenate(means)


def mean_intervals(
    values_NS: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[Floats, Floats]:
    """`eval.metrics.estimate` for many samples side by side, which share their resamples."""
    n = len(values_NS)
    means = resampled_sums(draw_counts([n], resamples, rng), values_NS) / n
    without = (values_NS.sum(axis=0) - values_NS) / (n - 1)
    return bca(means, values_NS.mean(axis=0), [without])


def held(draw: Draw, truth: float, n: int, samples: int, seed: int) -> Told:
    """Of each of `samples` samples whether its 95 % interval of the mean holds the truth."""
    rng, told = np.random.default_rng(seed), []
    for size in _portions(samples):
        low, high = mean_intervals(draw(n, size, rng), rng)
        told.append((low <= truth) & (truth <= high))
    return np.concatenate(told)


def _portions(samples: int) -> Iterator[int]:
    yield from [AT_ONCE] * (samples // AT_ONCE)
    if samples % AT_ONCE:
        yield samples % AT_ONCE


# -- figures -----------------------------------------------------------------------------------


def power(spread: Spread, n: int, samples: int, seed: int) -> list[Figure]:
    """The planted difference is found often enough, and where there is none it is seldom found.

    Skewed gaps are shown and promised nothing: the sign-flip test is exact for symmetric ones.
    """
    pairs = {"one slips": spread.slips_less, "both slip, one improves": spread.improves}
    nulls = {"both slip": spread.no_better, "skewed gaps": spread.no_better_but_skewed}
    figures = [_spread_of(spread)]
    for name, draw in pairs.items():
        p, means = simulated_tables(draw, n, samples, seed)
        right = (p < 0.05) & (means > 0)  # of the wrong sign it is not found
        figures += [
            _sd(f"{name}: sd of a gap", draw, seed),
            _share(f"{name}: {PLANTED} found", right, "least", 0.80),
        ]
    for name, draw in nulls.items():
        promise = ("most", 0.05) if draw == spread.no_better else (None, None)
        p, _ = simulated_tables(draw, n, samples, seed)
        figures += [
            _sd(f"{name}: sd of a gap", draw, seed),
            _share(f"{name}: 0 called a difference", p < 0.05, *promise),
        ]
    return figures


def coverage(spread: Spread, samples: int, seed: int) -> list[Figure]:
    """How often a nominal 95 % interval holds the mean, for scores as they are and for worse ones.

    Thirty patients are shown and promised nothing: of gaps that are mostly zero they tell too little.
    """
    both, one = spread.also_slipping - spread.slipping, spread.steady - spread.slipping
    shapes: dict[str, tuple[Draw, float]] = {
        "scores of the heuristic": (_from(spread.steady), float(spread.steady.mean())),
        "gaps, both slip": (_from(both), float(both.mean())),
        "gaps, one slips": (_from(one), float(one.mean())),
        "Beta(.6, .4)": (_beta(0.6, 0.4), 0.6),
        "Beta(.5, 4)": (_beta(0.5, 4.0), 1 / 9),
        ".999 or .001, 3 to 1": (_either(0.75), 0.7495),
    }
    figures = []
    for n, least in ((30, None), (100, 0.90), (500, 0.93)):
        for name, (draw, truth) in shapes.items():
            told = held(draw, truth, n, samples, seed)
            at = None if least is None else "least"
            figures.append(_share(f"covered, n {n}: {name}", told, at, least))
    return figures


def other_coverage(spread: Spread, samples: int, seed: int, n: int = 100) -> list[Figure]:
    """The same for the interquartile mean and for the probability of improvement."""
    rng, scores = np.random.default_rng(seed), spread.steady
    gaps = spread.steady - spread.slipping
    middle = interquartile_mean(scores.tolist())
    better = improvement(gaps.tolist()).mean
    in_middle, in_wins = [], []
    for _ in range(samples):
        own = interquartile_estimate(scores[rng.integers(0, len(scores), n)].tolist())
        in_middle.append(_within(own.low, middle, own.high))
        won = improvement(gaps[rng.integers(0, len(gaps), n)].tolist())
        in_wins.append(_within(won.low, better, won.high))
    return [
        _share(f"covered, n {n}: interquartile mean", np.array(in_middle), "least", 0.90),
        _share(f"covered, n {n}: probability of improvement", np.array(in_wins), "least", 0.90),
    ]


def _within(low: float | None, truth: float, high: float | None) -> float:
    return float(low is not None and high is not None and low <= truth <= high)


def _from(pool: Floats) -> Draw:
    return lambda n, samples, rng: pool[rng.integers(0, len(pool), (n, samples))]


def _beta(a: float, b: float) -> Draw:
    return lambda n, samples, rng: rng.beta(a, b, (n, samples))


def _either(share: float) -> Draw:
    return lambda n, samples, rng: np.where(rng.random((n, samples)) < share, 0.999, 0.001)


def _share(name: str, told: Told, at: str | None, bound: float | None) -> Figure:
    """A share of simulations with its Wilson interval; broken only where all of that is beyond."""
    from scipy.stats import binomtest

    hits, n = int(told.sum()), len(told)
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return Figure(name, hits / n, "share", n, at, bound, float(low), float(high), True)  # type: ignore[arg-type]


def _sd(name: str, draw: Draw, seed: int) -> Figure:
    gaps = draw(100_000, 1, np.random.default_rng(seed))
    return Figure(name, float(gaps.std(ddof=1)), "score", 100_000)


def _spread_of(spread: Spread) -> Figure:
    scores = spread.steady
    return Figure("heuristic: sd of a score", float(scores.std(ddof=1)), "score", len(scores))


def committed() -> list[Figure]:
    """What the pair of models in docs/results/demo could have told apart at its own n."""
    rows = json.loads(DEMO.read_text("utf-8"))["rows"]
    row = next(row for row in rows if row["agent"] == "grpo")
    name = "warm start and GRPO of the demo: detectable"
    return [Figure(name, row["detectable"], "score", row["n"])]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.statistics", description=__doc__)
    parser.add_argument("--patients", type=int, default=600, help="validation patients measured")
    parser.add_argument("--n", type=int, default=500, help="patients of a simulated table")
    parser.add_argument("--samples", type=int, default=4000, help="simulated tables a figure")
    parser.add_argument("--seed", type=int, default=0, help="of the simulations")
    parser.add_argument("--json", action="store_true", help="print JSON with the machine")
    asked = parser.parse_args(argv)
    if asked.patients < 40 or asked.n < 2 or asked.samples < 10:
        parser.error("at least --patients 40, --n 2 and --samples 10: fewer plant nothing")
    print(f"{TASK}: {asked.patients} patients, three times", file=sys.stderr)
    spread = Spread(registry.get("polypharmacy"), asked.patients)
    print(f"{asked.samples} simulated tables a figure", file=sys.stderr)
    figures = power(spread, asked.n, asked.samples, asked.seed)
    figures += committed()
    figures += coverage(spread, max(1, asked.samples // 2), asked.seed)
    figures += other_coverage(spread, max(1, asked.samples // 10), asked.seed)
    seeds = f"patients 0 to {asked.patients - 1} of validation; simulations from {asked.seed}"
    return report("bench.statistics", figures, as_json=asked.json, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
