"""What a model meant: every wording that is understood, every one that is refused, and never a crash."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_server import registry
from env_server.contract import Refusal
from env_server.seeds import Stream
from prompts.parse import parse, spell
from prompts.tools import parse_tool_call, to_tool_call

FAMILY = registry.get("polypharmacy")
FINISH = '{"action_type":"finish_review"}'
QUERY = '{"action_type":"query_ddi","drug_id_1":"ibuprofen","drug_id_2":"warfarin"}'
STOP = (
    '{"action_type":"propose_intervention","target_drug_id":"warfarin","intervention_type":"stop"}'
)
SWAP = (
    '{"action_type":"propose_intervention","target_drug_id":"ibuprofen",'
    '"intervention_type":"substitute","proposed_new_drug_id":"acetaminophen"}'
)


def read(text: str) -> str:
    """The canonical spelling of what was understood, or the kind of the refusal."""
    action = parse(FAMILY, text)
    return action.kind if isinstance(action, Refusal) else spell(action)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (FINISH, FINISH),
        (f"  \n{QUERY}\n", QUERY),
        (f"```json\n{QUERY}\n```", QUERY),
        (f"Let me check this pair first:\n{QUERY}\nThat may be severe.", QUERY),
        (f"<think>maybe {FINISH}?</think>{QUERY}", QUERY),
        (f"maybe {FINISH}</think>\n{QUERY}", QUERY),
        (f"<THINK>a</THINK> <thinking>{FINISH}</thinking> {QUERY}", QUERY),
        (f"An unclosed {{ brace, then {QUERY}", QUERY),
        (f"Set {{a, b}} first. {QUERY}", QUERY),
        (f"[{QUERY}, {FINISH}]", QUERY),
        (f"{QUERY}\n{FINISH}", QUERY),
        (f'{{"action": {QUERY}}}', QUERY),
        (f'{{"thought": "bleeding {{risk}}", "action": {QUERY}}}', QUERY),
        (f'{{"actions": [{QUERY}, {FINISH}]}}', QUERY),
        (f'<tool_call>{{"name": "query_ddi", "arguments": {QUERY}}}</tool_call>', QUERY),
        ('{"name":"finish_review","arguments":{}}', FINISH),
        ('{"name":"finish_review","arguments":"{}"}', FINISH),
        ('{"finish_review": {}}', '{"action_type":"finish_review"}'),
        (QUERY.upper().replace("ACTION_TYPE", "Action_Type"), QUERY),
        ('{"action_type":"query","drug_a":"Warfarin","drug_b":"Ibuprofen"}', QUERY),
        ('{"actionType":"QueryDdi","drugId1":"warfarin","drugId2":"ibuprofen"}', QUERY),
        ('{"drug_id_1":"warfarin","drug_id_2":"ibuprofen"}', QUERY),
        ('{"action":"stop","drug":"warfarin"}', STOP),
        ('{"action_type":"Discontinue","target":"warfarin"}', STOP),
        ('{"target_drug_id":"warfarin","intervention_type":"STOP"}', STOP),
        ('{"action_type":"intervene","target_drug":"Warfarin","intervention":"Stop"}', STOP),
        ('{"action_type":"switch","drug":"ibuprofen","new_drug":"Paracetamol"}', SWAP),
        ('{"action_type": "finish"}', FINISH),
        ('{"action_type": "Finish Review", "confidence": 0.9}', FINISH),
        ('{"action_type":"finish_review","drug_id_1":null,"target_drug_id":""}', FINISH),
        ("{'action_type': 'finish_review',}", FINISH),
        ("{“action_type”: “finish_review”}", FINISH),
        ("{'action_type': 'finish_review', 'drug_id_1': None}", FINISH),
    ],
)
def test_many_wordings_mean_one_action(text: str, meant: str) -> None:
    assert read(text) == meant


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("<think>I stop here.</think>", "empty"),
        (f"<think>I wonder whether {FINISH}", "malformed"),
        ("I would stop warfarin.", "malformed"),
        ("{}", "malformed"),
        ('"finish_review"', "malformed"),
        ('{"action_type":"finish_review"', "malformed"),
        ('{"action_type":"prescribe","drug":"warfarin"}', "malformed"),
        ('{"action_type":["stop"]}', "malformed"),
        ('{"action_type":{"a":1}}', "malformed"),
        ('{"action_type":"query_ddi","drug_id_1":"warfarin"}', "malformed"),
        ('{"action_type":"query_ddi","drug_id_1":"warfarin","drug_id_2":"WARFARIN"}', "malformed"),
        ('{"action_type":"query_ddi","drug_id_1":1,"drug_id_2":true}', "malformed"),
        ('{"action_type":"finish_review","colour":"red"}', "malformed"),
        ('{"action_type":NaN}', "malformed"),
        ('{"action_type":1e999}', "malformed"),
        (f'{{"action_type":{"9" * 3900}}}', "malformed"),
        (f'{{"action_type":{"9" * 19_000}}}', "malformed"),
        ('{"action_type":"fin\x00ish\ud800"}', "malformed"),
        ('{"a":' * 2000, "malformed"),
        ('{"a":' * 2000 + "1" + "}" * 2000, "malformed"),
        ("{" * 1_000_000, "malformed"),
        ("[" * 1_000_000, "malformed"),
        ("<think>" * 200_000, "malformed"),
        ('"' * 1_000_000 + FINISH, "malformed"),
        ("{'" + "\\'" * 1900 + "}", "malformed"),
        ("{" + ", " * 1900 + "}", "malformed"),
        ('{"a": "' + '\\"' * 9000, "malformed"),
        ("‮{}\x00\ufeff", "malformed"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(text: str, kind: str) -> None:
    began = time.process_time()
    assert read(text) == kind
    assert time.process_time() - began < 1.0


def test_a_refusal_says_what_is_wrong_and_is_short() -> None:
    said = parse(FAMILY, '{"action_type":"query_dd","drug_id_1":"a","drug_id_2":"b"}')
    assert isinstance(said, Refusal) and "did you mean 'query_ddi'" in said.why
    cut = parse(FAMILY, '{"action_type":"finish_review"')
    assert isinstance(cut, Refusal) and "JSON object" in cut.why


@pytest.mark.parametrize("text", ["", QUERY, QUERY[:20], "<think>so"])
def test_an_answer_that_ran_out_of_tokens_is_truncated(text: str) -> None:
    refused = parse(FAMILY, text, truncated=True)
    assert isinstance(refused, Refusal) and refused.kind == "truncated"


@pytest.mark.parametrize("reason", ["a } brace", "</think> mark", '"quoted" \\ ', "<think>", "’"])
def test_a_reason_may_hold_any_character(reason: str) -> None:
    action = FAMILY.action_from_json({**json.loads(STOP), "rationale": reason})
    assert not isinstance(action, Refusal)
    assert parse(FAMILY, spell(action)) == action


def test_half_a_character_in_a_reason_can_still_be_sent() -> None:
    action = parse(FAMILY, STOP.replace("}", ',"rationale":"bad \\ud800 \ud800"}'))
    assert not isinstance(action, Refusal) and spell(action).encode().endswith(b'"bad ? ?"}')


@pytest.mark.parametrize("task", tuple(FAMILY.tasks))
def test_every_legal_action_reads_back_from_its_spelling_and_from_its_tool_call(task: str) -> None:
    for seed in range(6):
        episode, draws = FAMILY.begin(task, seed), Stream("test_parse", task, seed)
        while not episode.done:
            legal = episode.legal_actions()
            for action in legal:
                text = spell(action)
                assert parse(FAMILY, text) == action
                assert " " not in text and "null" not in text
                call = to_tool_call(FAMILY, action)["function"]
                assert parse_tool_call(FAMILY, call["name"], call["arguments"]) == action
            episode.step(draws.choice(legal))


# -- any text at all ----------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *"{}[]\",:\\'",
        "“",
        "```json\n",
        "<think>",
        "</think>",
        FINISH,
        QUERY,
        '"action_type":',
        '"query_ddi"',
        '"action"',
        '"arguments"',
        '"name"',
        "stop",
        "null",
        "None",
        "NaN",
        "-1e999",
        "\\ud800",
        "\x00",
        " ",
    ]
)
KEYS = st.sampled_from(
    ["action_type", "action", "actions", "name", "arguments", "", "drug", "query_ddi", "stop"]
)
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS | st.text(), inner),
    max_leaves=6,
)


def outcome_is_named(text: str) -> None:
    action = parse(FAMILY, text)
    if isinstance(action, Refusal):
        assert action.kind in ("malformed", "empty") and action.why
    else:
        assert parse(FAMILY, spell(action)) == action
        spell(action).encode()


@given(st.text())
def test_no_text_raises(text: str) -> None:
    outcome_is_named(text)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_no_mixture_of_fragments_raises(text: str) -> None:
    outcome_is_named(text)


@pytest.mark.slow
@given(st.dictionaries(KEYS | st.text(), JSONISH).map(json.dumps))
def test_no_json_object_raises(text: str) -> None:
    outcome_is_named(text)


@given(st.text(), st.text() | st.dictionaries(KEYS | st.text(), JSONISH))
def test_no_tool_call_raises(name: str, arguments: Any) -> None:
    for called in (name, "query_ddi"):
        answer = parse_tool_call(FAMILY, called, arguments)
        assert not isinstance(answer, Refusal) or answer.why


@pytest.mark.parametrize(
    ("name", "arguments", "meant"),
    [
        ("query_ddi", '{"drug_id_1":"Warfarin","drug_id_2":"ibuprofen"}', QUERY),
        ("finish_review", "", FINISH),
        ("finish_review", {}, FINISH),
        ("finish_review", '{"action_type":"query_ddi"}', FINISH),
    ],
)
def test_a_tool_call_is_read_by_its_name(name: str, arguments: Any, meant: str) -> None:
    action = parse_tool_call(FAMILY, name, arguments)
    assert not isinstance(action, Refusal) and spell(action) == meant


def test_an_unknown_tool_is_named() -> None:
    refused = parse_tool_call(FAMILY, "finish", "{}")
    assert isinstance(refused, Refusal) and "no tool 'finish'" in refused.why
