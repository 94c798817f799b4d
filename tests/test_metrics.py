"""The numbers of the table, against closed forms and against scipy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.statistics import held, mean_intervals
from eval import metrics
from eval.metrics import (
    NothingToMeasure,
    estimate,
    holm,
    improvement,
    interquartile_estimate,
    interquartile_mean,
    paired_difference,
    share_of_optimum,
    sign_flip_p,
    smallest_detectable,
)
from eval.resample import sign_flip_ps

DRAWS = np.random.default_rng(1).normal(0.3, 0.2, 400)


def test_the_interval_of_a_mean_is_the_normal_one_where_the_sample_is_large_and_normal():
    found = estimate(DRAWS.tolist())
    half = stats.norm.ppf(0.975) * DRAWS.std(ddof=1) / np.sqrt(len(DRAWS))
    assert found.mean == pytest.approx(DRAWS.mean())
    assert found.n == 400
    assert found.low == pytest.approx(DRAWS.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(DRAWS.mean() + half, abs=0.1 * half)


# -- against scipy, resample for resample ---------------------------------------------------------


def bootstrap(*samples: np.ndarray, statistic, paired: bool = False, method: str = "BCa"):  # type: ignore[no-untyped-def]
    """scipy's interval, drawn by the same generator."""
    found = stats.bootstrap(
        samples, statistic, paired=paired, vectorized=True, method=method, confidence_level=0.95,
        n_resamples=metrics.RESAMPLES, rng=np.random.default_rng(metrics.SEED),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


@pytest.mark.parametrize("n", [7, 30, 300])
@pytest.mark.parametrize("shape", [(0.6, 0.4), (0.5, 4.0), (8.0, 1.0)])
def test_the_interval_of_a_mean_is_scipys_bca(n: int, shape: tuple[float, float]):
    scores = np.random.default_rng(n).beta(*shape, n)
    found = estimate(scores.tolist())
    # of 7, one resample in 160 is all of them: equal means, which scipy orders by their rounding
    near = 1e-12 if n > 10 else 2e-3
    assert (found.low, found.high) == pytest.approx(bootstrap(scores, statistic=np.mean), abs=near)


def test_the_interval_over_clusters_of_unequal_size_is_scipys_bca_of_a_ratio():
    rng = np.random.default_rng(8)
    sizes = rng.integers(1, 5, 40)
    patient = np.repeat(np.arange(40), sizes)
    values = rng.beta(0.5, 0.5, 40)[patient] * 0.7 + 0.3 * rng.beta(2, 2, len(patient))
    sums = np.bincount(patient, values)

    def ratio(total, count, axis):  # type: ignore[no-untyped-def]
        return total.sum(axis=axis) / count.sum(axis=axis)

    expected = bootstrap(sums, sizes.astype(float), statistic=ratio, paired=True)
    shuffled = rng.permutation(len(values))
    found = estimate(values[shuffled].tolist(), patient[shuffled].tolist())
    in_order = estimate(values.tolist(), patient.tolist())
    assert (in_order.low, in_order.high) == pytest.approx(expected, abs=1e-12)
    # the order of patients is another draw of the same bootstrap, not another answer
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert (found.mean, found.n) == (pytest.approx(in_order.mean), 40)


def test_the_interval_within_strata_is_scipys_bca_of_several_samples():
    rng = np.random.default_rng(9)
    easy, hard = rng.beta(9, 1, 60), rng.beta(1, 3, 25)

    def pooled(a, b, axis):  # type: ignore[no-untyped-def]
        return (a.sum(axis=axis) + b.sum(axis=axis)) / (a.shape[axis] + b.shape[axis])

    expected = bootstrap(easy, hard, statistic=pooled)
    found = estimate([*easy, *hard], None, ["easy"] * 60 + ["hard"] * 25)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    assert found.mean == pytest.approx((easy.sum() + hard.sum()) / 85)


def test_many_samples_at_once_have_the_intervals_each_would_have_alone():
    samples = np.random.default_rng(17).beta(0.6, 0.4, (40, 5))
    rng = np.random.default_rng(metrics.SEED)
    low, high = mean_intervals(samples, rng, metrics.RESAMPLES)
    alone = [estimate(column.tolist()) for column in samples.T]
    assert low == pytest.approx([found.low for found in alone])
    assert high == pytest.approx([found.high for found in alone])


def test_drawing_within_tasks_leaves_out_the_spread_between_them():
    rng = np.random.default_rng(10)
    scores = [*rng.normal(0.9, 0.01, 50), *rng.normal(0.1, 0.01, 50)]
    within = estimate(scores, None, ["a"] * 50 + ["b"] * 50)
    across = estimate(scores)
    assert within.low is not None and within.high is not None and across.low is not None
    assert within.high - within.low < 0.01
    assert across.low < 0.45


def test_a_task_of_one_patient_is_drawn_together_with_the_others():
    values = [0.1, 0.9, 0.4, 0.6, 0.2]
    assert estimate(values, None, [*"aaaab"]) == estimate(values)
    assert estimate(values, None, [*"abcde"]) == estimate(values)


def test_the_interval_of_an_interquartile_mean_is_scipys_percentile_one():
    scores = np.random.default_rng(11).beta(0.6, 0.4, 90)

    def middle(x, axis):  # type: ignore[no-untyped-def]
        return stats.trim_mean(x, 0.25, axis=axis)

    found = interquartile_estimate(scores.tolist())
    expected = bootstrap(scores, statistic=middle, method="percentile")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    assert found.mean == pytest.approx(stats.trim_mean(scores, 0.25))


def test_the_interval_of_an_interquartile_mean_over_tasks_draws_within_each():
    rng = np.random.default_rng(12)
    easy, hard = rng.beta(9, 1, 40), rng.beta(1, 3, 40)

    def middle(a, b, axis):  # type: ignore[no-untyped-def]
        return stats.trim_mean(np.concatenate([a, b], axis=axis), 0.25, axis=axis)

    expected = bootstrap(easy, hard, statistic=middle, method="percentile")
    found = interquartile_estimate([*easy, *hard], None, ["easy"] * 40 + ["hard"] * 40)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 11, 102])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int):
    scores = np.random.default_rng(n).random(n)
    assert interquartile_mean(scores.tolist()) == pytest.approx(stats.trim_mean(scores, 0.25))


@pytest.mark.parametrize(
    ("n", "draw", "truth", "least"),
    [
        (30, lambda rng, shape: rng.beta(0.6, 0.4, shape), 0.6, 0.92),
        (30, lambda rng, shape: rng.beta(0.5, 4.0, shape), 1 / 9, 0.90),
        (100, lambda rng, shape: rng.beta(0.5, 4.0, shape), 1 / 9, 0.92),
        (100, lambda rng, shape: np.where(rng.random(shape) < 0.75, 0.999, 0.001), 0.7495, 0.93),
        (500, lambda rng, shape: rng.beta(0.6, 0.4, shape), 0.6, 0.93),
    ],
)
def test_ninety_five_of_a_hundred_intervals_hold_the_truth(
    n: int, draw: Callable[..., np.ndarray], truth: float, least: float
):
    told = held(lambda n, samples, rng: draw(rng, (n, samples)), truth, n, 1000, seed=5)
    # 95 % less what bounded and skewed scores cost; 1.4 % is two standard errors of the simulation
    assert least - 0.014 <= told.mean() <= 0.98


def test_four_attempts_at_one_patient_are_not_four_patients():
    few = np.random.default_rng(2).normal(0, 1, 50)
    again = np.repeat(few, 4)
    clustered = estimate(again.tolist(), np.repeat(np.arange(50), 4).tolist())
    alone, pretended = estimate(few.tolist()), estimate(again.tolist())
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high))
    assert clustered.n == 50
    assert pretended.low is not None and clustered.low is not None
    assert pretended.low > clustered.low


def test_clusters_of_unequal_size_weigh_by_their_size():
    assert estimate([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]).mean == pytest.approx(0.75)


def test_equal_values_have_an_interval_of_no_width_and_one_patient_has_none():
    assert estimate([0.999] * 20) == metrics.Estimate(0.999, 0.999, 0.999, 20)
    assert estimate([0.4]) == metrics.Estimate(0.4, None, None, 1)


def test_an_interval_is_the_same_every_time():
    assert estimate(DRAWS.tolist()) == estimate(DRAWS.tolist())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.001, 0.2, 0.5, 0.999]), min_size=2, max_size=12))
def test_an_interval_holds_its_mean_and_stays_within_the_values(values: list[float]):
    found = estimate(values)
    assert found.low is not None and found.high is not None
    assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(values) + 1e-9


def test_a_statistic_of_nothing_is_refused():
    with pytest.raises(NothingToMeasure):
        estimate([])
    with pytest.raises(NothingToMeasure):
        interquartile_mean([])
    with pytest.raises(NothingToMeasure):
        paired_difference({1: 0.5}, {2: 0.5})


def test_few_pairs_get_the_exact_permutation_p():
    # all four gaps positive: of 16 sign patterns only this one and its mirror are as extreme
    assert sign_flip_p(np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(2 / 16)
    # one of four negative and smallest: also {-,+,+,+}'s own ties and mirrors
    assert sign_flip_p(np.array([-0.1, 0.2, 0.3, 0.4])) == pytest.approx(4 / 16)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_exact_p_is_the_share_of_sign_patterns_that_are_as_extreme(n: int):
    gaps = np.random.default_rng(n).normal(0.3, 1.0, n).round(1)
    patterns = np.array(list(itertools.product([1, -1], repeat=n)))
    extreme = np.abs(patterns @ gaps) >= abs(gaps.sum()) - 1e-9
    assert sign_flip_p(gaps) == pytest.approx(extreme.mean())
    theirs = stats.permutation_test(
        (gaps,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert sign_flip_p(gaps) == pytest.approx(theirs.pvalue)


def test_a_sampled_p_is_near_the_exact_one_and_never_zero():
    gaps = np.random.default_rng(6).normal(0.4, 1.0, 16)
    patterns = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = float(np.mean(np.abs(patterns @ gaps) >= abs(gaps.sum()) - 1e-9))
    assert sign_flip_p(gaps) == pytest.approx(exact, abs=4 * (exact / metrics.FLIPS) ** 0.5)
    assert sign_flip_p(np.full(60, 0.1)) == pytest.approx(1 / (metrics.FLIPS + 1))


def test_ties_change_no_p():
    gaps = np.array([0.3, -0.1, 0.2, 0.4, 0.1])
    assert sign_flip_p(np.concatenate([gaps, np.zeros(200)])) == sign_flip_p(gaps)


def test_under_no_difference_one_p_in_twenty_is_below_a_twentieth():
    rng = np.random.default_rng(13)
    gaps = rng.choice([-1.0, 1.0], (80, 2000)) * rng.beta(0.3, 2.0, (80, 2000))
    told = sign_flip_ps(gaps, 999, rng) < 0.05
    assert 0.035 <= told.mean() <= 0.065  # 3 standard errors


def test_many_pairs_get_the_p_of_the_paired_t_test_nearly():
    gaps = np.random.default_rng(3).normal(0.03, 0.3, 300)
    assert sign_flip_p(gaps) == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, abs=0.02)


def test_no_difference_at_all_has_a_p_of_one():
    same = dict.fromkeys(range(10), 0.5)
    found = paired_difference(same, dict(same))
    assert (found.mean, found.low, found.high, found.p, found.wins) == (0.0, 0.0, 0.0, 1.0, 0.5)


def test_a_difference_is_taken_on_the_patients_that_both_have():
    found = paired_difference({1: 0.9, 2: 0.5, 3: 0.1}, {2: 0.4, 3: 0.1, 4: 0.0})
    assert found.n == 2
    assert found.mean == pytest.approx(0.05)
    assert found.wins == pytest.approx(0.75)


def test_differences_over_tasks_are_drawn_within_each_task():
    rng = np.random.default_rng(14)
    ours = {(task, i): shift + rng.normal(0, 0.02) for task, shift in (("a", 0.5), ("b", -0.4)) for i in range(40)}  # fmt: skip
    theirs = dict.fromkeys(ours, 0.0)
    within = paired_difference(ours, theirs, lambda patient: patient[0])
    across = paired_difference(ours, theirs)
    assert within.mean == across.mean
    assert within.low is not None and across.low is not None
    assert within.mean - within.low < 0.01 < across.mean - across.low
    assert within.detectable is not None and across.detectable is not None
    assert within.detectable < across.detectable / 5


def test_the_probability_of_improvement_has_the_interval_of_a_mean_of_wins():
    gaps = np.random.default_rng(15).normal(0.1, 1.0, 120).round(1)
    found = improvement(gaps.tolist())
    wins = np.where(gaps > 0, 1.0, np.where(gaps == 0, 0.5, 0.0))
    assert found == estimate(wins.tolist())
    assert found.mean == pytest.approx(wins.mean())


@pytest.mark.parametrize("n", [3, 20, 500])
def test_where_every_patient_does_better_the_interval_is_the_exact_one(n: int):
    exact = stats.binomtest(n, n).proportion_ci(method="exact")
    found = improvement([0.1] * n)
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, exact.low, 1.0))
    assert improvement([-0.1] * n).high == pytest.approx(1 - exact.low)
    tied = improvement([0.0] * n)
    assert (tied.low, tied.high) == pytest.approx((exact.low / 2, 1 - exact.low / 2))


def test_pairing_finds_what_the_spread_of_patients_would_hide():
    hard = np.random.default_rng(4).uniform(0, 1, 100)
    theirs = dict(enumerate(hard.tolist()))
    ours = {seed: score + 0.01 for seed, score in theirs.items()}
    found = paired_difference(ours, theirs)
    assert found.low is not None and found.low > 0
    assert found.p < 0.001


def test_the_smallest_detectable_difference_is_the_textbook_one():
    gaps = np.array([1.0, -1.0] * 50)
    expected = (1.959964 + 0.841621) * gaps.std(ddof=1) / 10
    assert smallest_detectable(gaps) == pytest.approx(expected, rel=1e-5)
    assert smallest_detectable(gaps[:1]) is None


def test_the_smallest_detectable_difference_is_found_in_four_of_five_repetitions():
    rng = np.random.default_rng(16)
    pilot = rng.beta(2, 5, (400, 2)) @ np.array([1.0, -1.0])
    least = smallest_detectable(pilot[:150])
    assert least is not None
    spread = pilot[:150] - pilot[:150].mean()
    gaps = least + rng.choice([-1.0, 1.0], (150, 2000)) * rng.choice(spread, (150, 2000))
    assert (sign_flip_ps(gaps, 999, rng) < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_holm_gives_the_worked_examples():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.0001, 0.7, 0.02, 0.0125]) == pytest.approx([0.0004, 0.7, 0.04, 0.0375])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]):
    rejected: set[int] = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if min(1.0, p_values[i] * (len(p_values) - rank)) > 0.05:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_nor_changes_the_order(p_values: list[float]):
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    by_p = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in by_p] == sorted(corrected)


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean([0.0, 0.4, 0.6, 100.0]) == pytest.approx(0.5)


def test_the_share_of_the_optimum_is_a_ratio_of_sums():
    assert share_of_optimum([0.1, 0.0, 0.4], [0.2, 0.0, 0.8]) == pytest.approx(0.5)
    assert share_of_optimum([0.0], [0.0]) is None
