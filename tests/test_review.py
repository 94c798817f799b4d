"""What the review tasks reward is what a pharmacist would accept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.polypharmacy.tables import load
from env_server import registry
from env_server.envs.polypharmacy.actions import FINISH, intervene, query
from env_server.envs.polypharmacy.episode import ReviewEpisode
from env_server.envs.polypharmacy.family import Polypharmacy
from env_server.envs.polypharmacy.harm import HarmModel
from env_server.envs.polypharmacy.patient import Patient, Prescription, creatinine_clearance
from env_server.envs.polypharmacy.regimen import Regimen, Slot, reduced, watched, without
from env_server.envs.polypharmacy.review_case import ReviewCase, severe_pairs
from env_server.envs.polypharmacy.review_generator import held_out
from env_server.envs.polypharmacy.tasks import REVIEWS
from env_server.seeds import Stream

FAMILY = registry.get("polypharmacy")
TABLES = load()
REVIEW_TASKS = tuple(name for name, review in REVIEWS.items() if review.kind == "review")


def patient(*drugs: tuple[str, str], **changes: object) -> Patient:
    person = Patient(
        age=78,
        sex="F",
        weight_kg=70.0,
        creatinine_mg_dl=0.8,
        liver_function_category="normal",
        conditions=tuple(condition for _, condition in drugs),
        allergies=(),
        prescriptions=tuple(Prescription(drug, condition) for drug, condition in drugs),
    )
    return dataclasses.replace(person, **changes)  # type: ignore[arg-type]


def case(*drugs: tuple[str, str], task: str = "review_complex", **changes: object) -> ReviewCase:
    return ReviewCase(REVIEWS[task], patient(*drugs, **changes), TABLES)


def begin(case: ReviewCase) -> ReviewEpisode:
    return ReviewEpisode(case, 0, "train", "by-hand", case.start)


WARFARIN = ("warfarin", "atrial_fibrillation")
IBUPROFEN = ("ibuprofen", "osteoarthritis_pain")
LISINOPRIL = ("lisinopril", "hypertension")
FUROSEMIDE = ("furosemide", "fluid_overload")


def test_stopping_the_last_drug_of_a_critical_need_costs_more_than_the_harm_it_removes() -> None:
    episode = begin(case(WARFARIN, IBUPROFEN))
    episode.step(query("ibuprofen", "warfarin"))
    assert episode.step(intervene("warfarin", "stop")).parts["regimen"] < 0


def test_replacing_the_dispensable_half_of_a_severe_pair_pays() -> None:
    episode = begin(case(WARFARIN, IBUPROFEN))
    episode.step(query("ibuprofen", "warfarin"))
    step = episode.step(intervene("ibuprofen", "substitute", "acetaminophen"))
    assert step.parts["regimen"] > 0.1


def test_an_unsupported_change_is_credited_at_half_and_counted() -> None:
    asked, blind = (
        begin(
            case(
                ("apixaban", "atrial_fibrillation"),
                ("ketorolac", "osteoarthritis_pain"),
                ("omeprazole", "gord"),
            )
        )
        for _ in range(2)
    )
    worth = []
    for episode, ask in ((asked, True), (blind, False)):
        drug = "ketorolac"
        supported = bool(episode.case.harm.criteria(drug))  # type: ignore[attr-defined]
        if ask:
            episode.step(query("apixaban", drug))
        worth.append(
            (episode.step(intervene("apixaban", "dose_reduce")).parts["regimen"], supported)
        )
    if worth[0][0] > 0:
        assert worth[1][0] == pytest.approx(worth[0][0] / 2)
    blind.step(FINISH)
    asked.step(FINISH)
    assert asked.outcome()["unsupported"] == 0
    assert blind.outcome()["unsupported"] == 1


def test_a_drug_that_needs_tapering_leaves_a_withdrawal_when_stopped_at_full_dose() -> None:
    sudden, tapered = (begin(case(("lorazepam", "anxiety"), LISINOPRIL)) for _ in range(2))
    sudden.step(intervene("lorazepam", "stop"))
    tapered.step(intervene("lorazepam", "dose_reduce"))
    tapered.step(intervene("lorazepam", "stop"))
    assert sudden.regimen.withdrawn == ("lorazepam",)
    assert tapered.regimen.withdrawn == ()
    harm = tapered.case.harm  # type: ignore[attr-defined]
    assert harm.hazard(sudden.regimen) > harm.hazard(tapered.regimen) + 0.4


def test_the_triple_of_kidney_harm_shows_as_a_set_effect_and_ends_with_the_nsaid() -> None:
    review = case(LISINOPRIL, FUROSEMIDE, IBUPROFEN)
    names = {e["effect"] for e in review.view(review.start)["set_effects"]}
    after = {e.name for e in review.harm.set_effects(review.start.slots[:2])}
    assert "kidney_triple" in names
    assert "kidney_triple" not in after


@pytest.mark.parametrize(
    ("drugs", "effect"),
    [
        (
            (("amitriptyline", "depression"), ("oxybutynin", "overactive_bladder")),
            "anticholinergic_burden",
        ),
        (
            (
                ("lorazepam", "anxiety"),
                ("oxycodone", "chronic_pain"),
                ("gabapentin", "neuropathic_pain"),
            ),
            "sedation_stack",
        ),
        ((("citalopram", "depression"), ("amiodarone", "af_rate_control")), "qt_stack"),
        ((WARFARIN, ("aspirin", "coronary_artery_disease")), "bleeding_stack"),
        (
            (
                LISINOPRIL,
                ("spironolactone", "heart_failure"),
                ("potassium_chloride", "hypokalaemia"),
            ),
            "potassium_stack",
        ),
        ((("ibuprofen", "osteoarthritis_pain"), ("naproxen", "gout_flare")), "duplicate_class"),
        ((("amlodipine", "hypertension"), FUROSEMIDE), "cascade"),
        ((IBUPROFEN,), "unprotected_nsaid"),
        ((LISINOPRIL, ("cotrimoxazole", "urinary_tract_infection")), "trimethoprim_ras"),
        ((("theophylline", "copd"),), "theophylline_alone"),
    ],
)
def test_every_set_effect_is_seen_where_it_is_due(
    drugs: tuple[tuple[str, str], ...], effect: str
) -> None:
    review = case(*drugs, creatinine_mg_dl=1.6)
    assert effect in {e["effect"] for e in review.view(review.start)["set_effects"]}


def test_a_proton_pump_inhibitor_lifts_the_bleeding_stack() -> None:
    bare = case(WARFARIN, ("aspirin", "coronary_artery_disease"))
    covered = case(WARFARIN, ("aspirin", "coronary_artery_disease"), ("omeprazole", "gord"))
    assert "bleeding_stack" in {e.name for e in bare.harm.set_effects(bare.start.slots)}
    assert "bleeding_stack" not in {e.name for e in covered.harm.set_effects(covered.start.slots)}


def test_renal_rows_are_gated_by_creatinine_clearance() -> None:
    assert case(("metformin", "type_2_diabetes"), creatinine_mg_dl=0.8).flags("metformin") == ()
    assert case(("metformin", "type_2_diabetes"), creatinine_mg_dl=2.6).flags("metformin") != ()


def test_creatinine_clearance_follows_cockcroft_and_gault() -> None:
    assert creatinine_clearance(80, "M", 72.0, 1.0) == pytest.approx(60.0)
    assert creatinine_clearance(80, "F", 72.0, 1.0) == pytest.approx(51.0)


def test_a_substitute_must_suit_allergies_kidneys_and_the_rest_of_the_list() -> None:
    free = case(("ibuprofen", "osteoarthritis_pain"), LISINOPRIL)
    allergic = case(IBUPROFEN, LISINOPRIL, allergies=("analgesic_simple",))
    taken = case(IBUPROFEN, ("acetaminophen", "chronic_pain"))
    assert "acetaminophen" in free.substitutes(free.start, free.start.slots[0])
    assert "acetaminophen" not in allergic.substitutes(allergic.start, allergic.start.slots[0])
    assert "acetaminophen" not in taken.substitutes(taken.start, taken.start.slots[0])


def test_monitoring_helps_where_the_mechanism_can_be_watched_and_only_there() -> None:
    for drug_a, drug_b, helps in (
        ("amiodarone", "warfarin", True),
        ("ibuprofen", "warfarin", False),
    ):
        model = HarmModel(TABLES, patient(WARFARIN))
        a, b = Slot(drug_a, ""), Slot(drug_b, "")
        watched_b = b._replace(monitored=True)
        lower = model.pair_hazard(a, watched_b) < model.pair_hazard(a, b)
        assert lower is helps


@pytest.mark.slow
@given(st.integers(0, 500), st.sampled_from(REVIEW_TASKS), st.integers(0, 10**6))
def test_step_rewards_telescope_to_credited_gain_costs_and_score(
    seed: int, task: str, player: int
) -> None:
    if task == "review_complex":
        seed %= 20  # the optimum of a long list is dear; twenty of them are remembered
    episode = FAMILY.begin(task, seed, "validation")
    stream = Stream("telescope", player)
    parts: dict[str, float] = {}
    while not episode.done:
        for name, value in episode.step(stream.choice(episode.legal_actions())).parts.items():
            parts[name] = parts.get(name, 0.0) + value
    assert parts.get("regimen", 0.0) == pytest.approx(episode.outcome()["attained"], abs=1e-9)
    assert parts["score"] == pytest.approx(episode.score())


@given(st.integers(0, 200), st.randoms(use_true_random=False))
def test_the_order_of_the_list_never_matters_to_harm(seed: int, rng: object) -> None:
    review = FAMILY.begin("review_budgeted", seed, "train").case  # type: ignore[attr-defined]
    mixed = list(review.start.slots)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    shuffled = Regimen(tuple(mixed))
    assert review.harm.hazard(shuffled) == pytest.approx(review.harm.hazard(review.start))
    assert review.harm.untreated(shuffled.slots) == review.harm.untreated(review.start.slots)


@given(st.integers(0, 200), st.data())
def test_less_drug_is_never_more_hazard_of_its_own(seed: int, data: st.DataObject) -> None:
    review = FAMILY.begin("review_budgeted", seed, "train").case  # type: ignore[attr-defined]
    i = data.draw(st.integers(0, len(review.start.slots) - 1))
    slot = review.start.slots[i]
    before = review.harm.hazard(review.start)
    if review.can_reduce(slot):
        assert review.harm.hazard(reduced(review.start, i)) <= before + 1e-12
    assert review.harm.hazard(watched(review.start, i)) <= before + 1e-12
    assert review.harm.harm(before) < 1.0
    assert review.value(without(review.start, i, None)) <= 0.0


def test_a_clean_patient_left_alone_scores_full_marks_and_spoiling_one_does_not() -> None:
    untouched = begin(case(LISINOPRIL, ("atorvastatin", "hyperlipidaemia")))
    spoilt = begin(case(LISINOPRIL, ("atorvastatin", "hyperlipidaemia")))
    untouched.step(FINISH)
    spoilt.step(intervene("lisinopril", "stop"))
    spoilt.step(FINISH)
    assert untouched.outcome()["clean"]
    assert untouched.score() == pytest.approx(0.999)
    assert spoilt.score() < 0.3


@pytest.mark.parametrize("task", REVIEW_TASKS)
def test_a_tenth_to_a_sixth_of_patients_need_nothing(task: str) -> None:
    draws = [FAMILY.begin(task, seed, "train") for seed in range(120)]
    clean = sum(e.case.harm.hazard(e.case.start) == 0 for e in draws)  # type: ignore[attr-defined]
    assert 6 <= clean <= 30


def test_held_out_pairs_never_meet_outside_their_split() -> None:
    for split, expected in (("train", False), ("test", False), ("test_unseen_pairs", True)):
        for seed in range(60):
            episode = FAMILY.begin("review_budgeted", seed, split)
            drugs = tuple(m.drug_id for m in episode.observe().current_medications)  # type: ignore[attr-defined]
            assert any(held_out(*p) for p in severe_pairs(TABLES, drugs)) is expected


def test_nearly_a_sixth_of_severe_pairs_is_held_out() -> None:
    every = severe_pairs(TABLES, tuple(TABLES.drugs))
    share = sum(held_out(*p) for p in every) / len(every)
    assert 0.12 < share < 0.18


def test_every_drug_of_a_review_is_taken_for_something_it_treats() -> None:
    for task in REVIEW_TASKS:
        for seed in range(30):
            seen = FAMILY.begin(task, seed, "train").observe()
            for m in seen.current_medications:  # type: ignore[attr-defined]
                assert m.indication in TABLES.drugs[m.drug_id].indications
                assert m.indication in seen.patient.conditions  # type: ignore[attr-defined]


def test_a_task_keeps_to_its_formulary() -> None:
    core = {d.drug_id for d in TABLES.formulary("core")}
    for seed in range(60):
        seen = FAMILY.begin("review_easy", seed, "train").observe()
        assert {m.drug_id for m in seen.current_medications} <= core  # type: ignore[attr-defined]


def test_an_unknown_split_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no split 'tset'; splits: train, validation, test"):
        FAMILY.begin("review_easy", 0, "tset")  # type: ignore[arg-type]


def test_a_hospital_may_bring_its_own_tables_and_its_episodes_say_so(tmp_path: Path) -> None:
    shipped = Path(TABLES.directory)
    for table in shipped.glob("*.csv"):
        (tmp_path / table.name).write_bytes(table.read_bytes())
    (tmp_path / "alternatives.csv").write_text(
        "drug_id,alternative_id,rank,indication,note\nibuprofen,acetaminophen,1,osteoarthritis_pain,\n"
    )
    own = Polypharmacy(tmp_path)
    assert own.version.startswith(FAMILY.version + "+tables.")
    slots = [
        medication
        for seed in range(30)
        for medication in own.begin("review_budgeted", seed).observe().substitutable  # type: ignore[attr-defined]
    ]
    assert set(slots) <= {"ibuprofen"}


def test_a_table_directory_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no table directory"):
        Polypharmacy("nowhere")
