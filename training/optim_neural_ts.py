"""OptimNeuralTS: which combination to ask about next, when each answer costs one evaluation.

A warm-up of random rows, then Thompson sampling: over a population that evolves (the paper), or over
every row there is. Everything a run is made of lies in `state()`, so that it resumes to the bit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from eval import neural_ts
from eval.neural_ts import Floats, Leg, Neural, NeuralTS, Rows, Weights
from training.combinations import Combinations
from training.evolution import Evolution, differential_evolution
from training.fitting import Fit, fit
from training.flagging import PASSED, Asked, Flags, beyond, expected_precision, probability


@dataclass(frozen=True, slots=True)
class Search:
    """How rows are chosen and the belief is kept. The defaults are the authors'."""

    warmup: int = 20_000
    """Random rows asked first; their rewards are exact."""
    reward_noise: float = 0.1
    """Sd of the noise on every reward after the warm-up."""
    hidden: int = 128
    lam: float = 1.0
    nu: float = 1.0
    over: Literal["evolution", "pool"] = "evolution"
    """Where a Thompson sample is maximised: a small population that evolves, or every row."""
    refresh: bool = False
    """Work U out again with the present network after each training; else it only grows."""
    noise_scaled: bool = False
    """Multiply the network's spread by the sd that rewards are seen to have."""
    repeats: bool = True
    """A row may be asked again."""
    rows_a_step: int = 1
    """Rows asked between two looks at the belief."""
    retrain_every: int = 10
    """Steps between two trainings."""
    fit: Fit = field(default_factory=Fit)
    evolution: Evolution = field(default_factory=Evolution)
    leg: bool = False
    """Put a straight line with its exact posterior beside the network, which then learns the rest."""
    ridge: float = 10.0
    """Precision of the prior of the line's slopes."""
    pairs: int = 0
    """Pairs of drugs, at most, that become features because they stand out in what is unexplained."""
    cap: float | None = None
    """Answers above this teach no more than this; None takes them as they are."""
    bold: bool = False
    """A second line, which takes answers as they are, asks too: in proportion to the danger that it finds."""
    skip_sure: bool = False
    """Do not ask about rows that are flagged already."""
    remember: bool = False
    """Judge a row that was asked by its answer too."""
    precision: float | None = None
    """Flag the largest set of this expected precision; None is the paper's three spreads."""


class OptimNeuralTS:
    """One search of one set. `data.risk` is only read where a row is asked."""

    def __init__(self, data: Combinations, knobs: Search, seed: int) -> None:
        self.data, self.knobs = data, knobs
        self.rng = np.random.default_rng(seed)
        self.bits: Rows = neural_ts.with_pairs(data.bits, np.zeros((0, 2), np.int64))
        self.rows = np.zeros(0, np.int64)
        self.rewards = np.zeros(0)
        self.steps = 0
        self.union: Flags = np.zeros(len(data.risk), bool)
        weights = Weights.drawn(data.bits.shape[1], knobs.hidden, self.rng)
        none = np.zeros(0)
        pairs = np.zeros((0, 2), np.int64)
        self.model = NeuralTS(Neural.fresh(weights, knobs.lam), None, pairs, none, none)
        self.features: Rows = self.bits
        self.bold: Leg | None = None
        self.yields = np.ones(2)  # share of danger in what the belief asked last, and the bold line

    @property
    def asked(self) -> Asked:
        noise = np.full(len(self.rows), self.knobs.reward_noise)
        noise[: self.knobs.warmup] = 0
        return Asked(self.rows, self.rewards, noise)

    # -- asking -------------------------------------------------------------------------------

    def advance(self, budget: int) -> None:
        """Ask once more: the whole warm-up, or one step of the search, never beyond `budget` rows."""
        if not len(self.rows):
            self._warm_up(min(self.knobs.warmup, budget))
            return
        room = budget - len(self.rows)
        if self.knobs.over == "evolution":
            self._ask(self._evolved())
        else:
            self._ask_pool(min(self.knobs.rows_a_step, room))
        self.steps += 1
        if self.steps % self.knobs.retrain_every == 0:
            self._learn()

    def _warm_up(self, n: int) -> None:
        n = min(n, len(self.data.risk))
        # the authors draw with replacement
        drawn = self.rng.choice(len(self.data.risk), n, replace=self.knobs.repeats)
        self.rows = drawn.astype(np.int64)
        self.rewards = self.data.risk[drawn].astype(np.float64)
        self.model.neural.observe(self.bits[drawn])  # with the untrained network, as they did
        self._learn()

    def _ask(self, rows: np.ndarray) -> None:
        noise = self.knobs.reward_noise * self.rng.standard_normal(len(rows))
        self.rows = np.concatenate((self.rows, rows))
        self.rewards = np.concatenate((self.rewards, self.data.risk[rows] + noise))

    def _evolved(self) -> np.ndarray:
        """The real row nearest to the best member of a population that evolves towards high samples."""
        knobs = self.knobs
        first = self.rng.choice(len(self.data.risk), knobs.evolution.population, replace=False)
        best, _ = differential_evolution(
            lambda members: self._sample(self.model.features(members)),
            self.data.bits[first].astype(np.float32),
            knobs.evolution,
            self.rng,
        )
        self.model.neural.observe(self.model.features(best[None, :]))
        apart = self._sizes() - 2 * np.asarray(self.bits @ best)
        if not knobs.repeats:
            apart[self.rows] = np.inf
        return np.array([int(apart.argmin())])

    def _sizes(self) -> Floats:
        return np.diff(self.bits.indptr).astype(np.float32)

    def _ask_pool(self, n: int) -> None:
        """Ask what the belief draws highest of all rows, and some of what the bold line does."""
        sampled = self._sample(self.features)
        if self.knobs.skip_sure:
            sampled = np.where(self.sure(), sampled - 100, sampled)
        if not self.knobs.repeats:
            sampled[self.rows] = -np.inf
        own = n - self._boldly(n)
        chosen = highest(sampled, own)
        if self.bold is not None and own < n:
            drawn = self.bold.drawn(self.rng)(self.features)
            if not self.knobs.repeats:
                drawn[self.rows] = -np.inf
            drawn[chosen] = -np.inf
            chosen = np.concatenate((chosen, highest(drawn, n - own)))
        if not self.knobs.refresh:
            self.model.neural.observe(self.features[chosen])
        self._ask(chosen)
        if own < n:
            found = self.rewards[-n:] > PASSED
            self.yields = np.array([found[:own].mean(), found[own:].mean()])

    def _boldly(self, n: int) -> int:
        """How many of `n` rows the bold line asks: a tenth at least, as the belief does."""
        if self.bold is None or n < 2:
            return 0
        share = self.yields[1] / max(self.yields.sum(), 1e-9)
        return min(max(round(n * float(np.clip(share, 0.1, 0.9))), 1), n - 1)

    def _sample(self, rows: Rows) -> Floats:
        return self.model.sample(rows, self.rng, self.knobs.nu, self.knobs.noise_scaled)

    # -- learning -----------------------------------------------------------------------------

    def _learn(self) -> None:
        knobs, values = self.knobs, self._capped()
        rows = self.features[self.rows]
        if knobs.leg:
            rows, values = self._straighten()
        fit(self.model.neural.weights, rows, values.astype(np.float32), knobs.fit, self.rng)
        if knobs.refresh:
            self.model.neural.refresh(rows)
        if knobs.noise_scaled or knobs.precision is not None:
            self._measure_noise(rows)

    def _capped(self) -> Floats:
        """What the answers teach. One row far above the threshold would bend a line for all of its drugs."""
        return self.rewards if self.knobs.cap is None else np.minimum(self.rewards, self.knobs.cap)

    def _straighten(self) -> tuple[Rows, Floats]:
        """Fit the line, on single drugs and on pairs that stand out; (feature rows, what it leaves)."""
        asked, knobs = self.asked, self.knobs
        weight = 1 / (0.1**2 + asked.noise**2)  # 0.1: the scatter to expect of RR itself
        rows, values = self.bits[asked.rows], self._capped()
        leg = Leg.fitted(rows, values, weight, knobs.ridge)
        if knobs.pairs:
            self.model.pairs = standing_out(rows, values - leg(rows), knobs.pairs)
            self.features = self.model.features(self.bits)
            rows = self.features[asked.rows]
            leg = Leg.fitted(rows, values, weight, knobs.ridge)
        self.model.leg = leg
        if knobs.bold:
            self.bold = Leg.fitted(rows, asked.rewards, weight, knobs.ridge)
        self._follow_pairs(rows.shape[1])
        return rows, values - leg(rows)

    def _follow_pairs(self, inputs: int) -> None:
        """The network's inputs after the drugs are whatever pairs there are now: begin those anew."""
        drugs = self.data.bits.shape[1]
        weights = self.model.neural.weights
        fresh = Weights(weights.first[:drugs], weights.shift, weights.last, weights.base)
        self.model.neural = Neural.fresh(fresh.wider(inputs), self.knobs.lam)

    def _measure_noise(self, rows: Rows, bins: int = 12) -> None:
        """Sd of what is left over, by how high the prediction was; the rewards' own noise taken out."""
        asked = self.asked
        mean = self.model.mean(rows)
        left = self._capped() - mean
        if (
            self.model.leg is not None
        ):  # as if the row had not been fitted: a line bends to its rows
            pull = self.model.leg.variance(rows) / (0.1**2 + asked.noise**2)
            left = left / np.maximum(1 - pull, 0.05)
        left = left**2 - asked.noise**2
        edges = np.unique(np.quantile(mean, np.linspace(0, 1, bins + 1)[1:-1]))
        at = np.searchsorted(edges, mean)
        sizes = np.maximum(np.bincount(at, minlength=len(edges) + 1), 1)
        variance = np.bincount(at, weights=left, minlength=len(edges) + 1) / sizes
        self.model.bins = edges
        self.model.noise = np.sqrt(np.maximum(variance, 0.02**2))

    # -- judging ------------------------------------------------------------------------------

    def flags(self) -> Flags:
        """What is called dangerous now."""
        knobs = self.knobs
        if knobs.precision is None:
            mean, variance = self.model.mean(self.features), self.model.variance(self.features)
            return beyond(mean, variance)
        chance = probability(self.model, self.features, self.asked, knobs.remember)
        return expected_precision(chance, knobs.precision)

    def sure(self) -> Flags:
        """Rows whose danger needs no asking."""
        chance = probability(self.model, self.features, self.asked, remember=False)
        answer: Flags = chance > 0.99
        return answer

    # -- resuming -----------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], str]:
        """(every array, the rest as JSON): what `restore` needs to go on as if never stopped."""
        arrays = neural_ts.tensors(self.model)
        arrays |= {"rows": self.rows, "rewards": self.rewards, "union": self.union}
        arrays["yields"] = self.yields
        if self.bold is not None:
            arrays |= {"bold.slope": self.bold.slope, "bold.root": self.bold.root}
            arrays["bold.mean"] = np.array([self.bold.mean])
        return arrays, json.dumps({"rng": self.rng.bit_generator.state, "steps": self.steps})

    def restore(self, arrays: dict[str, Any], rest: str) -> None:
        told = json.loads(rest)
        self.rng.bit_generator.state = told["rng"]
        self.steps = told["steps"]
        self.rows, self.rewards = arrays["rows"], arrays["rewards"]
        self.union = arrays["union"].astype(bool)
        self.yields = arrays["yields"]
        if "bold.slope" in arrays:
            mean = float(arrays["bold.mean"][0])
            self.bold = Leg(mean, arrays["bold.slope"], arrays["bold.root"])
        self.model = neural_ts.from_tensors(arrays)
        self.features = self.model.features(self.bits)


def highest(values: Floats, n: int) -> np.ndarray:
    """The places of the `n` highest values, in no order."""
    return np.argpartition(-values, n - 1)[:n]


def standing_out(rows: Rows, left: Floats, most: int, deviations: float = 3.5) -> np.ndarray:
    """(P, 2) pairs of columns whose rows leave more unexplained than chance would, clearest first."""
    weighted = rows.multiply(left[:, None]).tocsr()
    total = np.asarray((rows.T @ weighted).todense())
    count = np.asarray((rows.T @ rows).todense())
    first, second = np.triu_indices(rows.shape[1], 1)
    n = count[first, second]
    score = np.where(n >= 2, total[first, second] / np.sqrt(np.maximum(n, 1)) / left.std(), 0)
    order = np.argsort(-score, kind="stable")[:most]
    order = order[score[order] > deviations]
    return np.stack((first[order], second[order]), axis=1).astype(np.int64)
