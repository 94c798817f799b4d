"""The closed forms are what autograd says, learning learns, and evolution is no worse than scipy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, sparse

from eval import neural_ts
from eval.neural_ts import Leg, Neural, NeuralTS, Weights
from training.evolution import Evolution, _two_others, differential_evolution
from training.fitting import Fit, fit, gradient


def a_network(inputs: int = 6, hidden: int = 5, seed: int = 0) -> Weights:
    drawn = Weights.drawn(inputs, hidden, np.random.default_rng(seed))
    return Weights(*(part.astype(np.float64) for part in drawn.parts()))


def some_rows(n: int = 7, inputs: int = 6, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(n, inputs))


def through_torch(weights: Weights) -> tuple[list[torch.Tensor], Any]:
    parts = [torch.tensor(part, requires_grad=True) for part in weights.parts()]
    first, shift, last, base = parts
    return parts, lambda rows: torch.relu(torch.tensor(rows) @ first + shift) @ last + base


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_the_spread_is_what_autograd_gives_row_by_row(form: Any) -> None:
    weights, rows = a_network(), some_rows()
    neural = Neural.fresh(weights, lam=0.7)
    neural.observe(form(rows))
    parts, network = through_torch(weights)
    grads = []
    for row in rows:
        slopes = torch.autograd.grad(network(row[None]).sum(), parts)
        grads.append(np.concatenate([s.numpy().ravel() for s in slopes]))
    u = 0.7 + sum(g * g for g in grads)
    wanted = [0.7 * (g * g / u).sum() for g in grads]
    assert np.allclose(neural.variance(form(rows)), wanted)


def test_the_gradient_of_the_loss_is_what_autograd_gives() -> None:
    weights, rows = a_network(), some_rows()
    values = np.arange(7.0)
    slope, loss = gradient(weights, rows, values, decay=0.3)
    parts, network = through_torch(weights)
    error = ((network(rows) - torch.tensor(values)) ** 2).mean()
    decay = 0.15 * sum((p**2).sum() for p in parts)
    (error + decay).backward()
    assert loss == pytest.approx(float(error.detach()))
    for ours, theirs in zip(slope.parts(), parts, strict=True):
        assert theirs.grad is not None
        assert np.allclose(ours, theirs.grad.numpy())


def test_adam_and_its_plateau_are_torchs() -> None:
    weights, rows = a_network(), some_rows()
    values = rows[:, 0] * 2
    parts, network = through_torch(weights)
    adam = torch.optim.Adam(parts, lr=0.05, weight_decay=0.1 / 7)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=1)
    for _ in range(40):
        adam.zero_grad()
        loss = ((network(rows) - torch.tensor(values)) ** 2).mean()
        loss.backward()
        adam.step()
        plateau.step(float(loss.detach()))
    knobs = Fit(epochs=40, batch=7, lr=0.05, decay=0.1, patience=1)
    # one batch holds every row, so the order they come in does not matter
    fit(weights, rows, values, knobs, np.random.default_rng(0))
    for ours, theirs in zip(weights.parts(), parts, strict=True):
        assert np.allclose(ours, theirs.detach().numpy(), atol=1e-6)


def test_a_line_with_a_flat_prior_is_least_squares() -> None:
    rows, rng = some_rows(200), np.random.default_rng(2)
    values = rows @ np.arange(6.0) + 3 + rng.normal(size=200)
    leg = Leg.fitted(sparse.csr_matrix(rows), values, np.ones(200), ridge=1e-9)
    wanted = np.linalg.lstsq(rows, values - values.mean(), rcond=None)[0]
    assert np.allclose(leg.slope, wanted, atol=1e-4)
    covariance = np.linalg.inv(rows.T @ rows)
    assert np.allclose(leg.variance(rows), ((rows @ covariance) * rows).sum(1), rtol=1e-3)


def test_thompson_samples_scatter_as_the_posterior_says() -> None:
    rows, rng = some_rows(400), np.random.default_rng(3)
    leg = Leg.fitted(sparse.csr_matrix(rows), rows @ np.ones(6), np.ones(400), ridge=1.0)
    neural = Neural.fresh(a_network(), lam=1.0)
    neural.refresh(rows)
    none = np.zeros(0)
    model = NeuralTS(neural, leg, np.zeros((0, 2), np.int64), none, none)
    drawn = np.array([model.sample(rows[:5], rng, 1.0, False) for _ in range(4000)])
    assert np.allclose(drawn.mean(0), model.mean(rows[:5]), atol=0.05)
    assert np.allclose(drawn.var(0), model.variance(rows[:5]), rtol=0.15)


def test_a_pair_is_a_feature_where_both_drugs_are_taken() -> None:
    bits = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]])
    rows = neural_ts.with_pairs(bits, np.array([[0, 1], [1, 2]]))
    assert rows.toarray()[:, 3:].tolist() == [[1, 0], [0, 0], [1, 1]]


def test_a_model_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rows = some_rows(50).astype(np.float32)
    leg = Leg.fitted(sparse.csr_matrix(rows), rows[:, 0], np.ones(50), ridge=1.0)
    model = NeuralTS(
        Neural.fresh(a_network(), 1.0), leg, np.array([[0, 1]]), np.array([0.5]), np.array([1.0, 2])
    )
    neural_ts.save(model, tmp_path / "model.safetensors")
    again = neural_ts.load(tmp_path / "model.safetensors")
    for name, array in neural_ts.tensors(model).items():
        assert np.array_equal(array, neural_ts.tensors(again)[name]), name


# -- evolution --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4, 32])
def test_a_member_is_changed_by_two_others_that_differ(n: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = _two_others(n, rng)
        own = np.arange(n)
        assert (first != own).all() and (second != own).all() and (first != second).all()


@pytest.mark.slow
def test_evolution_finds_what_scipys_best1bin_finds() -> None:
    hidden = np.random.default_rng(4).integers(0, 2, 20).astype(np.float64)
    knobs = Evolution(population=60, steps=40)

    def ours(seed: int) -> float:
        rng = np.random.default_rng(seed)
        first = rng.integers(0, 2, (60, 20)).astype(np.float64)
        return differential_evolution(lambda m: -np.abs(m - hidden).sum(1), first, knobs, rng)[1]

    def theirs(seed: int) -> float:
        found = optimize.differential_evolution(
            lambda m: np.abs(m.round() - hidden).sum(),
            [(0, 1)] * 20,
            strategy="best1bin",
            mutation=1.0,
            recombination=0.9,
            popsize=3,
            maxiter=40,
            init="random",
            integrality=[True] * 20,
            polish=False,
            tol=0,
            rng=np.random.default_rng(seed),
        )
        return -float(found.fun)

    seeds = range(12)
    assert np.mean([ours(s) for s in seeds]) >= np.mean([theirs(s) for s in seeds]) - 0.5
    assert max(ours(s) for s in seeds) == 0  # the hidden row itself


def test_evolution_never_loses_its_best_member_and_stays_binary() -> None:
    rng = np.random.default_rng(5)
    first = rng.integers(0, 2, (10, 30)).astype(np.float32)
    weights = rng.normal(size=30)
    best, worth = differential_evolution(lambda m: m @ weights, first, Evolution(10, 16), rng)
    assert set(np.unique(best)) <= {0.0, 1.0}
    assert worth == pytest.approx(float(best @ weights))
    assert worth >= (first @ weights).max()


def test_too_small_a_population_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        Evolution(population=2)
