"""Sources of evidence say the right level, survive their sources' quirks, and never need a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import ingest
from data.drug_target.tables import load
from data.sources import (
    chembl,
    clinical_trials,
    finding,
    gather,
    gtex,
    open_targets,
    open_targets_levels,
)
from data.sources.live import live
from data.sources.recorded import SAMPLES, NoSample, recorded
from data.sources.why_stopped import why_stopped
from data.sources.wire import (
    Garbled,
    Refused,
    Reply,
    Request,
    SourceError,
    Unreachable,
    Wire,
)

GOLDEN = Path(__file__).parent / "golden" / "sources.json"
NSCLC, GBM, AML = (finding.disease(key) for key in ("nsclc", "gbm", "aml"))
EGFR = finding.subject("EGFR")
HERE = {"registry": "ClinicalTrials.gov", "scope": "this_indication"}


def sampled(name: str) -> Wire:
    return Wire(recorded(SAMPLES / name), release="samples", sleep=lambda s: None)


def payload(folder: str, name: str) -> Any:
    return json.loads((SAMPLES / folder / f"{name}.json").read_text())["body"]


# -- golden --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", sorted(gather.SOURCES))
def test_every_offer_of_every_source_says_what_was_written_down(source: str) -> None:
    access = gather.Access(samples=SAMPLES)
    with gather.opened([source], access) as sources:
        found, failed = gather.ask(sources, EGFR, NSCLC)
    golden = json.loads(GOLDEN.read_text())
    assert failed == []
    assert [one.to_json() for one in found] == golden[source]


def test_every_offer_is_an_action_with_a_declared_channel() -> None:
    access = gather.Access(samples=SAMPLES)
    with gather.opened(gather.SOURCES, access) as sources:
        found, _ = gather.ask(sources, EGFR, NSCLC)
    assert len(found) == sum(len(source.offers) for source in sources)
    assert [finding.channel(one) is not None for one in found] == [True] * len(found)
    assert {one.action for one in found} <= set(load().assays)


# -- Open Targets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "year"), [("opentargets", "2026"), ("opentargets_2025", "2025")]
)
def test_both_generations_of_open_targets_say_the_same_of_precedent(folder: str, year: str) -> None:
    source = open_targets.OpenTargets(sampled(folder))
    assert source.generation() == year
    told = source.fetch(EGFR, NSCLC, "competitor_landscape", {})
    assert told.judged.level == 2
    assert "approved: ERLOTINIB, OSIMERTINIB" in told.judged.summary
    assert f"schema {year}" in told.release


def test_an_error_of_graphql_with_http_200_is_an_error() -> None:
    source = open_targets.OpenTargets(sampled("opentargets_errors"))
    with pytest.raises(Refused, match="Cannot query field 'knownDrugs'"):
        source.fetch(EGFR, NSCLC, "competitor_landscape", {})


def test_an_error_of_graphql_is_not_kept_as_an_answer(tmp_path: Path) -> None:
    answers = recorded(SAMPLES / "opentargets_errors")
    for _ in range(2):
        source = open_targets.OpenTargets(Wire(answers, tmp_path))
        with pytest.raises(Refused):
            source.fetch(EGFR, NSCLC, "competitor_landscape", {})
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert [one["body"]["operationName"] for one in kept] == ["Generation"]


def test_an_unknown_target_is_null_and_is_named() -> None:
    nobody = finding.subject("NOBODY", "ENSG00000999999", "CHEMBL1", "small_molecule")
    source = open_targets.OpenTargets(sampled("opentargets"))
    with pytest.raises(open_targets.UnknownTarget, match="ENSG00000999999"):
        source.fetch(nobody, NSCLC, "protein_structure_lookup", {"source": "PDB"})


def test_every_query_is_closed_and_is_named_as_it_is_called() -> None:
    for name, query in open_targets.QUERIES.items():
        assert query.startswith(f"query {name}(")
        assert query.count("{") == query.count("}")
        assert query.count("(") == query.count(")")


def test_a_third_generation_is_said_to_be_one() -> None:
    with pytest.raises(Garbled, match="schema has changed again"):
        open_targets.generation({"__type": {"fields": [{"name": "medicines"}]}})


def test_an_approval_in_another_cancer_is_no_precedent() -> None:
    body = payload("opentargets_2025", "egfr_precedent")["data"]["target"]["knownDrugs"]
    judged = open_targets_levels.precedent_2025(body, AML)
    assert judged.level is None
    assert "other diseases, no precedent here: 5" in judged.remarks[0]
    told = payload("opentargets", "egfr_precedent")["data"]["target"]
    new = open_targets_levels.precedent_2026(
        told["evidences"], told["drugAndClinicalCandidates"], AML
    )
    assert new.level is None


def test_a_programme_that_was_stopped_is_a_failure_only_where_the_reason_says_so() -> None:
    lung = {"id": "EFO_0003060", "name": "non-small cell lung carcinoma"}
    row = {"drug": {"name": "X"}, "disease": lung}
    old = {"count": 1, "rows": [row | {"phase": 4, "status": "Terminated"}]}
    judged = open_targets_levels.precedent_2025(old, NSCLC)
    assert judged.level == 1
    assert "without a reason" in judged.remarks[0]
    for reason, level in (("Lack of efficacy", 0), ("business; no safety concern", 1)):
        new = {"count": 1, "rows": [row | {"clinicalStage": "PHASE_3", "studyStopReason": reason}]}
        assert open_targets_levels.precedent_2026(new, {}, NSCLC).level == level


@pytest.mark.parametrize(
    ("labels", "modality", "level"),
    [
        ([("SM", "Approved Drug", True)], "small_molecule", 2),
        ([("SM", "Druggable Family", True)], "small_molecule", 1),
        ([("SM", "Druggable Family", False), ("AB", "Approved Drug", True)], "small_molecule", 0),
        ([("AB", "Approved Drug", True)], "small_molecule", None),
        ([("AB", "UniProt loc high conf", True)], "antibody_adc", 2),
        ([("AB", "Human Protein Atlas loc", True)], "antibody_adc", 1),
        ([("SM", "Approved Drug", "true")], "small_molecule", 0),
        ([], "small_molecule", None),
    ],
)
def test_tractability_counts_the_programmes_own_modality(
    labels: list[tuple[str, str, Any]], modality: Any, level: int | None
) -> None:
    rows = [{"modality": m, "label": name, "value": value} for m, name, value in labels]
    assert open_targets_levels.tractability(rows, modality).level == level


def liability(event: str, source: str, direction: str | None) -> Mapping[str, Any]:
    effects = [] if direction is None else [{"direction": direction, "dosing": "general"}]
    return {"event": event, "datasource": source, "effects": effects, "biosamples": []}


def test_effects_of_raising_a_target_say_nothing_of_lowering_it() -> None:
    up = [liability("cardiac arrest", s, "Activation/Increase/Upregulation") for s in "ab"]
    assert open_targets_levels.safety(up).level is None
    down = [liability("cardiac arrest", s, "Inhibition/Decrease/Downregulation") for s in "ab"]
    assert open_targets_levels.safety(down).level == 0
    assert open_targets_levels.safety(down[:1]).level == 1


def test_an_empty_list_of_liabilities_is_not_safety() -> None:
    judged = open_targets_levels.safety([])
    assert judged.level is None
    assert "nobody listed anything" in judged.remarks[-1]


def test_dependency_reads_the_cancers_own_lines_and_says_where_all_need_the_gene() -> None:
    lines = payload("opentargets", "egfr_essentiality")["data"]["target"]["depMapEssentiality"]
    assert open_targets_levels.dependency(lines, NSCLC).level == 2
    assert open_targets_levels.dependency(lines, GBM).level is None
    common = [{"tissueName": "lung", "screens": [{"geneEffect": -1.5}] * 10}]
    assert "nearly every line" in open_targets_levels.dependency(common, NSCLC).remarks[-1]


# -- ChEMBL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("4.0", 4.0),
        (4, 4.0),
        (2.5, 2.5),
        ("0.5", 0.5),
        ("-1", None),
        (-1.0, None),
        (None, None),
        ("", None),
    ],
)
def test_a_phase_is_read_from_text_and_number_and_unknown_is_none(
    sent: Any, read: float | None
) -> None:
    assert chembl.phase(sent) == read


@pytest.mark.parametrize("sent", ["Phase 2", "5", 7, "nan"])
def test_a_phase_that_is_none_is_refused(sent: Any) -> None:
    with pytest.raises(Garbled, match="from -1 to 4"):
        chembl.phase(sent)


def test_a_mechanism_on_the_salt_meets_an_indication_on_the_parent() -> None:
    mechanism = [{"molecule_chembl_id": "CHEMBL1079742", "parent_molecule_chembl_id": None}]
    molecules = [
        {
            "molecule_chembl_id": "CHEMBL1079742",
            "pref_name": "ERLOTINIB HYDROCHLORIDE",
            "molecule_hierarchy": {"parent_chembl_id": "CHEMBL553"},
        }
    ]
    indications = [
        {
            "molecule_chembl_id": "CHEMBL553",
            "parent_molecule_chembl_id": "CHEMBL553",
            "efo_term": "non-small cell lung carcinoma",
            "max_phase_for_ind": "4.0",
        }
    ]
    judged = chembl.precedent(mechanism, molecules, indications, NSCLC)
    assert (judged.level, judged.records) == (2, ("CHEMBL553",))


def test_an_unknown_phase_is_no_phase() -> None:
    mechanisms = payload("chembl", "mechanism_0")["mechanisms"]
    molecules = payload("chembl", "molecules")["molecules"]
    indications = payload("chembl", "indications")["drug_indications"]
    assert chembl.precedent(mechanisms, molecules, indications, GBM).level is None


def test_chembl_is_asked_for_every_page() -> None:
    wire = sampled("chembl")
    told = chembl.Chembl(wire).fetch(EGFR, NSCLC, "competitor_landscape", {})
    offsets = [url for url in told.urls if "mechanism.json" in url]
    assert ["offset=0" in offsets[0], "offset=1000" in offsets[1]] == [True, True]
    assert "in other diseases only, no precedent here: 1" in told.judged.remarks[0]


def test_a_gene_without_drugs_has_no_precedent() -> None:
    judged = chembl.precedent([], [], [], NSCLC)
    assert (judged.level, judged.summary) == (None, "no drug has this mechanism")


# -- GTEx ----------------------------------------------------------------------------------------


def test_gtex_is_asked_for_its_own_version_of_the_id_and_not_the_antisense() -> None:
    body = payload("gtex", "egfr_gene")
    assert [row["geneSymbol"] for row in body["data"]] == ["EGFR-AS1", "EGFR"]
    assert gtex.gencode_id(body, EGFR) == "ENSG00000146648.17"
    with pytest.raises(gtex.UnknownGene, match="no gene EGFR"):
        gtex.gencode_id({"data": []}, EGFR)
    with pytest.raises(Garbled, match="without a version"):
        gtex.gencode_id({"data": [{"geneSymbol": "EGFR", "gencodeId": "ENSG00000146648"}]}, EGFR)


def test_an_empty_list_is_a_wrong_version_and_not_silence() -> None:
    told = gtex.Gtex(sampled("gtex"), "gtex_v10").fetch(
        EGFR, NSCLC, "query_expression", {"database": "GTEx"}
    )
    assert told.judged.level is None
    assert "wrong version" in told.judged.remarks[0]


def medians(**values: float) -> list[dict[str, Any]]:
    return [{"tissueSiteDetailId": t, "median": v, "unit": "TPM"} for t, v in values.items()]


ALL_PARTS = [part for parts in gtex.VITAL.values() for part in parts]


@pytest.mark.parametrize(
    ("broad", "some", "level", "hangs"),
    [(4, 0, 0, False), (3, 0, 0, True), (1, 0, 1, False), (0, 6, 1, False), (0, 0, 1, True)],
)
def test_the_level_of_restriction_follows_the_tables_rule(
    broad: int, some: int, level: int, hangs: bool
) -> None:
    """hangs: whether bone marrow, which GTEx has not, could turn it."""
    organs = [parts[0] for parts in gtex.VITAL.values() if parts]
    values = [12.0] * broad + [6.0] * some + [0.1] * (len(organs) - broad - some)
    judged = gtex.restriction(medians(**dict(zip(organs, values, strict=True))), "ENSG1.1")
    assert judged.level == level
    assert any("silent there" in remark for remark in judged.remarks) == hangs


@given(st.lists(st.floats(0, 100), min_size=8, max_size=8))
def test_the_rule_agrees_with_the_tables_rule(values: list[float]) -> None:
    from data.drug_target.tables import specificity_levels

    assert gtex.level_of(values, 0, 0) in specificity_levels(sum(v >= 10 for v in values))


# -- ClinicalTrials.gov --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reasons"),
    [
        ("business reasons; no safety concern", ("business",)),
        ("Sponsor decision, not due to safety", ("business",)),
        ("Strategic decision. It was not based on any new safety findings.", ("business",)),
        ("Terminated for strategic reasons, unrelated to safety or efficacy", ("business",)),
        ("Company decision for reasons other than safety", ("business",)),
        ("There weren't any safety issues, sponsor's portfolio decision", ("business",)),
        ("Safety was not a concern; funding ended", ("business",)),
        ("Efficacy and safety were as expected; strategic reasons", ("business",)),
        ("There were no safety or tolerability issues but enrolment was slow", ("enrolment",)),
        ("No participants enrolled", ("enrolment",)),
        ("No patients enrolled due to toxicity", ("safety", "enrolment")),
        ("Slow accrual", ("enrolment",)),
        ("Unacceptable toxicity", ("safety",)),
        ("Hepatotoxicity in two patients", ("safety",)),
        ("Terminated due to lack of efficacy", ("efficacy",)),
        ("No safety concerns, lack of efficacy", ("efficacy",)),
        ("Not due to lack of efficacy", ("other",)),
        ("Futility at the interim analysis", ("efficacy",)),
        ("Primary endpoint not met", ("efficacy",)),
        ("Did not meet its primary endpoint and safety concerns", ("safety", "efficacy")),
        ("The decision was not related to any safety or efficacy concerns", ("other",)),
        ("PI left the institution", ("other",)),
        ("  ", ("untold",)),
        (None, ("untold",)),
    ],
)
def test_a_reason_counts_where_nothing_denies_it(
    said: str | None, reasons: tuple[str, ...]
) -> None:
    assert why_stopped(said) == reasons


@given(st.text(max_size=200))
def test_any_sentence_has_some_reason(said: str) -> None:
    assert why_stopped(said)


def study(status: str, phase: str, condition: str = "NSCLC", why: str | None = None) -> Any:
    protocol: dict[str, Any] = {
        "identificationModule": {"nctId": "NCT90000099"},
        "statusModule": {"overallStatus": status, **({"whyStopped": why} if why else {})},
        "designModule": {"phases": [phase]},
        "conditionsModule": {"conditions": [condition]},
        "armsInterventionsModule": {"interventions": [{"name": "erlotinib 150 mg"}]},
    }
    return {"protocolSection": protocol, "hasResults": False}


def level(*studies: Any) -> int | None:
    return clinical_trials.precedent(
        [clinical_trials.trial(one, NSCLC, ("erlotinib",)) for one in studies]
    ).level


def test_completed_is_no_success_and_business_is_no_failure() -> None:
    assert level(study("COMPLETED", "PHASE3")) == 1
    assert level(study("TERMINATED", "PHASE3", why="business reasons; no safety concern")) == 1
    assert level(study("TERMINATED", "PHASE3", why="futility")) == 0
    assert level(study("TERMINATED", "PHASE3", why="futility"), study("COMPLETED", "PHASE3")) == 1
    assert level(study("TERMINATED", "PHASE1", why="toxicity")) == 1
    assert level(study("RECRUITING", "PHASE4")) == 2
    assert level(study("WITHDRAWN", "PHASE4", why="funding")) == 1


def test_a_trial_in_another_disease_is_no_precedent() -> None:
    assert level(study("RECRUITING", "PHASE4", "Small Cell Lung Cancer")) is None
    assert level(study("RECRUITING", "PHASE4", "Carcinoma, Non-Small-Cell Lung")) == 2


def test_a_trial_without_the_drug_is_no_precedent() -> None:
    one = study("RECRUITING", "PHASE4")
    one["protocolSection"]["armsInterventionsModule"]["interventions"] = [{"name": "Carboplatin"}]
    assert level(one) is None


def test_every_page_of_trials_is_read() -> None:
    wire = sampled("clinicaltrials")
    told = clinical_trials.ClinicalTrials(wire).fetch(EGFR, NSCLC, "clinical_trial_lookup", HERE)
    assert told.judged.value == 4
    assert ["pageToken" in url for url in told.urls] == [False, True]


def test_a_page_that_follows_itself_is_an_error_and_not_a_loop() -> None:
    def again(request: Request) -> Reply:
        return Reply(200, json.dumps({"studies": [], "nextPageToken": "x"}).encode())

    with pytest.raises(Garbled, match="again"):
        clinical_trials.ClinicalTrials(Wire(again)).fetch(
            EGFR, NSCLC, "clinical_trial_lookup", HERE
        )


def test_no_trial_at_all_is_no_data() -> None:
    source = clinical_trials.ClinicalTrials(sampled("clinicaltrials"))
    assert source.fetch(EGFR, AML, "clinical_trial_lookup", HERE).judged.level is None
    assert source.fetch(EGFR, GBM, "clinical_trial_lookup", HERE).judged.level == 0


def test_a_study_without_an_identifier_is_garbled() -> None:
    with pytest.raises(Garbled, match="protocolSection"):
        clinical_trials.trial({"hasResults": False}, NSCLC)


# -- the wire ------------------------------------------------------------------------------------


class Counting:
    """A transport that answers from a list and counts."""

    def __init__(self, *answers: Reply | Exception) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, request: Request) -> Reply:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


ASK = Request("https://example.org/a", (("b", "1"), ("a", "2")))
FINE = Reply(200, b'{"x": 1}')


def test_an_answer_is_kept_by_address_parameters_and_release(tmp_path: Path) -> None:
    transport = Counting(FINE)
    for _ in range(2):
        assert Wire(transport, tmp_path, "26.06").json(ASK) == {"x": 1}
    swapped = Request(ASK.url, tuple(reversed(ASK.params)))
    assert Wire(transport, tmp_path, "26.06").json(swapped) == {"x": 1}
    assert transport.asked == 1
    Wire(transport, tmp_path, "26.09").json(ASK)
    Wire(transport, tmp_path, "26.06", refresh=True).json(ASK)
    Wire(transport, tmp_path, "26.06").json(Request(ASK.url, (("b", "2"),)))
    assert transport.asked == 4
    kept = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert kept["url"] == ASK.url
    assert list(tmp_path.glob("*.part")) == []


def test_trouble_is_tried_again_and_patience_ends() -> None:
    waits: list[float] = []
    transport = Counting(Reply(503, b""), Reply(429, b"", 7.0), FINE)
    assert Wire(transport, sleep=waits.append).json(ASK) == {"x": 1}
    assert waits == [1.0, 7.0]
    down = Counting(Unreachable("ConnectError: no route"))
    with pytest.raises(Unreachable, match=r"https://example.org/a\?b=1&a=2.*--from-samples"):
        Wire(down, sleep=waits.append).json(ASK)
    assert down.asked == 4


def test_a_refusal_is_not_tried_again_and_says_what_was_said(tmp_path: Path) -> None:
    transport = Counting(Reply(400, b"bad  filter"))
    with pytest.raises(Refused, match=r"HTTP 400.*It said: bad filter"):
        Wire(transport, tmp_path).json(ASK)
    assert transport.asked == 1
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_no_json_is_garbled_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(Garbled, match="no JSON"):
        Wire(Counting(Reply(200, b"<html>")), tmp_path).json(ASK)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers any GET with its path and any POST with its body, and /busy with 503."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            text = body or json.dumps({"path": self.path}).encode()
            self.send_response(503 if self.path.startswith("/busy") else 200)
            self.send_header("Retry-After", "3")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            return None

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()
    thread.join(5)


def test_the_live_transport_sends_parameters_and_bodies(server: str) -> None:
    with live(timeout_s=5) as transport:
        assert Wire(transport).json(Request(f"{server}/x", (("q", "a b"),))) == {"path": "/x?q=a+b"}
        assert Wire(transport).json(Request(server, body={"query": "{x}"})) == {"query": "{x}"}
        assert transport(Request(f"{server}/busy")) == Reply(503, b'{"path": "/busy"}', 3.0)
        with pytest.raises(Unreachable, match="ConnectError"):
            transport(Request("http://127.0.0.1:9/"))


# -- who is asked, and the command ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "key"),
    [
        ("Carcinoma, Non-Small-Cell Lung", "nsclc"),
        ("Stage IV NSCLC", "nsclc"),
        ("Leukemia, Myeloid, Acute", "aml"),
        ("Glioblastoma Multiforme", "gbm"),
        ("Prostatic Neoplasms", "prad"),
        ("Triple Negative Breast Neoplasms", "brca"),
        ("Metastatic Colorectal Cancer", "crc"),
        ("Carcinoma, Pancreatic Ductal", "pdac"),
    ],
)
def test_a_condition_is_recognised_however_it_is_written(condition: str, key: str) -> None:
    named = [d for d in load().indications if finding.disease(d).is_named(condition)]
    assert named == [key]


@pytest.mark.parametrize(
    "condition",
    ["Small Cell Lung Cancer", "Uveal Melanoma", "Chronic Myeloid Leukemia", "Streamlined"],
)
def test_a_neighbour_is_not_taken_for_the_disease(condition: str) -> None:
    assert [d for d in load().indications if finding.disease(d).is_named(condition)] == []


def test_an_unknown_gene_cancer_or_action_says_what_there_is() -> None:
    with pytest.raises(finding.UnknownSubject, match="--ensembl"):
        finding.subject("TP53")
    with pytest.raises(finding.UnknownSubject, match="no ensembl identifier"):
        finding.subject("TP53", "ENSG1", "CHEMBL4096", "small_molecule")
    with pytest.raises(finding.UnknownSubject, match="indications: nsclc"):
        finding.disease("flu")
    with pytest.raises(finding.NotOffered, match="it answers: query_expression"):
        gtex.Gtex(sampled("gtex")).fetch(EGFR, NSCLC, "in_vivo_model", {})
    with pytest.raises(SourceError, match="gtex_v8, gtex_v10"):
        gtex.Gtex(sampled("gtex"), "gtex_v7")


def test_a_question_without_a_sample_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoSample, match="no sample"):
        sampled("gtex").json(Request(f"{gtex.HOME}/reference/geneSearch", (("geneId", "KRAS"),)))
    assert ingest.main(["gtex", "--target", "KRAS", "--from-samples"]) == 2
    assert "gtex, query_expression(database=GTEx): no sample" in capsys.readouterr().err


def test_the_command_prints_findings_and_levels(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest.main(["all", "--target", "egfr", "--from-samples", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["failures"] == []
    assert {one["source"] for one in told["findings"]} == set(gather.SOURCES)
    assert ingest.main(["gtex", "--target", "EGFR", "--from-samples"]) == 0
    assert "0 unfavourable" in capsys.readouterr().out
    assert (
        ingest.main(["gtex", "--target", "EGFR", "--from-samples", "--gtex-dataset", "gtex_v10"])
        == 0
    )
    assert "no data" in capsys.readouterr().out


def test_offline_the_command_names_address_and_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gtex, "HOME", "http://127.0.0.1:9/api/v2")
    monkeypatch.setattr("data.sources.wire.FIRST_WAIT_S", 0.0)
    assert ingest.main(["gtex", "--target", "EGFR", "--cache", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "cannot reach http://127.0.0.1:9/api/v2/reference/geneSearch" in said
    assert "--from-samples" in said
