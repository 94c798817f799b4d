"""What a validation does: readings that never change, budgets that bind, splits, rubrics, canaries."""

from __future__ import annotations

import json
from functools import cache
from statistics import mean
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.drug_target.records import FACTORS
from data.drug_target.tables import load
from env_server import registry
from env_server.contract import BadOption, BadSplit, Refusal, UnknownTask
from env_server.envs.drug_target import rubrics
from env_server.envs.drug_target.actions import FLAGS, ORDERS, REPORT, order, report
from env_server.envs.drug_target.rubrics import RUBRICS, Report, skill
from env_server.envs.drug_target.tasks import HELD_OUT_INDICATIONS, SPLITS
from env_server.seeds import Stream

FAMILY = cast(Any, registry.get("drug_target"))
TASKS = tuple(FAMILY.tasks)


def begin(
    task: str = "target_medium", seed: int = 0, split: str = "validation", **more: Any
) -> Any:
    return FAMILY.begin(task, seed, split, **more)


def buy_something(episode: Any) -> None:
    episode.step(order("literature_search", focus="efficacy"))


def wander(episode: Any, name: object = 0) -> float:
    """The return of random play, a refused answer now and then."""
    draws, earned = Stream("test drug_target", name, episode.seed), 0.0
    while not episode.done:
        bad = draws.chance(0.1)
        move = Refusal("malformed", "x") if bad else draws.choice(episode.legal_actions())
        earned += episode.step(move).reward
    return earned


# -- readings ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), turn=st.randoms(use_true_random=False))
def test_one_case_reads_the_same_in_any_order(seed: int, turn: Any) -> None:
    bought = [o for o in ORDERS if o.action_type not in ("in_vivo_model", "evidence_synthesis")]
    turn.shuffle(bought)
    found = []
    for some in (bought[:6], bought[:6][::-1]):
        episode = begin(seed=seed, budget=200)
        for action in some:
            assert episode.step(action).refusal is None
        found.append({(f.action, f.variant, f.factor, f.level, f.value) for f in episode.findings})
    assert found[0] == found[1]


def test_the_same_reading_again_costs_its_price_and_tells_nothing_new() -> None:
    episode = begin()
    first = order("toxicity_panel", panel="general")
    episode.step(first)
    known, p_go = episode.findings, episode.books().posterior
    step = episode.step(first)
    assert step.refusal is None and episode.credits == 32 - 6
    assert episode.findings == known and episode.books().posterior == p_go
    assert "bought before" in episode.history[-1].violations[-1]


def test_a_number_shown_lies_in_the_band_of_the_level_reported() -> None:
    from env_server.envs.drug_target.channels import BANDS

    for seed in range(30):
        episode = begin(seed=seed, budget=200)
        for action in ORDERS[:18]:
            if not episode.done:
                episode.step(action)
        for f in episode.findings:
            if f.value is not None:
                low, high = BANDS[f.factor][1][f.level]
                assert low - 0.01 * abs(low) <= f.value <= high + 0.01 * abs(high)


# -- rules ------------------------------------------------------------------------------------


def test_an_assay_that_cannot_be_paid_is_refused_and_costs_no_credits() -> None:
    episode = begin(budget=4)
    refusal = episode.step(order("in_vitro_assay", assay="biochemical")).refusal
    assert refusal.kind == "budget" and episode.credits == 4


def test_an_animal_comes_after_chemistry() -> None:
    episode = begin()
    mouse = order("in_vivo_model", model="gemm")
    assert episode.step(mouse).refusal.kind == "illegal"
    episode.step(order("druggability_screen", library="fragment"))
    assert episode.step(mouse).refusal is None


def test_experts_vote_once() -> None:
    episode = begin()
    ask = order("request_expert_review")
    assert episode.step(ask).refusal is None
    assert ask not in episode.legal_actions() and episode.step(ask).refusal.kind == "illegal"


def test_a_synthesis_needs_two_dimensions_and_measures_nothing() -> None:
    episode = begin()
    digest = order("evidence_synthesis")
    buy_something(episode)
    assert episode.step(digest).refusal.kind == "illegal"
    episode.step(order("crispr_knockout", panel="pan_cancer"))
    known = episode.findings
    assert episode.step(digest).refusal is None and episode.findings == known


def test_the_allosteric_dimension_counts_only_where_it_was_asked_for() -> None:
    for asked in (False, True):
        episode = begin()
        episode.step(order("binding_site_analysis", include_allosteric=asked))
        assert ("binding_site_allosteric" in episode.seen) is asked
        assert ("allo" in {f.factor for f in episode.findings}) is asked


def test_with_no_credits_left_only_flags_and_reports_are_legal_and_evidence_ends_it() -> None:
    episode = begin(budget=1)
    buy_something(episode)
    assert {a.action_type for a in episode.legal_actions()} == {"flag_red_flag", REPORT}
    assert not episode.done
    step = episode.step(order("crispr_knockout", panel="pan_cancer"))
    assert step.done and step.refusal.kind == "budget" and episode.report is None


def test_an_unknown_parameter_value_takes_the_default_and_says_so() -> None:
    action = FAMILY.action_from_json(
        {"action_type": "query_expression", "parameters": {"database": "Ensembl"}}
    )
    episode = begin()
    assert episode.step(action).refusal is None
    assert episode.history[-1].variant == "database=GTEx" and episode.history[-1].violations


def test_a_factor_is_flagged_once() -> None:
    episode = begin()
    assert episode.step(FLAGS[0]).refusal is None
    assert FLAGS[0] not in episode.legal_actions()
    assert episode.step(FLAGS[0]).refusal.kind == "illegal"


# -- cases and splits -------------------------------------------------------------------------


def about(split: str, cases: int = 60) -> list[Any]:
    return [begin(t, s, split).case for t in TASKS for s in range(cases)]


def test_training_never_shows_a_held_out_gene_or_cancer() -> None:
    held = {t.symbol for t in load().targets.values() if t.held_out}
    for split in ("train", "validation", "test", "anon", "shift"):
        for case in about(split):
            assert case.pair[0] not in held and case.pair[1] not in HELD_OUT_INDICATIONS


def test_the_unseen_splits_show_nothing_else() -> None:
    held = {t.symbol for t in load().targets.values() if t.held_out}
    assert all(c.pair[0] in held for c in about("test_targets"))
    assert all(c.pair[1] in HELD_OUT_INDICATIONS for c in about("test_indications"))


def test_anonymous_cases_name_no_gene_anywhere() -> None:
    genes = set(load().targets)
    for seed in range(40):
        text = json.dumps(begin(seed=seed, split="anon").observe().to_json())
        assert not [g for g in genes if f'"{g}"' in text or f" {g} " in text]


def test_swapped_names_say_nothing_of_the_profile() -> None:
    agree = {True: 0, False: 0}
    for split in ("train", "swap"):
        for case in about(split, 150):
            fact = load().pairs[case.pair].profile
            at = FACTORS.index("dep")
            agree[split == "swap"] += case.profile[at] == fact[at]
    assert agree[True] < agree[False] - 60


def test_every_kind_of_shift_is_there_and_does_what_it_says() -> None:
    usual = begin().case
    shifts = {c.shift: c for c in about("shift", 10) if c.validation is usual.validation}
    assert shifts["small_budget"].credits == 19 and shifts["large_budget"].credits == 48
    assert not shifts["permuted_costs"].usual_costs
    assert sorted(shifts["permuted_costs"].costs.values()) == sorted(usual.costs.values())
    poor = [c for c in about("shift", 40) if c.shift == "poor_data"]
    assert {c.quality for c in poor} == {"poor", "hyped"}
    natural = [c for c in about("shift", 400) if c.shift == "natural_base_rate"]
    assert mean(c.decision == "go" for c in natural) == pytest.approx(27 / 160, abs=0.07)


def test_go_and_no_go_are_even_in_every_tier() -> None:
    for task in TASKS:
        share = mean(begin(task, s, "train").case.decision == "go" for s in range(400))
        assert share == pytest.approx(0.5, abs=0.09)


def test_the_curated_split_plays_the_five_scenarios_and_they_can_be_asked_for() -> None:
    played = {begin(t, s, "curated").case.scenario for t in TASKS for s in range(2)}
    assert played == set(load().scenarios)
    asked = begin(scenario="cd33_aml_misleading").case
    assert asked.decision == "no_go" and asked.credits == 28 and asked.about.target_gene == "CD33"
    with pytest.raises(BadOption, match="cd33_aml_misleading"):
        begin(scenario="cd33_aml")
    with pytest.raises(BadOption, match="kappa"):
        begin(kappa=2.0)


def test_all_attempts_at_a_case_share_it() -> None:
    assert begin(seed=9).case is begin(seed=9, rubric="seed").case


def test_nothing_hidden_stands_in_what_is_shown() -> None:
    for seed in range(10):
        episode = begin(seed=seed)
        text = json.dumps(episode.observe().to_json())
        for word in ("key_", "quality", "viability", "p_go", "misleading", "profile", "latent"):
            assert word not in text
        wander(episode)


# -- rubrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_dense_rewards_sum_to_the_score(task: str) -> None:
    for seed in range(12):
        episode = begin(task, seed)
        assert wander(episode) == pytest.approx(episode.score(), abs=1e-12)


def test_dense_and_sparse_grade_alike_and_sparse_pays_at_the_end_alone() -> None:
    for seed in range(8):
        dense, sparse = begin(seed=seed), begin(seed=seed, rubric="proper_sparse")
        assert wander(dense) == pytest.approx(wander(sparse), abs=1e-12)
        assert dense.score() == sparse.score()


def test_a_task_may_name_its_rubric() -> None:
    assert [begin(f"target_hard:{r}").rubric for r in RUBRICS] == list(RUBRICS)
    assert begin("target_hard").rubric == "proper_dense"
    assert begin("target_hard:seed").task.name == "target_hard:seed"
    assert begin("target_hard:seed").case is begin("target_hard").case
    with pytest.raises(UnknownTask):
        begin("target_hard:sead")
    with pytest.raises(BadOption, match="did you mean"):
        begin(rubric="proper_dens")
    with pytest.raises(BadSplit, match="swap"):
        begin(split="swaps")
    assert set(SPLITS) == set(FAMILY.tasks["target_easy"].splits)


@settings(max_examples=60, deadline=None)
@given(belief=st.floats(0, 1), said=st.floats(0, 1))
def test_no_report_pays_more_than_ones_belief(belief: float, said: float) -> None:
    def expected(p: float) -> float:
        return belief * skill(p, True) + (1 - belief) * skill(p, False)

    assert expected(said) <= expected(belief) + 1e-12


def filed(action: Any, evidence: bool = True, **more: Any) -> Any:
    episode = begin(scenario="tp53_solid_tumors_clear_fail", **more)
    if evidence:
        buy_something(episode)
    episode.step(action)
    return episode


def test_confidence_is_the_chance_of_being_right_whichever_way_it_is_said() -> None:
    one, other = filed(report("go", 0.2)), filed(report("no_go", 0.8))
    assert one.score() == pytest.approx(other.score())
    assert one.report.p_go == pytest.approx(0.2)


def test_a_report_on_no_evidence_or_without_decision_is_charged_for() -> None:
    seen, blind = filed(report("no_go", 0.9)), filed(report("no_go", 0.9), evidence=False)
    assert rubrics.proper(seen.books()) > rubrics.proper(blind.books()) + 0.4
    action = FAMILY.action_from_json({"action_type": REPORT, "final_decision": "no_go"})
    lacking = filed(action)
    assert lacking.done
    sure = Report("no_go", 0.5)
    assert rubrics.penalties(lacking.books()) == 0.3 and sure.p_go == 0.5


def test_right_flags_pay_and_wrong_ones_cost_as_much_and_only_at_the_end() -> None:
    case = begin(scenario="tp53_solid_tumors_clear_fail").case
    assert case.profile[FACTORS.index("drug")] == 0 and case.profile[FACTORS.index("tox")] == 1
    returns = {}
    for word in ("druggability", "toxicity"):
        episode = begin(scenario="tp53_solid_tumors_clear_fail")
        flagged = episode.step(order("flag_red_flag", dimension=word))
        returns[word] = flagged.reward
        buy_something(episode)
        episode.step(report("no_go", 0.9))
        returns[word + " end"] = rubrics.proper(episode.books())
    assert returns["druggability"] == returns["toxicity"] < 0
    assert returns["druggability end"] - returns["toxicity end"] == pytest.approx(0.04)


def test_the_seed_rubric_pays_certainty_whatever_it_is_certain_of() -> None:
    """The loophole that the proper rubric closes: confidence 0 is paid like confidence 1."""
    for rubric in ("seed", "seed_terminal"):
        sure, unsure = (
            filed(report("no_go", 1.0), rubric=rubric),
            filed(report("no_go", 0.0), rubric=rubric),
        )
        assert sure.score() == unsure.score()
    assert filed(report("no_go", 1.0)).score() > filed(report("no_go", 0.0)).score()


def test_scores_reach_neither_end_of_the_scale_by_being_cut_off() -> None:
    worst = rubrics.Books(True, Report("no_go", 1.0), 0.0, 32, 32, 18, 9, 0, 8, 9, 0, 0, 0, 0, 4)
    best = rubrics.Books(True, Report("go", 1.0), 1.0, 0, 32, 1, 1, 8, 0, 1, 0, 1, 1, 4, 4)
    assert 0.001 <= rubrics.score(worst, "proper_dense") < rubrics.score(best, "proper_dense")
    assert rubrics.score(best, "proper_dense") <= 0.999
    for rubric in ("seed", "seed_terminal"):
        assert 0.001 <= rubrics.score(worst, rubric) <= 0.999  # type: ignore[arg-type]


# -- players ----------------------------------------------------------------------------------

NULL = -rubrics.PRICES.step


@cache
def proper(agent: str, task: str, cases: int = 60) -> tuple[float, ...]:
    found = []
    for seed in range(cases):
        episode = begin(task, seed, "test", rubric="proper_sparse")
        player = FAMILY.agents[agent].make(episode)
        while not episode.done:
            episode.step(player.act(episode.observe(), episode.legal_actions))
        found.append(rubrics.proper(episode.books()))
    return tuple(found)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_canaries_and_chance_score_no_better_than_saying_nothing(task: str) -> None:
    canaries = [c.name for c in FAMILY.agents.values() if c.role == "canary"]
    means = {name: mean(proper(name, task)) for name in (*canaries, "random")}
    assert {n: m for n, m in means.items() if m > NULL} == {}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_reference_leads_the_heuristic_by_a_fifth_and_the_oracles_lead_both(task: str) -> None:
    assert mean(proper("heuristic", task)) > mean(proper("random", task))
    assert mean(proper("reference", task)) > mean(proper("heuristic", task)) + 0.2
    assert mean(proper("oracle_report", task)) >= mean(proper("reference", task)) - 0.02


@pytest.mark.slow
def test_an_informed_player_wins_from_facts_what_a_blind_one_must_buy() -> None:
    spent = {}
    for agent in ("reference", "voi_informed"):
        credits = []
        for seed in range(40):
            episode = begin("target_medium", seed, "test", rubric="proper_sparse", kappa=0.9)
            player = FAMILY.agents[agent].make(episode)
            while not episode.done:
                episode.step(player.act(episode.observe(), episode.legal_actions))
            credits.append(episode.spent)
        spent[agent] = mean(credits)
    assert spent["voi_informed"] < spent["reference"]


def test_the_outcome_names_the_reference_and_it_regrets_nothing() -> None:
    episode = begin(seed=3)
    player = FAMILY.agents["reference"].make(episode)
    while not episode.done:
        episode.step(player.act(episode.observe(), episode.legal_actions))
    told = episode.outcome()
    assert told["regret"] == 0 and told["score_best"] == episode.score()
    assert told["stated_p_go"] == pytest.approx(told["posterior_p_go"], abs=1e-4)
    assert len(told["best_plan"]) == episode.steps


def test_the_outcome_tells_the_whole_latent_state() -> None:
    episode = begin(scenario="ptpn11_juvenile_mml_complex")
    buy_something(episode)
    episode.step(report("go", 0.8))
    told = json.loads(json.dumps(episode.outcome()["latent_state"]))
    assert told == episode.outcome()["latent_state"]
    assert told["target"]["levels"]["allo"] == 1 and told["target"]["correct_decision"] == "go"
    assert told["quality"]["noise_level"] == "poor"
    assert told["credits"] == {"credits_total": 30, "credits_used": 1, "credits_remaining": 29}
    assert told["progress"]["report_submitted"] and told["progress"]["investigated"]["literature"]
    assert not told["progress"]["investigated"]["toxicity"]
