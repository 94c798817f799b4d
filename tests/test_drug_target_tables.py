"""What the drug target tables hold, and the rules by which their levels were made."""

from __future__ import annotations

import pytest

from data.drug_target.records import FACTORS, LEVELS, QUALITIES
from data.drug_target.tables import PATTERNS, expression_levels, load, specificity_levels
from env_server.envs.drug_target import biology
from env_server.envs.drug_target.tasks import HELD_OUT_INDICATIONS, VALIDATIONS

TABLES = load()


def test_there_are_twenty_targets_eight_cancers_and_every_pair_of_them() -> None:
    assert (len(TABLES.targets), len(TABLES.indications)) == (20, 8)
    assert set(TABLES.pairs) == {(t, i) for t in TABLES.targets for i in TABLES.indications}


def test_every_identifier_is_written_like_one() -> None:
    for target in TABLES.targets.values():
        for column in ("uniprot", "ensembl", "chembl_target"):
            assert PATTERNS[column].fullmatch(getattr(target, column))
    assert len({t.uniprot for t in TABLES.targets.values()}) == 20


def test_levels_follow_their_rules_but_for_two_rows_set_by_hand() -> None:
    for target in TABLES.targets.values():
        assert target.levels["spec"] in specificity_levels(target.vital_tissues_ge10)
    by_hand = {k for k, p in TABLES.pairs.items() if p.override}
    for key, pair in TABLES.pairs.items():
        right = pair.profile[FACTORS.index("expr")] in expression_levels(pair.tumour_rna_band)
        assert right != (key in by_hand)
    assert by_hand == {("ALK", "nsclc"), ("BRAF", "crc")}


def test_a_clinical_level_that_was_looked_up_says_where_or_names_its_trial() -> None:
    checked = [p for p in TABLES.pairs.values() if p.checked]
    assert len(checked) == 30
    assert all(p.clinical_source or "NCT" in p.clinical_note for p in checked)


def test_the_facts_make_twenty_seven_of_the_pairs_go() -> None:
    go = [
        key
        for key, pair in TABLES.pairs.items()
        if biology.decision(pair.profile, TABLES.targets[key[0]].modality) == "go"
    ]
    assert len(go) == 27 and pytest.approx(biology.BASE_RATE) == 27 / 160


def test_one_of_everything_costs_more_than_any_budget() -> None:
    menu = sum(a.cost for a in TABLES.assays.values())
    assert menu == 55
    assert all(v.credits < menu for v in VALIDATIONS.values())


def test_there_are_twenty_two_actions_and_every_factor_is_read_by_one() -> None:
    readings = [r for a in TABLES.assays.values() for v in a.variants for r in v.readings]
    assert len(TABLES.assays) == 22
    assert {r.factor for r in readings} == {*FACTORS, "T", "pharm", "decision"}


def test_every_variant_differs_from_its_neighbours_in_its_parameters() -> None:
    for assay in TABLES.assays.values():
        told = [v.parameters for v in assay.variants]
        assert len(set(told)) == len(told)


def test_every_quality_mix_adds_up() -> None:
    for validation in VALIDATIONS.values():
        assert set(validation.quality) == set(QUALITIES)
        assert sum(validation.quality.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", list(TABLES.scenarios))
def test_a_curated_decision_matches_the_formula(name: str) -> None:
    made = TABLES.scenarios[name]
    assert biology.decision(made.profile, made.modality) == made.decision
    assert biology.viability(made.profile, made.modality) == pytest.approx(made.viability, abs=5e-4)
    assert all(0 <= at < LEVELS[f] for f, at in zip(FACTORS, made.profile, strict=True))
    assert made.evidence and made.key_dimensions


def test_held_out_targets_and_cancers_are_there() -> None:
    held = {t.symbol for t in TABLES.targets.values() if t.held_out}
    assert held == {"EGFR", "KRAS", "BCL2", "IDH1", "PLK1", "IGF1R"}
    assert set(TABLES.indications) >= HELD_OUT_INDICATIONS
