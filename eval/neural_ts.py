"""What a neural Thompson sampler believes: a small network, a straight leg beside it, and how sure both are.

The gradients of a network with one hidden layer have a closed form, so the spread of 100 000 rows is
two matrix products. numpy alone: plays and serves without torch. Knows neither drugs nor training.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = Any  # (N, D): an array, or a scipy.sparse matrix, which most combinations are


@dataclass(slots=True)
class Weights:
    """Every parameter of f(x) = relu(x @ first + shift) @ last + base, or one number for each of them."""

    first: Floats  # (D, H)
    shift: Floats  # (H,)
    last: Floats  # (H,)
    base: Floats  # (1,)

    @classmethod
    def drawn(cls, inputs: int, hidden: int, rng: np.random.Generator) -> Weights:
        """Uniform within 1/sqrt(fan-in), as torch.nn.Linear begins."""
        wide, narrow = 1 / np.sqrt(inputs), 1 / np.sqrt(hidden)
        return cls(
            rng.uniform(-wide, wide, (inputs, hidden)).astype(np.float32),
            rng.uniform(-wide, wide, hidden).astype(np.float32),
            rng.uniform(-narrow, narrow, hidden).astype(np.float32),
            rng.uniform(-narrow, narrow, 1).astype(np.float32),
        )

    def filled(self, value: float) -> Weights:
        return Weights(*(np.full_like(part, value) for part in self.parts()))

    def parts(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.first, self.shift, self.last, self.base

    def wider(self, inputs: int) -> Weights:
        """The same function of more inputs: the new ones weigh nothing yet."""
        more = np.zeros((inputs - len(self.first), self.first.shape[1]), self.first.dtype)
        return Weights(np.concatenate((self.first, more)), self.shift, self.last, self.base)

    def hidden(self, rows: Rows) -> Floats:
        """(N, H) activations."""
        active: Floats = np.maximum(np.asarray(rows @ self.first) + self.shift, 0)
        return active

    def __call__(self, rows: Rows) -> Floats:
        """(N,) predictions."""
        answer: Floats = self.hidden(rows) @ self.last + self.base
        return answer


@dataclass(slots=True)
class Neural:
    """A network and the diagonal U of its gradients' outer products, begun at `lam`."""

    weights: Weights
    precision: Weights
    lam: float = 1.0

    @classmethod
    def fresh(cls, weights: Weights, lam: float) -> Neural:
        return cls(weights, weights.filled(lam), lam)

    def observe(self, rows: Rows) -> None:
        """U += sum over rows of g * g, g being the gradient of f at the row with today's weights."""
        hidden = self.weights.hidden(rows)
        through = (hidden > 0) * self.weights.last**2  # (N, H): square of df/dpre
        self.precision.first += np.asarray(_squared(rows).T @ through)
        self.precision.shift += through.sum(0)
        self.precision.last += (hidden**2).sum(0)
        self.precision.base += rows.shape[0]

    def refresh(self, rows: Rows) -> None:
        """U again from nothing, as the present network sees all these rows."""
        self.precision = self.weights.filled(self.lam)
        self.observe(rows)

    def variance(self, rows: Rows) -> Floats:
        """(N,): lam * sum of g*g / U, the square of the spread where nu is 1."""
        hidden, u = self.weights.hidden(rows), self.precision
        through = np.asarray(_squared(rows) @ (1 / u.first)) + 1 / u.shift
        through *= (hidden > 0) * self.weights.last**2
        answer: Floats = through.sum(1) + hidden**2 @ (1 / u.last) + 1 / u.base
        return answer * self.lam


def _squared(rows: Rows) -> Rows:
    return rows.multiply(rows).tocsr() if sparse.issparse(rows) else rows * rows


@dataclass(slots=True)
class Leg:
    """A straight line through the features with its exact Gaussian posterior."""

    mean: float
    slope: Floats  # (F,)
    root: Floats  # (F, F) lower triangle: its square is the covariance of the slope

    def __call__(self, rows: Rows) -> Floats:
        answer: Floats = np.asarray(rows @ self.slope) + self.mean
        return answer

    def variance(self, rows: Rows) -> Floats:
        answer: Floats = (np.asarray(rows @ self.root) ** 2).sum(1)
        return answer

    def drawn(self, rng: np.random.Generator) -> Leg:
        """One line that the data allow."""
        slope = self.slope + self.root @ rng.standard_normal(len(self.slope)).astype(np.float32)
        return Leg(self.mean, slope.astype(np.float32), self.root)

    @classmethod
    def fitted(cls, rows: Rows, values: Floats, weight: Floats, ridge: float) -> Leg:
        """Weighted least squares around the mean; weight is one over the variance of a value."""
        mean = float(np.average(values, weights=weight))
        weighted = rows.multiply(weight[:, None]).tocsr()
        gram = np.asarray((rows.T @ weighted).todense(), dtype=np.float64)
        gram[np.diag_indices_from(gram)] += ridge
        inverse = np.linalg.inv(gram)
        slope = inverse @ (weighted.T @ (values - mean))
        root = np.linalg.cholesky((inverse + inverse.T) / 2)
        return cls(mean, slope.astype(np.float32), root.astype(np.float32))


@dataclass(slots=True)
class NeuralTS:
    """The whole belief about a reward: `neural`, with a `leg` where there is one, over drugs and `pairs`.

    pairs: (P, 2) columns whose product is a feature too. bins, noise: predictions at which the
    unexplained sd changes, and that sd in each bin; empty where nothing was measured.
    """

    neural: Neural
    leg: Leg | None
    pairs: npt.NDArray[np.int64]
    bins: Floats
    noise: Floats

    def features(self, bits: Rows) -> Rows:
        return with_pairs(bits, self.pairs)

    def mean(self, rows: Rows) -> Floats:
        """(N,) predictions of feature rows."""
        answer = self.neural.weights(rows)
        return answer if self.leg is None else answer + self.leg(rows)

    def variance(self, rows: Rows) -> Floats:
        """(N,) squares of what the parameters leave open."""
        answer = self.neural.variance(rows)
        return answer if self.leg is None else answer + self.leg.variance(rows)

    def scatter(self, mean: Floats) -> Floats:
        """(N,) sd of rewards around predictions of this height."""
        if not len(self.noise):
            return np.zeros_like(mean)
        answer: Floats = self.noise[np.searchsorted(self.bins, mean)]
        return answer

    def sample(self, rows: Rows, rng: np.random.Generator, nu: float, noise_scaled: bool) -> Floats:
        """(N,) Thompson samples: one line for all rows, and a normal draw for each from the network."""
        drawn = self.neural.weights(rows)
        sd = nu * np.sqrt(self.neural.variance(rows))
        if noise_scaled and len(self.noise):
            sd = sd * float(np.median(self.noise))
        drawn = drawn + sd * rng.standard_normal(len(sd)).astype(np.float32)
        return drawn if self.leg is None else drawn + self.leg.drawn(rng)(rows)


def with_pairs(bits: Rows, pairs: npt.NDArray[np.int64]) -> Rows:
    """float32 CSR rows of `bits` with one more column for each pair: 1 where both drugs are taken."""
    rows = sparse.csr_matrix(bits, dtype=np.float32)
    if not len(pairs):
        return rows
    columns = rows.tocsc()
    both = columns[:, pairs[:, 0]].multiply(columns[:, pairs[:, 1]])
    return sparse.hstack((rows, both), format="csr", dtype=np.float32)


def save(model: NeuralTS, path: Path) -> None:
    """One safetensors file, in place only once it is whole."""
    from safetensors.numpy import save_file

    half = path.with_suffix(".part")
    save_file(tensors(model), half)
    half.replace(path)


def tensors(model: NeuralTS) -> dict[str, Floats]:
    """Every array of a model by name."""
    named = {
        "pairs": np.ascontiguousarray(model.pairs),
        "bins": model.bins,
        "noise": model.noise,
        "lam": np.array([model.neural.lam]),
    }
    for field in fields(Weights):
        named[f"weights.{field.name}"] = getattr(model.neural.weights, field.name)
        named[f"precision.{field.name}"] = getattr(model.neural.precision, field.name)
    if model.leg is not None:
        named |= {"leg.slope": model.leg.slope, "leg.root": model.leg.root}
        named["leg.mean"] = np.array([model.leg.mean])
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def load(path: Path) -> NeuralTS:
    """The model that `save` wrote."""
    from safetensors.numpy import load_file

    return from_tensors(load_file(path))


def from_tensors(named: dict[str, Floats]) -> NeuralTS:
    weights = Weights(*(named[f"weights.{f.name}"] for f in fields(Weights)))
    precision = Weights(*(named[f"precision.{f.name}"] for f in fields(Weights)))
    leg = None
    if "leg.slope" in named:
        leg = Leg(float(named["leg.mean"][0]), named["leg.slope"], named["leg.root"])
    neural = Neural(weights, precision, float(named["lam"][0]))
    return NeuralTS(neural, leg, named["pairs"], named["bins"], named["noise"])
