"""How a network of one hidden layer learns from rows and rewards: Adam, by hand, the same bits every time.

Knows `eval.neural_ts.Weights`; nothing of what rows mean or where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.neural_ts import Floats, Rows, Weights


@dataclass(frozen=True, slots=True)
class Fit:
    """One training of the network. `decay` is divided by the number of rows, as lambda / n."""

    epochs: int = 100
    batch: int = 64
    lr: float = 0.01
    decay: float = 1.0
    patience: int = 10  # epochs without a better loss before the rate falls to a tenth
    betas: tuple[float, float] = (0.9, 0.999)


def gradient(weights: Weights, rows: Rows, values: Floats, decay: float) -> tuple[Weights, float]:
    """(gradient of mean squared error + decay/2 * |weights|^2, the mean squared error)."""
    hidden = weights.hidden(rows)
    error = hidden @ weights.last + weights.base - values
    loss = float((error**2).mean())
    error *= 2 / len(error)
    through = error[:, None] * weights.last * (hidden > 0)
    slope = Weights(
        np.asarray(rows.T @ through), through.sum(0), hidden.T @ error, error.sum(keepdims=True)
    )
    for part, weight in zip(slope.parts(), weights.parts(), strict=True):
        part += decay * weight
    return slope, loss


def fit(
    weights: Weights, rows: Rows, values: Floats, knobs: Fit, rng: np.random.Generator
) -> float:
    """Train `weights` in place from where they are; returns the last epoch's loss."""
    n, rate, best, worse = rows.shape[0], knobs.lr, np.inf, 0
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in weights.parts()]
    step, loss = 0, 0.0
    for _ in range(knobs.epochs):
        order, losses = rng.permutation(n), []
        for at in range(0, n, knobs.batch):
            chosen = order[at : at + knobs.batch]
            slope, loss = gradient(weights, rows[chosen], values[chosen], knobs.decay / n)
            losses.append(loss)
            step += 1
            _adam(weights, slope, moments, rate, step, knobs.betas)
        loss = float(np.mean(losses))
        # torch's ReduceLROnPlateau: better means by a ten-thousandth
        worse = 0 if loss < best * (1 - 1e-4) else worse + 1
        best = min(best, loss)
        if worse > knobs.patience:
            rate, worse = rate / 10, 0
    return loss


def _adam(
    weights: Weights,
    slope: Weights,
    moments: list[tuple[Floats, Floats]],
    rate: float,
    step: int,
    betas: tuple[float, float],
) -> None:
    first_left, second_left = 1 - betas[0] ** step, 1 - betas[1] ** step
    for part, grad, (first, second) in zip(weights.parts(), slope.parts(), moments, strict=True):
        first *= betas[0]
        first += (1 - betas[0]) * grad
        second *= betas[1]
        second += (1 - betas[1]) * grad * grad
        part -= (rate / first_left) * first / (np.sqrt(second / second_left) + 1e-8)
