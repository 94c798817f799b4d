"""The exact filter against brute force, its calibration, and the planner against the optimum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.drug_target.records import QUALITIES, VOTE, Modality, Reading
from data.drug_target.tables import load
from env_server import registry
from env_server.envs.drug_target import biology, worlds
from env_server.envs.drug_target.actions import ORDERS
from env_server.envs.drug_target.agents import Filter
from env_server.envs.drug_target.belief import Observed, opening
from env_server.envs.drug_target.channels import confusion, levels_of
from env_server.envs.drug_target.planner import Offer, choose, expected_skills, skill
from env_server.seeds import Stream

FAMILY = cast(Any, registry.get("drug_target"))
TASKS = tuple(FAMILY.tasks)
CHANNELS = tuple(
    dict.fromkeys(r for a in load().assays.values() for v in a.variants for r in v.readings)
)
KINDS: tuple[Modality, ...] = ("small_molecule", "antibody_adc")


@pytest.mark.parametrize("reading", CHANNELS, ids=str)
def test_confusion_rows_sum_to_one_and_hold_no_negative_chance(reading: Reading) -> None:
    for quality in QUALITIES:
        for row in confusion(reading, quality):
            assert sum(row) == pytest.approx(1) and min(row) >= 0


@pytest.mark.parametrize("modality", KINDS)
def test_the_prior_is_a_distribution_and_even(modality: Modality) -> None:
    prior = worlds.prior(modality)
    assert prior.shape == (2, 4, 54, 162)
    assert prior.sum() == pytest.approx(1) and prior.min() >= 0
    assert opening(modality).p_go == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("modality", KINDS)
def test_a_profile_carries_weight_only_under_its_own_decision(modality: Modality) -> None:
    prior, go = worlds.prior(modality), worlds.worth(modality) >= biology.THRESHOLD
    assert prior[worlds.GO, :, ~go].sum() == 0 and prior[worlds.NO, :, go].sum() == 0


def brute_force(modality: Modality, observed: Sequence[Observed]) -> float:
    """P(go) by going through every state one at a time."""
    prior, total, go = worlds.prior(modality), 0.0, 0.0
    for row in range(54):
        for column in range(162):
            profile = worlds.profile_at(row, column)
            right = biology.decision(profile, modality) == "go"
            for at, quality in enumerate(QUALITIES):
                weight = float(prior[int(right), at, row, column])
                if weight == 0:
                    continue
                for reading, report in observed:
                    true = (
                        int(right)
                        if reading.factor == VOTE
                        else biology.level(reading.factor, profile, modality)
                    )
                    weight *= confusion(reading, quality)[true][-1 if report is None else report]
                total += weight
                go += weight * right
    return go / total


@pytest.mark.slow
@pytest.mark.parametrize("modality", KINDS)
def test_the_filter_agrees_with_brute_force_over_all_states(modality: Modality) -> None:
    draws = Stream("test brute force", modality)
    for _ in range(2):
        channels = draws.sample(CHANNELS, 5)
        observed = [(r, draws.choice([*range(levels_of(r.factor)), None])) for r in channels]
        found = opening(modality).after(observed).p_go
        assert found == pytest.approx(brute_force(modality, observed), abs=1e-12)


reports = st.lists(
    st.sampled_from(CHANNELS).flatmap(
        lambda r: st.tuples(st.just(r), st.sampled_from([*range(levels_of(r.factor)), None]))
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(observed=reports, turn=st.randoms(use_true_random=False), modality=st.sampled_from(KINDS))
def test_the_order_of_evidence_never_matters(
    observed: list[Observed], turn: Any, modality: Modality
) -> None:
    observed = [(r, 0 if r.factor == VOTE and o is None else o) for r, o in observed]
    mixed = list(observed)
    turn.shuffle(mixed)
    at_once = opening(modality).after(observed).p_go
    one_by_one = opening(modality)
    for item in mixed:
        one_by_one = one_by_one.after([item])
        assert 0 <= one_by_one.p_go <= 1
    assert one_by_one.p_go == pytest.approx(at_once, abs=1e-9)
    assert one_by_one.joint().sum() == pytest.approx(1)


def test_what_is_expected_of_a_reading_is_the_mean_over_what_it_may_report() -> None:
    belief = opening("small_molecule").after([(CHANNELS[0], 1), (CHANNELS[20], 2)])
    variants = tuple(v for a in load().assays.values() for v in a.variants if v.readings)
    expected = expected_skills(belief, variants)
    for at, variant in enumerate(variants):
        combos: list[list[Observed]] = [[]]
        for reading in variant.readings:
            outcomes = [*range(levels_of(reading.factor)), None]
            if reading.factor == VOTE:
                outcomes = [0, 1]
            combos = [[*c, (reading, o)] for c in combos for o in outcomes]
        before, mean = sum(belief.weights()), 0.0
        for combo in combos:
            after = belief.after(combo)
            mean += sum(after.weights()) / before * skill(after.p_go)
        assert expected[at] == pytest.approx(mean, abs=1e-9), variant


def test_information_is_never_worth_less_than_nothing() -> None:
    belief = opening("antibody_adc")
    variants = tuple(v for a in load().assays.values() for v in a.variants if v.readings)
    for channel in CHANNELS[:6]:
        assert min(expected_skills(belief, variants)) >= skill(belief.p_go) - 1e-9
        belief = belief.after([(channel, 0)])


def test_the_planner_stops_where_nothing_is_worth_its_price() -> None:
    variant = load().assays["pathway_enrichment"].variants[0]
    assert choose(opening("small_molecule"), [Offer(variant, 1000)], 32).offer is None
    assert choose(opening("small_molecule"), [], 32).offer is None


@cache
def stated_and_true(episodes: int) -> tuple[Any, Any]:
    """(posterior, truth) after random evidence on cases of all tiers."""
    stated, true = [], []
    for seed in range(episodes):
        episode = FAMILY.begin(TASKS[seed % 4], seed, "validation", rubric="proper_sparse")
        draws = Stream("test calibration", seed)
        for action in draws.sample(ORDERS, draws.between(1, 9)):
            if action in episode.legal_actions():
                episode.step(action)
        stated.append(episode.books().posterior)
        true.append(float(episode.case.decision == "go"))
    return np.array(stated), np.array(true)


@pytest.mark.slow
def test_the_posterior_is_calibrated_on_two_thousand_episodes() -> None:
    p, y = stated_and_true(2000)
    for low in np.arange(0, 1, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        chance = ((p[inside] * (1 - p[inside])).sum() ** 0.5) / inside.sum()
        assert abs(float(y[inside].mean() - p[inside].mean())) < 0.01 + 3 * chance
    # and overall: the squared error is what the posterior itself expects
    assert ((p - y) ** 2).mean() == pytest.approx((p * (1 - p)).mean(), abs=0.012)


def test_knowing_gene_and_cancer_moves_the_prior_towards_the_facts() -> None:
    known = opening("small_molecule", ("BRAF", "melanoma")).p_go
    unlikely = opening("small_molecule", ("MYC", "prad")).p_go
    assert known > 0.5 > unlikely


def test_a_filter_that_reads_the_dossier_is_the_one_beside_the_episode() -> None:
    episode = FAMILY.begin("target_medium", 4, "test")
    reader = Filter(episode)
    draws = Stream("test reader", 4)
    while not episode.done:
        evidence = [a for a in episode.legal_actions() if a.variant]
        episode.step(draws.choice(evidence or episode.legal_actions()))
        belief = reader.update(episode.observe())
        assert belief.p_go == pytest.approx(episode.books().posterior, abs=1e-9)


@pytest.mark.slow
def test_the_planner_comes_within_a_tenth_of_the_optimum_on_a_small_problem() -> None:
    from bench.small_problems import figures

    for figure in figures(only=("mixed",)):
        assert 0.9 <= figure.value <= 1 + 1e-9, figure.name
