"""The report on real evidence is the family's own filter over what was found, and grades nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.drug_target.records import QUALITIES
from data.sources import finding, gather
from data.sources.finding import Finding, Judged
from env_server.envs.drug_target import belief, channels
from env_server.envs.drug_target.worlds import GO
from eval import real_evidence
from eval.real_evidence import NothingFound, markdown, weigh

EGFR, NSCLC = finding.subject("EGFR"), finding.disease("nsclc")


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    with gather.opened(gather.SOURCES, gather.Access(samples=gather.SAMPLES)) as sources:
        return gather.ask(sources, EGFR, NSCLC)[0]


def read(source: str, action: str, factor: str, level: int | None, **params: str) -> Finding:
    judged = Judged(factor, level, "so it says")
    return Finding(source, "1", "EGFR", "nsclc", action, tuple(params.items()), judged, ())


def test_the_chance_of_go_is_the_prior_times_the_declared_channels() -> None:
    one = read("gtex", "query_expression", "spec", 2, database="GTEx")
    two = read("opentargets", "crispr_knockout", "dep", 0, panel="disease_matched")
    report = weigh(EGFR, NSCLC, [one, two])
    joint = belief.opening("small_molecule").joint().copy()
    for told in (one, two):
        reading = finding.channel(told)
        assert reading is not None
        at = belief.levels(told.judged.factor, "small_molecule")
        for q, quality in enumerate(QUALITIES):
            rows = np.array(channels.confusion(reading, quality))[at, told.judged.level]
            joint[:, q] *= rows[:, None] if belief.of_row(told.judged.factor) else rows[None, :]
    assert report.p_go == pytest.approx(joint[GO].sum() / joint.sum(), abs=1e-9)
    assert report.before == pytest.approx(0.5)


def test_good_news_raises_the_chance_and_leaving_it_out_lowers_it() -> None:
    told = read("opentargets", "crispr_knockout", "dep", 2, panel="disease_matched")
    report = weigh(EGFR, NSCLC, [told])
    (one,) = report.weighed
    assert one.p_go == report.p_go
    assert report.p_go > report.before
    assert one.without == pytest.approx(report.before)


def test_the_base_rate_changes_the_odds_and_not_the_evidence() -> None:
    report = weigh(
        EGFR, NSCLC, [read("opentargets", "crispr_knockout", "dep", 2, panel="disease_matched")]
    )
    factor = report.p_go / (1 - report.p_go)
    shifted = report.at_base_rate / (1 - report.at_base_rate)
    assert shifted == pytest.approx(factor * (27 / 160) / (133 / 160))
    assert report.at_base_rate < report.p_go


def test_the_same_reading_from_two_sources_counts_once() -> None:
    first = read("opentargets", "competitor_landscape", "clin", 2)
    again = replace(first, source="chembl")
    report = weigh(EGFR, NSCLC, [first, again])
    assert report.p_go == weigh(EGFR, NSCLC, [first]).p_go
    assert report.weighed[1].why_not == "the same reading came from another source"


def test_silence_is_not_read() -> None:
    silent = read("gtex", "query_expression", "spec", None, database="GTEx")
    spoken = read("opentargets", "toxicity_panel", "tox", 1, panel="general")
    report = weigh(EGFR, NSCLC, [silent, spoken])
    assert report.weighed[0].why_not == "no data"
    assert report.p_go == weigh(EGFR, NSCLC, [spoken]).p_go
    with pytest.raises(NothingFound, match="every source had no data"):
        weigh(EGFR, NSCLC, [silent])


def test_order_does_not_matter_in_the_end(found: list[Finding]) -> None:
    assert weigh(EGFR, NSCLC, found).p_go == pytest.approx(weigh(EGFR, NSCLC, found[::-1]).p_go)


def test_the_report_holds_no_truth_and_no_reward(found: list[Finding]) -> None:
    body = weigh(EGFR, NSCLC, found).to_json()
    words = json.dumps(body).lower()
    assert not {"reward", "score", "correct", "decision"} & set(body)
    assert "no reward" in words
    assert all(sum(chances) == pytest.approx(1) for chances in body["marginals"].values())


def test_the_page_says_that_samples_are_invented_and_what_nobody_read(found: list[Finding]) -> None:
    page = markdown(weigh(EGFR, NSCLC, found))
    assert "Research only, not medical advice" in page
    assert "their figures are invented" in page
    assert "Nobody read: expression, allosteric site, selectivity, stratification" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[: len(found) + 1]}) == 1


def test_the_command_writes_markdown_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--target", "EGFR", "--indication", "nsclc", "--from-samples"]
    assert real_evidence.main(asked) == 0
    assert capsys.readouterr().out.startswith("# EGFR in non-small cell lung carcinoma")
    to = tmp_path / "report.json"
    assert real_evidence.main([*asked, "--json", "--to", str(to)]) == 0
    assert 0 < json.loads(to.read_text())["p_go"] < 1


def test_a_gene_without_samples_ends_with_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert real_evidence.main(["--target", "KRAS", "--from-samples"]) == 2
    assert "nothing to weigh for KRAS" in capsys.readouterr().err
