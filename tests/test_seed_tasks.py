"""The seed's three screenings: what their patients hold, how they are graded, and how that can be gamed."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import pytest

from data import patients
from data.polypharmacy.tables import load
from env_server import registry
from env_server.contract import Split, Step
from env_server.envs.polypharmacy.actions import (
    FINISH,
    InterventionType,
    intervene,
    query,
)
from env_server.envs.polypharmacy.episode import ReviewEpisode
from env_server.envs.polypharmacy.patient import Patient, Prescription
from env_server.envs.polypharmacy.regimen import Slot
from env_server.envs.polypharmacy.seed_agents import SEED_TASKS
from env_server.envs.polypharmacy.seed_case import SeedCase, begin
from env_server.envs.polypharmacy.seed_grade import (
    Marks,
    critical_stops,
    disruption,
    efficiency,
    precision,
    reduction,
)
from env_server.envs.polypharmacy.seed_plan import best
from env_server.envs.polypharmacy.seed_risk import known
from env_server.envs.polypharmacy.tasks import REVIEWS

EASY, MEDIUM, HARD = SEED_TASKS
TABLES = load()


def case_of(task: str, *drugs: tuple[str, str], conditions: tuple[str, ...] = ()) -> SeedCase:
    """A woman of 70 with healthy kidneys who takes `drugs`, each for the condition beside it."""
    prescriptions = tuple(Prescription(drug, indication) for drug, indication in drugs)
    treated = tuple(dict.fromkeys(p.indication for p in prescriptions))
    patient = Patient(70, "F", 80.0, 0.7, "normal", (*treated, *conditions), (), prescriptions)
    return SeedCase(REVIEWS[task], patient, known(TABLES))


def play(case: SeedCase) -> ReviewEpisode:
    return ReviewEpisode(case, 0, "train", "by-hand", case.start)


WARFARIN_AND_IBUPROFEN = (
    ("warfarin", "atrial_fibrillation"),
    ("ibuprofen", "osteoarthritis_pain"),
    ("atorvastatin", "hyperlipidaemia"),
)


# -- patients -----------------------------------------------------------------------------------


def severe_pairs(case: SeedCase) -> list[tuple[str, str]]:
    drugs = [p.drug_id for p in case.patient.prescriptions]
    return [p for p in combinations(drugs, 2) if case.finding(*p).severity == "severe"]


def interactions(case: SeedCase) -> list[str]:
    drugs = [p.drug_id for p in case.patient.prescriptions]
    found = [case.finding(*pair).severity for pair in combinations(drugs, 2)]
    return [severity for severity in found if severity != "none"]


def drawn(task: str, n: int = 60, split: Split = "train") -> list[SeedCase]:
    return [begin(task, seed, split) for seed in range(n)]


@pytest.mark.parametrize("task", SEED_TASKS)
def test_every_list_is_as_long_as_its_task_says(task: str) -> None:
    low, high = REVIEWS[task].drugs
    lengths = {len(case.start.slots) for case in drawn(task)}

    assert lengths == set(range(low, high + 1))


@pytest.mark.parametrize("task", SEED_TASKS)
def test_every_drug_is_taken_for_a_condition_the_patient_has_and_the_drug_treats(task: str) -> None:
    for case in drawn(task):
        for line in case.patient.prescriptions:
            assert line.indication in case.patient.conditions
            assert line.indication in TABLES.drugs[line.drug_id].indications


@pytest.mark.parametrize("task", SEED_TASKS)
def test_a_first_risk_is_neither_nothing_nor_clipped(task: str) -> None:
    assert all(0 < case.first_risk < 1 for case in drawn(task))


def test_an_easy_list_holds_exactly_one_severe_pair() -> None:
    assert {len(severe_pairs(case)) for case in drawn(EASY, 200)} == {1}


def test_a_medium_list_holds_several_interactions_and_beers_issues() -> None:
    for case in drawn(MEDIUM):
        found = interactions(case)
        assert len(found) >= 3 and len(set(found)) >= 2 and "severe" in found
        assert sum(case.contribution(slot)[1] for slot in case.start.slots) >= 2


def test_a_hard_list_holds_critical_drugs_in_trouble_and_a_way_out() -> None:
    for case in drawn(HARD):
        critical = [s for s in case.start.slots if TABLES.drugs[s.drug_id].is_critical]
        names = {s.drug_id for s in critical}
        partners = known(TABLES).partners
        assert len(critical) >= 2 and len(severe_pairs(case)) >= 2
        assert any(case.contribution(s)[1] for s in critical)
        assert any(s.drug_id in partners[name] for name in names for s in case.start.slots)
        assert any(
            case.substitutes(case.start, s)
            for s in case.start.slots
            if s.drug_id in case.in_severe_pair
        )


@pytest.mark.slow
@pytest.mark.parametrize("task", list(REVIEWS))
def test_no_patient_of_one_split_is_a_patient_of_another(task: str) -> None:
    family = registry.get("polypharmacy")
    found: dict[str, set[object]] = {}
    for split in ("train", "validation", "test"):
        played = [family.begin(task, seed, split) for seed in range(300)]
        found[split] = {p.observe().patient.fingerprint() for p in played}  # type: ignore[attr-defined]

    for one, other in combinations(found.values(), 2):
        assert not one & other


# -- risk ---------------------------------------------------------------------------------------


def test_risk_is_the_sum_of_pairs_criteria_and_high_risk_drugs_over_the_length() -> None:
    case = case_of(EASY, *WARFARIN_AND_IBUPROFEN)
    pair = TABLES.pair("warfarin", "ibuprofen")
    assert pair is not None
    statin = TABLES.pair("warfarin", "atorvastatin")
    alone = [case.contribution(slot)[0] for slot in case.start.slots]

    expected = (pair.base_risk_score + (statin.base_risk_score if statin else 0) + sum(alone)) / 3

    assert case.first_risk == pytest.approx(expected)


def test_a_criterion_counts_only_where_its_condition_holds() -> None:
    drug = Slot("diphenhydramine", "allergy")
    well = case_of(EASY, (drug.drug_id, drug.indication))
    fallen = case_of(EASY, (drug.drug_id, drug.indication), conditions=("dementia",))

    assert fallen.contribution(drug) > well.contribution(drug)


def test_an_empty_list_has_no_risk() -> None:
    case = case_of(EASY, *WARFARIN_AND_IBUPROFEN)

    assert case.risk(case.start._replace(slots=())) == 0.0


def test_monitoring_leaves_the_risk_as_it_was() -> None:
    case = case_of(EASY, *WARFARIN_AND_IBUPROFEN)
    step = play(case).step(intervene("warfarin", "add_monitoring"))

    assert step.info["current_risk"] == case.first_risk
    assert step.observation.current_medications[0].monitored  # type: ignore[attr-defined]


def test_doses_go_down_to_the_lowest_and_no_further() -> None:
    played = play(case_of(EASY, *WARFARIN_AND_IBUPROFEN))
    doses = [played.observe().current_medications[0].dose_mg]
    for _ in range(2):
        played.step(intervene("warfarin", "dose_reduce"))
        doses.append(played.observe().current_medications[0].dose_mg)

    assert doses == [5.0, 3.0, 1.0]
    assert not played.case.can_reduce(played.regimen.slots[0])


# -- substitution -----------------------------------------------------------------------------------


def test_a_substitute_is_for_the_same_need_and_free_of_severe_pairs() -> None:
    severe = known(TABLES).severe
    for case in drawn(HARD, 20):
        for slot in case.start.slots:
            rest = {s.drug_id for s in case.start.slots} - {slot.drug_id}
            for new in case.substitutes(case.start, slot):
                assert slot.indication in TABLES.drugs[new].indications
                assert new not in rest and severe[new].isdisjoint(rest)


def test_a_drug_that_is_not_high_risk_is_never_replaced_by_one_that_is() -> None:
    for drug in TABLES.drugs.values():
        for indication in drug.indications:
            for new in known(TABLES).pool(drug.drug_id, indication):
                assert drug.is_high_risk_elderly or not TABLES.drugs[new].is_high_risk_elderly


def test_drugs_that_are_not_high_risk_are_offered_first() -> None:
    offered = known(TABLES).pool("warfarin", "atrial_fibrillation")
    risky = [TABLES.drugs[drug].is_high_risk_elderly for drug in offered]

    assert risky == sorted(risky) and offered[0] == "apixaban"


# -- shaping ----------------------------------------------------------------------------------------


def reward_of_asking(drug_a: str, drug_b: str) -> Step:
    drugs = tuple((d, TABLES.drugs[d].indications[0]) for d in (drug_a, drug_b, "atorvastatin"))
    return play(case_of(EASY, *drugs)).step(query(drug_a, drug_b))


def test_a_severe_finding_nets_035_a_moderate_one_005_and_none_costs_01() -> None:
    moderate = next(p for p, row in TABLES.pairs.items() if row.severity == "moderate")

    assert reward_of_asking("ibuprofen", "warfarin").reward == pytest.approx(0.035)
    assert reward_of_asking(*moderate).reward == pytest.approx(0.005)
    assert reward_of_asking("levothyroxine", "ibuprofen").reward == pytest.approx(-0.01)


def test_an_intervention_pays_the_fall_in_risk_less_its_cost() -> None:
    case = case_of(EASY, *WARFARIN_AND_IBUPROFEN)
    step = play(case).step(intervene("ibuprofen", "stop"))

    fall = step.info["baseline_risk"] - step.info["current_risk"]
    assert fall > 0 and step.reward == pytest.approx(fall - 0.01)
    assert step.info["grader_score_if_terminal"] is None


def test_the_last_step_tells_the_grade() -> None:
    step = play(case_of(EASY, *WARFARIN_AND_IBUPROFEN)).step(FINISH)

    assert step.info["grader_score_if_terminal"] == step.reward == 0.001


# -- graders: computed by hand ------------------------------------------------------------------------


def test_the_easy_grade_is_half_reduction_and_half_aim() -> None:
    case = case_of(EASY, *WARFARIN_AND_IBUPROFEN)
    played = play(case)
    played.step(intervene("ibuprofen", "stop"))
    played.step(FINISH)

    gone = (case.first_risk - case.risk(played.regimen)) / case.first_risk
    assert played.score() == pytest.approx(0.5 * gone + 0.5)


@pytest.mark.parametrize("kind", ["stop", "dose_reduce", "add_monitoring"])
def test_any_change_to_a_drug_of_the_severe_pair_counts_as_aimed(kind: InterventionType) -> None:
    played = play(case_of(EASY, *WARFARIN_AND_IBUPROFEN))
    assert played.step(intervene("warfarin", kind)).refusal is None
    played.step(FINISH)

    assert played.score() >= 0.5


def test_the_medium_grade_weighs_reduction_precision_and_findings() -> None:
    marks = Marks(reduction=0.6, targeted=1, precision=0.5, efficiency=0.25, disruption=1)

    assert marks.score("medium") == pytest.approx(0.5 * 0.6 + 0.3 * 0.5 + 0.2 * 0.25)


def test_the_hard_grade_is_reduction_less_half_the_disruption_and_never_negative() -> None:
    assert Marks(0.6, 0, 0, 0, 0.4).score("hard") == pytest.approx(0.4)
    assert Marks(0.1, 0, 0, 0, 1.0).score("hard") == 0.0


def test_undefined_cases_have_written_values() -> None:
    assert efficiency(()) == 0.0
    assert precision((), ()) == 0.0
    assert reduction(0.0, 0.0) == 0.0
    assert reduction(0.2, 0.5) == 0.0


def test_an_intervention_is_precise_if_risk_falls_or_a_criterion_is_mended() -> None:
    assert precision((0.1, -0.1, -0.1), (0, 1, 0)) == pytest.approx(2 / 3)


def hard_review() -> ReviewEpisode:
    fillers = (
        ("metoprolol", "hypertension"),
        ("levothyroxine", "hypothyroidism"),
        ("insulin_glargine", "insulin_treated_diabetes"),
    )
    return play(case_of(HARD, *WARFARIN_AND_IBUPROFEN, *fillers))


def test_stopping_a_critical_drug_disrupts_more_than_stopping_another() -> None:
    found = []
    for drug in ("warfarin", "ibuprofen"):
        played = hard_review()
        played.step(intervene(drug, "stop"))
        played.step(FINISH)
        found.append(played.outcome()["regimen_disruption"])

    assert found == [pytest.approx(disruption(1, 1, 5)), pytest.approx(disruption(1, 0, 5))]
    assert found[0] > found[1]


def test_stopping_what_replaced_a_critical_drug_drops_the_need_all_the_same() -> None:
    played = hard_review()
    played.step(intervene("ibuprofen", "stop"))
    played.step(intervene("warfarin", "substitute"))
    started = played.interventions[-1].proposed_new_drug_id
    assert started is not None
    drugs = [s.drug_id for s in played.case.start.slots]
    assert critical_stops(TABLES, drugs, played.interventions) == 0

    played.step(intervene(started, "stop"))

    assert critical_stops(TABLES, drugs, played.interventions) == 1


# -- agents and plans ---------------------------------------------------------------------------------


@cache
def mean_score(task: str, agent: str, n: int = 200) -> float:
    family = registry.get("polypharmacy")
    total = 0.0
    for seed in range(n):
        played = family.begin(task, seed, "validation")
        player = family.agents[agent].make(played)
        while not played.done:
            played.step(player.act(played.observe(), played.legal_actions))
        total += played.score()
    return total / n


@pytest.mark.slow
@pytest.mark.parametrize("task", SEED_TASKS)
def test_stopping_flagged_drugs_unasked_beats_the_heuristic_which_is_why_these_tasks_are_not_trained_on(
    task: str,
) -> None:
    assert mean_score(task, "blind_stop") > mean_score(task, "heuristic") + 0.05


@pytest.mark.parametrize("task", SEED_TASKS)
def test_asking_about_high_risk_pairs_first_beats_the_order_of_the_list(task: str) -> None:
    assert mean_score(task, "heuristic_highrisk") > mean_score(task, "heuristic")


@pytest.mark.slow
@pytest.mark.parametrize("task", SEED_TASKS)
def test_a_plan_scores_what_it_promises(task: str) -> None:
    for seed in range(15):
        case = begin(task, seed, "validation")
        played = play(case)
        for action in case.plan().actions:
            assert played.step(action).refusal is None

        assert played.done and played.outcome()["regret"] == 0.0
        assert played.outcome()["attained"] == pytest.approx(case.plan().score)
        assert played.outcome()["risk_end"] == pytest.approx(case.plan().risk)


def test_no_sequence_of_two_changes_beats_the_easy_plan() -> None:
    for seed in range(5):
        case = begin(EASY, seed, "validation")
        tops = [0.0]
        for first in play(case).legal_actions():
            for second in _after(case, first).legal_actions():
                played = _after(case, first)
                played.step(second)
                if not played.done:
                    played.step(FINISH)
                tops.append(played.score())

        assert max(tops) <= best(case).score + 1e-9


def _after(case: SeedCase, action: object) -> ReviewEpisode:
    played = play(case)
    played.step(action)  # type: ignore[arg-type]
    return played


# -- the export ---------------------------------------------------------------------------------------


def test_the_exported_patients_are_regenerated_byte_for_byte() -> None:
    assert patients.export(120, 0).encode() == patients.SHIPPED.read_bytes()


def test_an_exported_patient_can_be_played() -> None:
    line = patients.SHIPPED.read_text(encoding="utf-8").splitlines()[1]
    task, split, seed = line.split(",")[0].split("-")

    played = registry.get("polypharmacy").begin(task, int(seed), "train")

    assert split == "train" and played.episode_id == line.split(",")[0]
    drugs = ";".join(m.drug_id for m in played.observe().current_medications)  # type: ignore[attr-defined]
    assert drugs == line.split(",")[6]
