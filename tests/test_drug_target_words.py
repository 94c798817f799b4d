"""How answers about a drug target are read, and what is told of one."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest

from data.drug_target.tables import load
from env_server import registry
from env_server.contract import Refusal
from env_server.envs.drug_target.actions import DISCRETE, order, probability, report
from env_server.envs.drug_target.wire import DrugTargetAction as Wire
from prompts import render, words
from prompts.parse import parse, spell
from prompts.tools import parse_tool_call, to_tool_call, tools

FAMILY = registry.get("drug_target")
GTEX = order("query_expression", database="GTEx")
NO = report("no_go", 0.85)

SAID = [
    ('{"action_type":"query_expression","database":"GTEx"}', GTEX),
    ('{"action_type":"query_expression","parameters":{"database":"GTEx"}}', GTEX),
    ('{"action_type":"query_expression","parameters":{"database":"gtex"},"reasoning":"why"}', GTEX),
    ('{"action_type":"Query Expression","database":"gtex portal"}', GTEX),
    ('{"action":"query_expression","db":"GTEX"}', GTEX),
    ('{"action_type":"query_expression"}', GTEX),
    ('```json\n{"action_type": "query_expression", "database": "GTEx",}\n```', GTEX),
    ("<think>hm {no}</think> I would {'action_type': 'query_expression'}", GTEX),
    ('{"action_type":"query_expression","database":"TCGA-LUAD"}', order("query_expression", database="TCGA")),
    ('{"action_type":"differential_expression","dataset":"tcga vs gtex"}', order("differential_expression", dataset="TCGA_vs_GTEx")),
    ('{"name":"crispr_knockout","arguments":{"panel":"pan_cancer"}}', order("crispr_knockout", panel="pan_cancer")),
    ('{"action_type":"crispr"}', order("crispr_knockout", panel="disease_matched")),
    ('{"action_type":"binding_site_analysis","include_allosteric":"True"}', order("binding_site_analysis", include_allosteric=True)),
    ('{"action_type":"binding_site_analysis","allosteric":true}', order("binding_site_analysis", include_allosteric=True)),
    ('{"action_type":"toxicity_panel","panel":"Liver"}', order("toxicity_panel", panel="hepatic")),
    ('{"action_type":"submit_validation_report","final_decision":"no_go","confidence":0.85}', NO),
    ('{"action_type":"submit_validation_report","final_decision":"NO-GO","confidence":"85%"}', NO),
    ('{"action_type":"submit","decision":"no go","confidence":85}', NO),
    ('{"action_type":"submit_validation_report","parameters":{"final_decision":"nogo","confidence":".85"}}', NO),
]  # fmt: skip


@pytest.mark.parametrize(("text", "meant"), SAID)
def test_an_answer_is_read_as_it_was_meant(text: str, meant: Any) -> None:
    assert parse(FAMILY, text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "go!",
        '{"action_type":"autopsy"}',
        '{"action_type":"flag_red_flag"}',
        '{"action_type":"flag_red_flag","dimension":"aura"}',
        '{"action_type":"submit_validation_report","final_decision":"maybe","confidence":0.5}',
        '{"action_type":"submit_validation_report","final_decision":"go","confidence":-3}',
        '{"action_type":"query_expression","parameters":["GTEx"]}',
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_reason(text: str) -> None:
    read = parse(FAMILY, text)
    assert isinstance(read, Refusal) and read.why


@pytest.mark.parametrize(
    ("value", "meant"),
    [(0.85, 0.85), ("85%", 0.85), (85, 0.85), ("0.85", 0.85), (1, 1.0), (0, 0.0), (100, 1.0)],
)
def test_a_confidence_may_be_said_in_three_ways(value: Any, meant: float) -> None:
    assert probability(value) == pytest.approx(meant)


@pytest.mark.parametrize("value", [True, None, "sure", 101, -0.1, float("nan"), [0.5]])
def test_what_is_no_probability_is_none(value: Any) -> None:
    assert probability(value) is None


@pytest.mark.parametrize("action", DISCRETE, ids=spell)
def test_every_action_survives_its_text_its_tool_call_and_the_wire(action: Any) -> None:
    assert parse(FAMILY, spell(action)) == action
    call = to_tool_call(FAMILY, action)["function"]
    assert parse_tool_call(FAMILY, call["name"], call["arguments"]) == action
    sent = Wire(**action.to_json()).model_dump(exclude_none=True)
    assert FAMILY.action_from_json(sent) == action
    jsonschema.validate(action.to_json(), FAMILY.action_schema())


def test_there_is_one_tool_for_each_of_the_twenty_two_actions() -> None:
    assert [t["function"]["name"] for t in tools(FAMILY)] == list(load().assays)


def test_the_prices_in_the_briefing_are_the_prices() -> None:
    purposes = words.load("drug_target").purposes
    assert set(purposes) == set(load().assays)
    for name, assay in load().assays.items():
        price = re.match(r"(\d+) credit|free", purposes[name])
        assert price and int(price[1] or 0) == assay.cost


def test_every_alias_of_a_verb_leads_to_a_form() -> None:
    known = words.load("drug_target")
    choices = {*load().assays, "go", "no_go"}
    assert set(known.values.values()) <= choices


@pytest.mark.parametrize("style", render.STYLES)
def test_no_reward_and_nothing_hidden_is_ever_told(style: render.Style) -> None:
    episode = FAMILY.begin("target_hard", 2, "test")
    told = [render.opening(FAMILY, episode.observe().to_json(), style)]
    player = FAMILY.agents["heuristic"].make(episode)
    before = episode.observe().to_json()
    while not episode.done:
        after = episode.step(player.act(episode.observe(), episode.legal_actions)).observation
        if not episode.done:
            told.append(render.update(FAMILY, before, after.to_json(), style))
        before = after.to_json()
    text = "\n".join(told).lower()
    for word in ("reward", "standing", "quality", "viability", "key_", "posterior", "score 0.8"):
        assert word not in text


def test_the_last_brief_message_tells_everything_that_is_known() -> None:
    episode = FAMILY.begin("target_medium", 5, "test")
    player = FAMILY.agents["heuristic"].make(episode)
    before = now = episode.observe()
    while not episode.done:
        before, now = now, episode.observe()
        episode.step(player.act(now, episode.legal_actions))
    told = render.update(FAMILY, before.to_json(), now.to_json(), "brief")
    for finding in now.findings:  # type: ignore[attr-defined]
        assert finding.said in told and finding.factor in told
    assert len(told.split()) < 80


def test_other_prices_are_told_where_a_case_has_them() -> None:
    for style in render.STYLES:
        shown = FAMILY.begin("target_easy", 3, "shift").observe().to_json()
        assert not shown["usual_costs"]
        assert "prices" in render.opening(FAMILY, shown, style).lower()
