"""The numbers of the table, against closed forms and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval import metrics
from eval.metrics import (
    NothingToMeasure,
    estimate,
    holm,
    interquartile_mean,
    paired_difference,
    share_of_optimum,
    sign_flip_p,
    smallest_detectable,
)

DRAWS = np.random.default_rng(1).normal(0.3, 0.2, 400)


def test_the_interval_of_a_mean_is_the_normal_one_where_the_sample_is_large_and_normal():
    found = estimate(DRAWS.tolist())
    half = stats.norm.ppf(0.975) * DRAWS.std(ddof=1) / np.sqrt(len(DRAWS))
    assert found.mean == pytest.approx(DRAWS.mean())
    assert found.n == 400
    assert found.low == pytest.approx(DRAWS.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(DRAWS.mean() + half, abs=0.1 * half)


@pytest.mark.slow
def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        found = estimate(rng.beta(0.6, 0.4, 60).tolist())
        assert found.low is not None and found.high is not None
        held += found.low <= 0.6 <= found.high
    assert 180 <= held <= 199  # 95 % +- 3.3 standard errors


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


def test_holm_gives_the_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


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
