"""The shipped tables hold what the review needs, and a table that cannot be used says why."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.polypharmacy import tables as polypharmacy
from data.polypharmacy.records import COLUMNS
from data.polypharmacy.tables import CIRCUMSTANCES, BadTable, Tables, UnknownDrug, load

SHIPPED = Path(polypharmacy.__file__).parent
TABLES = load()

Lines = list[list[str]]
Edit = Callable[[Lines], None]


def change(row: int, **cells: str) -> Edit:
    """Write `cells` into the row-th line below the header."""

    def edit(lines: Lines) -> None:
        for column, value in cells.items():
            lines[row][lines[0].index(column)] = value

    return edit


def repeat(row: int, **cells: str) -> Edit:
    """Append a copy of a row, with some cells changed."""

    def edit(lines: Lines) -> None:
        lines.append(list(lines[row]))
        change(len(lines) - 1, **cells)(lines)

    return edit


def drop_column(name: str) -> Edit:
    def edit(lines: Lines) -> None:
        at = lines[0].index(name)
        for line in lines:
            del line[at]

    return edit


def add_column(name: str) -> Edit:
    def edit(lines: Lines) -> None:
        for line in lines:
            line.append(name)

    return edit


def keep(count: int) -> Edit:
    def edit(lines: Lines) -> None:
        del lines[count:]

    return edit


def add_cell(row: int) -> Edit:
    return lambda lines: lines[row].append("spare")


def copy_of_shipped(directory: Path) -> Path:
    for file in COLUMNS:
        shutil.copy(SHIPPED / file, directory / file)
    return directory


def broken_copy(directory: Path, file: str, edit: Edit) -> Path:
    """A copy of the shipped tables with one file edited."""
    path = copy_of_shipped(directory) / file
    with path.open(newline="", encoding="utf-8") as source:
        lines = list(csv.reader(source))
    edit(lines)
    with path.open("w", newline="", encoding="utf-8") as target:
        csv.writer(target, lineterminator="\n").writerows(lines)
    return directory


# row 1 of each file: hypertension / warfarin / acenocoumarol,celecoxib / diphenhydramine / warfarin,apixaban
BROKEN: list[tuple[str, Edit, str]] = [
    ("drug_metadata.csv", change(16, default_dose_mg="abc"), "line 17: default_dose_mg 'abc' is not a number; write a daily dose such as 5.0"),
    ("drug_metadata.csv", change(1, default_dose_mg="nan"), "line 2: default_dose_mg 'nan' is not finite"),
    ("drug_metadata.csv", change(1, max_dose_mg="inf"), "line 2: max_dose_mg 'inf' is not finite"),
    ("drug_metadata.csv", change(1, default_dose_mg="11"), "default_dose_mg '11' is outside 1 to 10; write min <= default <= max"),
    ("drug_metadata.csv", change(1, min_dose_mg="0"), "min_dose_mg '0' is not above 0"),
    ("drug_metadata.csv", change(1, min_dose_mg="-1"), "min_dose_mg '-1' is outside"),
    ("drug_metadata.csv", change(1, drug_id="Warfarin 5"), "drug_id 'Warfarin 5' is not a plain id"),
    ("drug_metadata.csv", change(1, drug_id=""), "drug_id '' is empty"),
    ("drug_metadata.csv", repeat(1), "line 221: drug_id 'warfarin' is there twice"),
    ("drug_metadata.csv", change(1, atc_code="B01"), "atc_code 'B01' is not an ATC level-5 code"),
    ("drug_metadata.csv", change(1, atc_class="B01AB"), "atc_class 'B01AB' is not the start of atc_code; write B01AA"),
    ("drug_metadata.csv", change(1, is_high_risk_elderly="yes"), "is_high_risk_elderly 'yes' is not one of its values; write 0 or 1"),
    ("drug_metadata.csv", change(1, critical_reason=""), "critical_reason '' disagrees with is_critical"),
    ("drug_metadata.csv", change(1, renal_clearance="3"), "renal_clearance '3' is outside 0 to 2"),
    ("drug_metadata.csv", change(1, acb_score="1.5"), "acb_score '1.5' is not a whole number"),
    ("drug_metadata.csv", change(1, qt_risk="high"), "qt_risk 'high' is not one of its values; write none or conditional or possible or known"),
    ("drug_metadata.csv", change(1, formulary="all"), "formulary 'all' is not one of its values; write core or common or full"),
    ("drug_metadata.csv", change(1, inhibitor="CYP3A4:big"), "inhibitor 'CYP3A4:big' has the item"),
    ("drug_metadata.csv", change(1, inducer="CYP3A4"), "inducer 'CYP3A4' has the item"),
    ("drug_metadata.csv", change(1, effects="bleeding;glow"), "names the unknown effect 'glow'; write one of bleeding"),
    ("drug_metadata.csv", change(1, effects="bleeding;;falls"), "effects 'bleeding;;falls' has an empty item"),
    ("drug_metadata.csv", change(1, effects="falls;falls"), "effects 'falls;falls' names an item twice"),
    ("drug_metadata.csv", change(1, indications=""), "indications '' is empty"),
    ("drug_metadata.csv", change(1, indications="atrial_fibrilation"), "'atrial_fibrilation' is unknown; did you mean 'atrial_fibrillation'?"),
    ("drug_metadata.csv", change(1, indications="gout"), "has 'gout', which group 'oral_anticoagulant' does not treat"),
    ("drug_metadata.csv", drop_column("qt_risk"), "line 1: column 'qt_risk' is missing"),
    ("drug_metadata.csv", add_column("colour"), "line 1: column 'colour' is not known; remove it"),
    ("drug_metadata.csv", add_column("route"), "line 1: column 'route' is there twice"),
    ("drug_metadata.csv", keep(0), "line 1: the file is empty; write the header drug_id,"),
    ("drug_metadata.csv", keep(1), "no row below the header"),
    ("ddi_rules.csv", add_cell(3), "line 4: 8 cells where the header has 7"),
    ("ddi_rules.csv", change(1, drug_id_2="celecoxb"), "line 2: drug_id_2 'celecoxb' names no row of drug_metadata.csv: 'celecoxb' is unknown; did you mean 'celecoxib'?"),
    ("ddi_rules.csv", change(1, drug_id_1="zzz"), "'zzz' is unknown; add it to drug_metadata.csv"),
    ("ddi_rules.csv", change(1, drug_id_1="warfarin"), "does not sort before drug_id_2 'celecoxib'; swap the two: celecoxib,warfarin"),
    ("ddi_rules.csv", change(1, drug_id_1="celecoxib"), "name two different drugs"),
    ("ddi_rules.csv", repeat(1), "drug_id_2 'celecoxib' is there twice with 'acenocoumarol'"),
    ("ddi_rules.csv", change(1, severity="lethal"), "severity 'lethal' is not one of its values; write mild or moderate or severe"),
    ("ddi_rules.csv", change(1, recommendation="stop"), "recommendation 'stop' is not one of its values"),
    ("ddi_rules.csv", change(1, mechanism=" "), "mechanism ' ' is empty"),
    ("ddi_rules.csv", change(1, base_risk_score="1.2"), "base_risk_score '1.2' is outside 0 to 1; write a score"),
    ("beers_criteria.csv", change(1, drug_id="benadryl"), "drug_id 'benadryl' names no row of drug_metadata.csv"),
    ("beers_criteria.csv", change(1, criterion_type="beware"), "criterion_type 'beware' is not one of its values"),
    ("beers_criteria.csv", change(1, condition="demenita"), "'demenita' is unknown; did you mean 'dementia'?"),
    ("beers_criteria.csv", change(1, condition="renal_impairment"), "leave it empty and write crcl_below"),
    ("beers_criteria.csv", change(1, criterion_type="avoid_in_condition"), "condition '' is empty for avoid_in_condition"),
    ("beers_criteria.csv", change(1, crcl_below="low"), "crcl_below 'low' is not a number; write ml/min such as 30"),
    ("beers_criteria.csv", change(1, crcl_below="0"), "crcl_below '0' is outside 1 to 200"),
    ("beers_criteria.csv", repeat(1), "drug_id 'diphenhydramine' has this criterion twice"),
    ("alternatives.csv", change(1, alternative_id="warfarin"), "alternative_id 'warfarin' is the drug itself"),
    ("alternatives.csv", change(1, alternative_id="amoxicillin"), "indication 'atrial_fibrillation' is no indication of 'amoxicillin'"),
    ("alternatives.csv", change(1, alternative_id="nothing"), "alternative_id 'nothing' names no row of drug_metadata.csv"),
    ("alternatives.csv", change(1, drug_id="nothing"), "drug_id 'nothing' names no row of drug_metadata.csv"),
    ("alternatives.csv", change(1, indication="boredom"), "'boredom' is unknown"),
    ("alternatives.csv", change(1, rank="0"), "rank '0' is outside 1 to 99"),
    ("alternatives.csv", repeat(1), "alternative_id 'apixaban' is there twice for the indication"),
    ("alternatives.csv", repeat(1, alternative_id="rivaroxaban"), "rank '1' is also that of 'apixaban'"),
    ("conditions.csv", change(1, kind="mood"), "kind 'mood' is not one of its values; write disease or state"),
    ("conditions.csv", change(1, need_weight="2"), "need_weight '2' is outside 0 to 1"),
    ("conditions.csv", change(1, prevalence="-3"), "prevalence '-3' is outside"),
    ("conditions.csv", change(1, treated_by=""), "treated_by '' is empty for a disease"),
    ("conditions.csv", change(1, kind="state"), "gives drugs to a state"),
    ("conditions.csv", change(-1, need_weight="0.1"), "need_weight '0.1' is a need of a state"),
    ("conditions.csv", change(-1, condition_id="first_line"), "condition_id 'first_line' is the name of a circumstance"),
    ("conditions.csv", repeat(1), "condition_id 'hypertension' is there twice"),
    ("conditions.csv", change(2, treated_by="oral_anticoagulant;leeches"), "'leeches' is unknown; add it to drug_metadata.csv"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "edit", "words"), BROKEN, ids=[words for _, _, words in BROKEN])
def test_a_broken_row_is_named_with_its_file_line_value_and_remedy(
    tmp_path: Path, file: str, edit: Edit, words: str
) -> None:
    with pytest.raises(BadTable) as caught:
        load(broken_copy(tmp_path, file, edit))
    message = str(caught.value)
    assert message.startswith(f"{file} line ")
    assert words in message
    assert "; " in message  # what is wrong; how to put it right


@pytest.mark.parametrize("file", COLUMNS)
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    (copy_of_shipped(tmp_path) / file).unlink()
    with pytest.raises(BadTable, match=f"{file} line 1: cannot be read .*No such file"):
        load(tmp_path)


def test_a_file_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = copy_of_shipped(tmp_path) / "conditions.csv"
    path.write_bytes(path.read_bytes().replace(b"gout flare", b"go\xfbt flare"))
    with pytest.raises(BadTable, match=r"conditions.csv line \d\d: byte 0xfb is not UTF-8; save"):
        load(tmp_path)


def test_an_open_quote_is_named(tmp_path: Path) -> None:
    path = copy_of_shipped(tmp_path) / "alternatives.csv"
    path.write_bytes(path.read_bytes() + b'warfarin,apixaban,9,gout,"open')
    with pytest.raises(BadTable, match=r"alternatives.csv line \d+: not readable as CSV .*close"):
        load(tmp_path)


def test_a_missing_directory_says_which_files_one_needs() -> None:
    with pytest.raises(BadTable, match=r"no table directory '.*missing'; name one that holds cond"):
        load("missing")


def test_a_copy_of_the_shipped_tables_loads_as_the_same_tables(tmp_path: Path) -> None:
    copy = load(copy_of_shipped(tmp_path))
    assert copy.version == TABLES.version
    assert copy.drugs == TABLES.drugs
    assert copy.pairs == TABLES.pairs


def test_line_ends_and_byte_order_marks_change_neither_rows_nor_errors(tmp_path: Path) -> None:
    for file in COLUMNS:
        text = (SHIPPED / file).read_bytes().replace(b"\n", b"\r\n")
        (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + text)
    assert load(tmp_path).criteria == TABLES.criteria


def test_another_value_is_another_version(tmp_path: Path) -> None:
    changed = load(broken_copy(tmp_path, "ddi_rules.csv", change(1, base_risk_score="0.61")))
    assert changed.version != TABLES.version


def test_loading_is_done_once_a_directory(tmp_path: Path) -> None:
    copy_of_shipped(tmp_path)
    assert load(tmp_path) is load(str(tmp_path))
    assert load() is load(SHIPPED)


def test_the_tables_are_as_large_as_promised() -> None:
    criteria = [row for rows in TABLES.criteria.values() for row in rows]
    alternatives = [row for rows in TABLES.alternatives.values() for row in rows]
    assert len(TABLES.drugs) >= 200
    assert len(TABLES.pairs) >= 1700
    assert len(criteria) >= 300
    assert len(alternatives) >= 150


def test_the_columns_of_the_source_document_come_first() -> None:
    assert COLUMNS["drug_metadata.csv"][:7] == (
        "drug_id", "generic_name", "atc_class", "is_high_risk_elderly",
        "default_dose_mg", "min_dose_mg", "max_dose_mg",
    )  # fmt: skip
    assert COLUMNS["ddi_rules.csv"][:6] == (
        "drug_id_1", "drug_id_2", "severity", "mechanism", "recommendation", "base_risk_score",
    )  # fmt: skip
    for file, columns in COLUMNS.items():
        with (SHIPPED / file).open(encoding="utf-8") as lines:
            assert lines.readline().strip() == ",".join(columns)


def test_every_column_is_documented() -> None:
    readme = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for file, columns in COLUMNS.items():
        assert file in readme
        assert not [column for column in columns if f"`{column}`" not in readme]


def test_pairs_are_sorted_as_the_file_promises() -> None:
    assert list(TABLES.pairs) == sorted(TABLES.pairs)


# the rule of README.md: severity and recommendation give the base, the mechanism moves it
BASE = {
    ("severe", "avoid_combination"): 0.75, ("severe", "dose_adjust"): 0.70, ("severe", "monitor_closely"): 0.65,
    ("moderate", "avoid_combination"): 0.42, ("moderate", "dose_adjust"): 0.36, ("moderate", "monitor_closely"): 0.30,
    ("mild", "dose_adjust"): 0.12, ("mild", "monitor_closely"): 0.10, ("mild", "no_action"): 0.05,
}  # fmt: skip
MOVES = {"severe": (0.10, -0.05), "moderate": (0.08, -0.05), "mild": (0.03, 0.0)}
URGENT = set(
    "serotonin_syndrome qt_prolongation bleeding_pd inr_increase hyperkalaemia bradycardia_av_block "  # noqa: SIM905
    "hypoglycaemia methotrexate_clearance myelosuppression lithium_retention digoxin_level angioedema "
    "lactic_acidosis hypersensitivity".split()
)
SLOW = set(
    "absorption_chelation absorption_ph absorption_rate delayed_absorption glycaemic_control "  # noqa: SIM905
    "loss_of_bp_control masking_hypoglycaemia protein_binding protein_displacement hypercalcaemia "
    "hypomagnesaemia".split()
)


def test_every_risk_score_follows_the_written_rule() -> None:
    for pair in TABLES.pairs.values():
        up, down = MOVES[pair.severity]
        move = up if pair.mechanism in URGENT else down if pair.mechanism in SLOW else 0.0
        base = BASE[pair.severity, pair.recommendation]
        assert pair.base_risk_score == pytest.approx(base + move), (pair.drug_id_1, pair.drug_id_2)


def test_no_moderate_pair_scores_as_high_as_a_severe_one() -> None:
    def scores(severity: str) -> list[float]:
        return [p.base_risk_score for p in TABLES.pairs.values() if p.severity == severity]

    assert max(scores("mild")) < min(scores("moderate"))
    assert max(scores("moderate")) < min(scores("severe"))


def test_formularies_are_nested_and_in_table_order() -> None:
    core, common, full = (TABLES.formulary(name) for name in ("core", "common", "full"))
    assert set(core) < set(common) < set(full) == set(TABLES.drugs.values())
    assert (55 <= len(core) <= 70) and (110 <= len(common) <= 130)
    order = list(TABLES.drugs.values())
    for drugs in (core, common, full):
        assert list(drugs) == sorted(drugs, key=order.index)


def test_an_unknown_formulary_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no formulary 'tiny'; formularies: core, common, full"):
        TABLES.formulary("tiny")


@pytest.mark.parametrize("name", ["core", "common", "full"])
def test_a_drug_with_alternatives_has_one_in_its_own_formulary(name: str) -> None:
    held = {drug.drug_id for drug in TABLES.formulary(name)}
    for drug_id in held & set(TABLES.alternatives):
        assert held & {one.alternative_id for one in TABLES.alternatives[drug_id]}, drug_id


@pytest.mark.parametrize(("name", "severe"), [("core", 80), ("common", 300), ("full", 800)])
def test_every_formulary_holds_severe_pairs_to_find(name: str, severe: int) -> None:
    held = {drug.drug_id for drug in TABLES.formulary(name)}
    found = [
        p
        for p in TABLES.pairs.values()
        if p.severity == "severe" and {p.drug_id_1, p.drug_id_2} <= held
    ]
    assert len(found) >= severe


def test_every_alternative_shares_the_indication_it_claims() -> None:
    for drug_id, alternatives in TABLES.alternatives.items():
        for one in alternatives:
            assert one.drug_id == drug_id
            assert one.indication in TABLES.drug(drug_id).indications
            assert one.indication in TABLES.drug(one.alternative_id).indications


def test_alternatives_come_best_first() -> None:
    for alternatives in TABLES.alternatives.values():
        ranks = [one.rank for one in alternatives]
        assert ranks == sorted(ranks)


def test_every_drug_treats_something_and_every_disease_is_treated() -> None:
    treated = {indication for drug in TABLES.drugs.values() for indication in drug.indications}
    assert all(drug.indications for drug in TABLES.drugs.values())
    assert treated == {c.condition_id for c in TABLES.conditions.values() if c.kind == "disease"}


def test_critical_needs_weigh_more_than_every_mild_symptom() -> None:
    critical = [c.need_weight for c in TABLES.conditions.values() if c.critical]
    symptoms = [
        TABLES.conditions[c].need_weight for c in ("insomnia", "allergy", "overactive_bladder")
    ]
    assert min(critical) > 2 * max(symptoms)


def test_only_circumstances_and_conditions_gate_a_criterion() -> None:
    for criteria in TABLES.criteria.values():
        for one in criteria:
            if one.circumstance is not None:
                assert one.circumstance not in TABLES.conditions
            elif one.condition is not None:
                assert one.condition in TABLES.conditions


def test_no_circumstance_is_left_without_a_criterion() -> None:
    used = {one.condition for criteria in TABLES.criteria.values() for one in criteria}
    assert set(CIRCUMSTANCES) <= used


@pytest.mark.parametrize(
    "drug_id",
    ["clonidine", "gabapentin", "levodopa_carbidopa", "prednisone", "bisoprolol", "baclofen"],
)
def test_drugs_unsafe_to_stop_at_once_need_a_taper(drug_id: str) -> None:
    assert TABLES.drug(drug_id).needs_taper


def test_a_mechanical_valve_is_left_to_vitamin_k_antagonists() -> None:
    held = [d.drug_id for d in TABLES.drugs.values() if "mechanical_heart_valve" in d.indications]
    assert held == ["warfarin", "acenocoumarol"]


def test_an_unknown_drug_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownDrug) as caught:
        TABLES.drug("warfrin")
    assert str(caught.value) == "no drug 'warfrin' among 219 drugs; did you mean 'warfarin'?"
    assert isinstance(caught.value, KeyError)


def test_an_unknown_drug_with_no_neighbour_is_sent_to_the_table() -> None:
    with pytest.raises(UnknownDrug, match=r"drug_metadata.csv lists all ids"):
        TABLES.drug("###")


def test_nobody_can_change_loaded_tables() -> None:
    with pytest.raises(TypeError):
        TABLES.drugs["aspirin"] = TABLES.drug("warfarin")  # type: ignore[index]
    with pytest.raises(AttributeError):
        TABLES.drug("warfarin").acb_score = 0  # type: ignore[misc]


DRUG_IDS = st.sampled_from(sorted(TABLES.drugs))


@given(a=DRUG_IDS, b=DRUG_IDS)
def test_a_pair_is_the_same_in_either_order(a: str, b: str) -> None:
    assert TABLES.pair(a, b) == TABLES.pair(b, a)


@given(key=st.sampled_from(sorted(TABLES.pairs)))
def test_every_pair_is_found_in_both_orders(key: tuple[str, str]) -> None:
    a, b = key
    assert TABLES.pair(b, a) is TABLES.pairs[a, b]


@given(st.text(max_size=20))
def test_no_string_makes_a_lookup_fail_in_another_way(name: str) -> None:
    tables: Tables = TABLES
    assert tables.pair(name, "warfarin") is None or name in tables.drugs
    if name not in tables.drugs:
        with pytest.raises(UnknownDrug):
            tables.drug(name)
