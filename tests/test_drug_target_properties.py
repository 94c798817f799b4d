"""What must hold of any validation, whatever is done in it: sums, order, sameness at every door, secrecy."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.drug_target.records import QUALITIES, VOTE, Modality
from data.drug_target.tables import load
from env_server import registry
from env_server.contract import Refusal, canonical
from env_server.envs.drug_target import actions, biology, worlds
from env_server.envs.drug_target.actions import ACTION_TYPES, DISCRETE, ORDERS, order, probability
from env_server.envs.drug_target.belief import Observed, opening
from env_server.envs.drug_target.channels import confusion, levels_of
from env_server.envs.drug_target.rubrics import RUBRICS
from env_server.envs.drug_target.rules import DIMENSIONS

FAMILY = cast(Any, registry.get("drug_target"))
SCENARIOS = tuple(load().scenarios)
CHANNELS = tuple(
    dict.fromkeys(r for a in load().assays.values() for v in a.variants for r in v.readings)
)


def begin(seed: int = 0, split: str = "validation", **options: Any) -> Any:
    return FAMILY.begin("target_medium", seed, split, **options)


moves = st.lists(
    st.one_of(st.sampled_from(DISCRETE), st.just(Refusal("malformed", "no JSON"))), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), played=moves, rubric=st.sampled_from(RUBRICS))
def test_whatever_is_done_parts_sum_to_rewards_and_the_purse_never_runs_below_nothing(
    seed: int, played: list[Any], rubric: str
) -> None:
    episode, standing, earned = begin(seed, rubric=rubric), 0.0, 0.0
    for move in played:
        if episode.done:
            break
        before = episode.credits
        step = episode.step(move)
        assert sum(step.parts.values()) == pytest.approx(step.reward, abs=1e-12)
        assert step.refusal is None or episode.credits == before
        assert 0 <= episode.credits <= before
        standing += step.parts.get("standing", 0.0)
        earned += step.reward
    assert episode.steps <= episode.task.max_steps
    if episode.done and rubric.startswith("proper"):
        assert standing == pytest.approx(0, abs=1e-12)
        assert earned == pytest.approx(episode.score(), abs=1e-12)
    assert len(set(episode.flagged)) == len(episode.flagged)
    assert sum(key[0] == actions.EXPERT for key in episode.bought) <= 1


def levels(factor: str, modality: Modality) -> Any:
    """The true level of a factor in each of the 54 x 162 profiles."""
    rows, columns = len(worlds.ROWS), len(worlds.COLUMNS)
    profiles = [worlds.profile_at(r, c) for r in range(rows) for c in range(columns)]
    return np.array([biology.level(factor, p, modality) for p in profiles]).reshape(rows, columns)


TRUE = {
    (r.factor, m): levels(r.factor, m)
    for m in ("small_molecule", "antibody_adc")
    for r in CHANNELS
    if r.factor != VOTE
}


@settings(max_examples=60, deadline=None)
@given(
    observed=st.lists(
        st.sampled_from(CHANNELS).flatmap(
            lambda r: st.tuples(
                st.just(r),
                st.sampled_from(
                    [*range(levels_of(r.factor)), *([] if r.factor == VOTE else [None])]
                ),
            )
        ),
        max_size=7,
    ),
    modality=st.sampled_from(("small_molecule", "antibody_adc")),
)
def test_the_filter_is_bayes_over_every_state(observed: list[Observed], modality: Modality) -> None:
    weight = np.array(worlds.prior(modality))  # decision, quality, row, column
    for reading, report in observed:
        at = -1 if report is None else report
        for q, quality in enumerate(QUALITIES):
            chances = np.array(confusion(reading, quality))[:, at]
            if reading.factor == VOTE:
                weight[:, q] *= chances[:, None, None]
            else:
                weight[:, q] *= chances[TRUE[reading.factor, modality]]
    expected = weight[worlds.GO].sum() / weight.sum()
    assert opening(modality).after(observed).p_go == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), at=st.integers(0, len(ORDERS) - 1), played=moves)
def test_a_reading_is_named_by_case_action_and_variant_alone(
    seed: int, at: int, played: list[Any]
) -> None:
    wanted, found = ORDERS[at], []
    if wanted.action_type in ("in_vivo_model", actions.SYNTHESIS):
        return
    for before in ([], played[:12]):
        episode = begin(seed, budget=200)
        for move in before:
            if not episode.done and getattr(move, "action_type", "") != actions.REPORT:
                episode.step(move)
        episode.step(wanted)
        key = actions.ASSAYS[wanted.action_type], wanted.variant
        assert (wanted.action_type, key[1].parameters) in episode.bought
        spelled = {f.variant for f in episode.findings if f.action == wanted.action_type}
        found.append({(f.action, f.variant, f.factor, f.level, f.value) for f in episode.findings})
        assert spelled
    assert found[0] <= found[1]


# -- the same at every door -------------------------------------------------------------------

words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=50)
values = st.one_of(words, st.booleans(), st.integers(-5, 500), st.floats(-2, 200), st.none())
names = st.one_of(
    words, st.sampled_from([p.name for a in load().assays.values() for p in a.parameters])
)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([a for a in ACTION_TYPES if a != actions.REPORT]),
    said=st.dictionaries(names, st.one_of(values, st.lists(values, max_size=2)), max_size=4),
    reasoning=st.text(max_size=250),
)
def test_an_action_written_down_and_read_again_does_the_same(
    kind: str, said: dict[str, Any], reasoning: str
) -> None:
    read = FAMILY.action_from_json({"action_type": kind, "reasoning": reasoning, **said})
    if isinstance(read, Refusal):
        return
    again = FAMILY.action_from_json(json.loads(json.dumps(read.to_json())))
    told = []
    for action in (read, again):
        episode = begin(3, rubric="seed", budget=100)
        for first in ("druggability_screen", "query_expression"):
            episode.step(order(first))
        told.append(canonical(episode.step(action).to_json()))
    assert told[0] == told[1]


@pytest.mark.parametrize("value", ["150%", "-5%", 101, -0.1, True, [0.5], float("nan")])
def test_what_is_no_probability_is_not_made_one(value: object) -> None:
    assert probability(value) is None


@pytest.mark.parametrize("given_kappa", [0, 1])
def test_a_whole_kappa_is_the_kappa_it_equals(given_kappa: int) -> None:
    from env_server.envs.drug_target import generator

    seen = []
    for value in (given_kappa, float(given_kappa)):
        generator.begin.cache_clear()  # as two processes would
        seen.append(canonical(begin(11, kappa=value).observe().to_json()))
    assert seen[0] == seen[1]


# -- secrecy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_case_made_by_hand_hides_its_name_where_names_are_hidden(scenario: str) -> None:
    made = load().scenarios[scenario]
    giveaways = {made.target, scenario, "SHP", "p53", "RAS", "Switch-II", "L858R", "misleading"}
    for seed in range(8):
        episode = begin(seed, scenario=scenario, anonymise=True, budget=60)
        for action in ORDERS[:17]:
            if not episode.done and action.action_type != "evidence_synthesis":
                episode.step(action)
        shown = {**episode.observe().to_json(), "outcome": None}
        text = json.dumps(shown)
        assert not [word for word in giveaways if word in text]


def test_the_name_of_an_episode_tells_nothing_of_the_case_beyond_what_it_takes_to_begin_it() -> (
    None
):
    plain, one, other = begin(), begin(budget=30), begin(scenario="cd33_aml_misleading")
    assert plain.episode_id == "target_medium-validation-0"
    assert len({plain.episode_id, one.episode_id, other.episode_id}) == 3
    assert "misleading" not in other.episode_id


# -- the published rules ----------------------------------------------------------------------


def test_asking_the_experts_with_an_empty_purse_is_refused_and_ends_nothing() -> None:
    episode = begin(budget=1)
    episode.step(order("literature_search", focus="efficacy"))
    step = episode.step(order("request_expert_review"))
    assert step.refusal is not None and step.refusal.kind == "budget" and not step.done
    assert episode.step(order("literature_search", focus="safety")).done


def test_the_seed_rubric_pays_for_the_share_of_dimensions_seen() -> None:
    episode = begin(rubric="seed")
    first = episode.step(order("literature_search", focus="efficacy"))
    again = episode.step(order("literature_search", focus="safety"))
    assert first.parts["coverage"] == pytest.approx(0.2 / len(DIMENSIONS))
    assert again.parts.get("coverage", 0.0) == 0.0
