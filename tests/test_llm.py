"""A served model plays whole episodes through whatever its server does, and stops where nothing helps."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hostile_llm as h
import pytest
from hostile_llm import FINISH, Fault, Hostile, hostile

from env_server import registry
from eval.agents import llm as kind
from eval.answer_cache import AnswerCache
from eval.compare import compare
from eval.compare import main as compare_main
from eval.consult import ServedPlayer
from eval.endpoint import Asking, BadEndpoint, Endpoint, read
from eval.llm import ModelDown, ServedModel, read_reply
from eval.pace import Pace, backoff
from eval.refusals import BadReply, retry_after
from eval.replay import replay
from eval.roster import NotReady, Options, find
from eval.rows import ALL_TASKS
from eval.trajectory import Trajectory
from prompts.render import opening

FAMILY = registry.get("polypharmacy")
QUICK = Asking(
    backoff_s=0.002, backoff_cap_s=0.01, timeout_s=5.0, patience_s=10.0, form="schema", cache=False
)


def player(url: str, asking: Asking = QUICK, cache: AnswerCache | None = None) -> ServedPlayer:
    draw = random.Random(0).random
    return ServedPlayer("llm", ServedModel(Endpoint("m", url), asking, cache, draw=draw))


def play(server: Hostile, seeds: Sequence[int] = (0,), **knobs: Any) -> list[Trajectory]:
    asking = replace(QUICK, **knobs)
    found = player(server.url, asking).play(FAMILY, "easy_screening", "train", seeds)
    return sorted(found, key=lambda t: t.seed)


def nobody_there() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


# -- what a server may do, one test a behaviour -----------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        h.status(500),
        h.status(503, "loading", Retry_After="0.01"),
        h.status(408),
        h.status(429, "slow down", Retry_After="0.01"),
        h.status(429, "slow down"),
        h.garbage,
        h.no_choices,
        h.drop,
        h.cut_short,
        h.says({"not": "text"}),  # type: ignore[arg-type]
        lambda handler: handler.reply(200, {"error": {"message": "overloaded"}}),
        lambda handler: handler.reply(200, [1, 2]),
    ],
)
def test_a_request_that_fails_is_asked_again_and_the_episode_does_not_notice(fault: Fault) -> None:
    with hostile([fault, fault]) as server:
        (found,) = play(server)
    assert found.lost is None and found.refusals == 0
    assert found.usage is not None and found.usage["retries"] == 2
    assert len(server.bodies) == 3


def test_retry_after_is_honoured_by_everybody() -> None:
    with hostile([h.status(429, "slow down", Retry_After="0.3")]) as server:
        began = time.monotonic()
        found = play(server, seeds=range(4))
    assert time.monotonic() - began >= 0.3
    assert all(t.lost is None for t in found)


def test_a_server_that_hangs_is_left_and_asked_again() -> None:
    with hostile([h.hang]) as server:
        (found,) = play(server, timeout_s=0.2)
    assert found.lost is None and len(server.bodies) == 2


@pytest.mark.slow
def test_a_server_that_fails_one_request_in_five_loses_no_episode() -> None:
    draws = random.Random(3)
    bad = [h.status(500), h.status(429), h.drop, h.garbage, h.no_choices, h.status(502)]
    script = [draws.choice(bad) if draws.random() < 0.2 else None for _ in range(3000)]
    with hostile(script, brain=_asks_then_finishes) as server:
        found = play(server, seeds=range(30))
    assert [t.lost for t in found] == [None] * 30
    assert sum(t.usage["retries"] for t in found if t.usage) > 8
    with hostile(brain=_asks_then_finishes) as kind_server:
        clean = play(kind_server, seeds=range(30))
    assert [t.score for t in found] == [t.score for t in clean]


def test_a_cut_answer_is_a_truncated_refusal_even_where_an_action_can_be_read() -> None:
    with hostile([h.says(FINISH, finish="length")]) as server:
        (found,) = play(server)
    assert [t.refusal and t.refusal["kind"] for t in found.turns] == ["truncated", None]


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("I would stop the meloxicam.", "malformed"),
        ('{"action_type": "query_ddi", "drug_id_1": ', "malformed"),
        ('{"action_type": "prescribe_rest"}', "malformed"),
        ('{"action_type":"query_ddi","drug_id_1":"meloxicam","drug_id_2":"no_such"}', "malformed"),
        (None, "empty"),
    ],
)
def test_an_answer_of_the_wrong_kind_costs_a_step_and_the_model_is_told(
    said: str | None, refused: str
) -> None:
    with hostile([h.says(said)]) as server:
        (found,) = play(server)
    assert found.lost is None and found.refusals == 1
    assert found.turns[0].refusal is not None
    assert found.turns[0].refusal["kind"] in (refused, "illegal")
    assert len(server.bodies[1]["messages"]) == 4  # briefing, case, the answer, why it was refused


def test_a_conversation_that_grew_too_long_is_played_to_its_end() -> None:
    full = h.status(400, "maximum context length is 10 tokens", "context_length_exceeded")
    with hostile([full]) as server:
        (found,) = play(server)
    assert len(server.bodies) == 1 and found.lost is None
    assert {t.refusal["kind"] for t in found.turns if t.refusal} == {"truncated"}
    assert len(found.turns) == FAMILY.tasks["easy_screening"].max_steps


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("response_format", "response_format type is unavailable"),
        ("response_format", "no"),
        ("temperature", "Unsupported value: 'temperature' does not support 0"),
        ("max_tokens", "Use 'max_completion_tokens' instead of max_tokens"),
    ],
)
def test_what_a_server_turns_down_is_left_out_once_and_for_all(field: str, message: str) -> None:
    with hostile(always=h.turns_down(field, message)) as server:
        found = play(server, seeds=(0, 1, 2), concurrency=1)
    assert [t.lost for t in found] == [None] * 3
    assert [field in body for body in server.bodies] == [True, False, False, False]
    if field == "max_tokens":
        assert server.bodies[-1]["max_completion_tokens"] == QUICK.answer_tokens


def test_a_schema_is_asked_for_and_is_the_familys_own() -> None:
    with hostile() as server:
        play(server)
    sent = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert sent == FAMILY.action_schema()


def test_a_function_call_is_read_as_the_action_it_is() -> None:
    call = {"type": "function", "function": {"name": "finish_review", "arguments": "{}"}}
    with hostile([h.says(None, "tool_calls", tool_calls=[call])]) as server:
        (found,) = play(server, form="tools")
    assert found.turns[0].action == json.loads(FINISH)
    assert {t["function"]["name"] for t in server.bodies[0]["tools"]} >= {"finish_review"}


# -- when nothing helps -------------------------------------------------------------------------------


def test_one_request_that_never_works_loses_its_episode_alone() -> None:
    def poisoned(handler: h.Handler) -> None:
        bad = f'"{seed_one}"' in json.dumps(handler.body) or seed_one in str(handler.body)
        (h.status(500) if bad else h.well)(handler)

    seed_one = _mark_of(1)
    with hostile(always=poisoned) as server:
        found = play(server, seeds=range(4), attempts=3)
    assert [t.lost is None for t in found] == [True, False, True, True]
    assert "HTTP 500" in str(found[1].lost)


def test_a_lost_episode_is_never_scored() -> None:
    with hostile(always=h.status(400, "content policy")) as server:
        (found,) = play(server, form="text")
        rows = compare(
            FAMILY, ["easy_screening"], [player(server.url, replace(QUICK, form="text"))],
            episodes=1,
        )  # fmt: skip
    assert found.lost is not None and "content policy" in found.lost
    assert rows[0].score is None


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (h.status(401, "bad key"), "OPENAI_API_KEY or HF_TOKEN"),
        (h.status(403, "not yours"), "another key"),
        (h.status(404, "no model m"), "MODEL_NAME"),
        (h.status(429, "You exceeded", "insufficient_quota"), "credit"),
    ],
)
def test_an_error_that_no_retry_mends_stops_at_once(fault: Fault, told: str) -> None:
    with hostile(always=fault) as server, pytest.raises(ModelDown) as stopped:
        play(server, seeds=range(8))
    assert server.url in str(stopped.value) and told in str(stopped.value)
    assert len(server.bodies) <= 16


def test_a_server_that_is_not_there_is_named_within_seconds() -> None:
    url, began = nobody_there(), time.monotonic()
    with pytest.raises(ModelDown, match="start the server, or set API_BASE_URL") as stopped:
        list(player(url).play(FAMILY, "easy_screening", "train", range(20)))
    assert url in str(stopped.value)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("fault", [h.status(500), h.hang, h.status(429)])
def test_a_server_that_answers_nobody_ends_the_run(fault: Fault) -> None:
    with hostile(always=fault) as server, pytest.raises(ModelDown, match="requests gave up"):
        play(server, seeds=range(20), attempts=3, timeout_s=0.1, patience_s=0.6)


def test_episodes_played_before_the_server_went_down_are_kept_and_resumed(tmp_path: Path) -> None:
    script = [None, None, h.status(401)]
    with hostile(script) as server:
        asked: dict[str, Any] = {"episodes": 5, "run": tmp_path / "r", "split": "validation"}
        one = player(server.url, replace(QUICK, concurrency=1))
        with pytest.raises(ModelDown):
            compare(FAMILY, ["easy_screening"], [one], **asked)
        rows = compare(FAMILY, ["easy_screening"], [one], resume=True, **asked)
    assert rows[0].n == 5
    assert len(server.bodies) == 6  # two before, the one refused, three after
    assert list(replay(tmp_path / "r" / "episodes.jsonl")) == [None] * 5


def test_the_command_line_says_which_server_and_what_to_do(capsys: Any, monkeypatch: Any) -> None:
    url = nobody_there()
    monkeypatch.setenv("MODEL_NAME", "m")
    monkeypatch.setenv("API_BASE_URL", url)
    asked = ["--tasks", "easy_screening", "--episodes", "2", "--agents", "llm:?cache=false"]
    assert compare_main(asked) == 2
    assert f"m at {url}" in capsys.readouterr().err


def test_a_caller_that_stops_listening_stops_the_asking() -> None:
    with hostile() as server:
        episodes = player(server.url, replace(QUICK, concurrency=1)).play(
            FAMILY, "easy_screening", "train", range(500)
        )
        next(episodes)
        episodes.close()  # type: ignore[attr-defined]
        time.sleep(0.5)  # what was under way arrives
        asked = len(server.bodies)
        time.sleep(0.2)
        assert len(server.bodies) == asked < 10


# -- tokens, cost, cache ------------------------------------------------------------------------------


def test_tokens_are_counted_and_an_unknown_price_is_no_price() -> None:
    with hostile() as server:
        (found,) = play(server)
        (priced,) = play(server, price_in=2.0, price_out=10.0)
    told = {"requests": 1, "cached": 0, "retries": 0, "prompt_tokens": 100, "completion_tokens": 10}
    assert found.usage == {**told, "cost_usd": None}
    assert priced.usage == {**told, "cost_usd": pytest.approx(100 * 2e-6 + 10 * 10e-6)}


def test_a_request_is_paid_for_once(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    with hostile() as server:
        first = list(player(server.url, QUICK, cache).play(FAMILY, "easy_screening", "train", [0]))
        again = list(player(server.url, QUICK, cache).play(FAMILY, "easy_screening", "train", [0]))
        assert len(server.bodies) == 1
        for path in tmp_path.rglob("*.json"):
            path.write_text("{damaged")
        list(player(server.url, QUICK, cache).play(FAMILY, "easy_screening", "train", [0]))
        assert len(server.bodies) == 2
    assert again[0].usage == {**(first[0].usage or {}), "cached": 1}
    assert again[0].seconds == first[0].seconds


def test_the_cache_tells_requests_apart_and_holds_no_key(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    with hostile() as server:
        for model, temperature in (("a", 0.0), ("b", 0.0), ("a", 1.0)):
            served = ServedModel(Endpoint(model, server.url, "sk-secret"), QUICK, cache)
            list(
                ServedPlayer("x", served, temperature).play(FAMILY, "easy_screening", "train", [0])
            )
    assert len(server.bodies) == 3
    assert set(server.keys) == {"Bearer sk-secret"}
    assert not any(b"sk-secret" in path.read_bytes() for path in tmp_path.rglob("*.json"))
    assert "sk-secret" not in repr(served) + ServedPlayer("x", served).identity()


# -- where and how --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_BASE_URL", "MODEL_NAME", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_the_environment_fills_what_the_words_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_NAME", "Qwen/Qwen2.5-72B-Instruct")
    monkeypatch.setenv("API_BASE_URL", "https://router.huggingface.co/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "openai")
    monkeypatch.setenv("HF_TOKEN", "hub")
    monkeypatch.setenv("LLM_PRICE_INPUT", "0.5")
    endpoint, asking = read("?style=brief")
    assert (endpoint.model, endpoint.url, endpoint.key) == (
        "Qwen/Qwen2.5-72B-Instruct", "https://router.huggingface.co/v1", "hub",
    )  # fmt: skip
    assert (asking.style, asking.price_in, asking.price_out) == ("brief", 0.5, None)
    other, _ = read("gpt@http://localhost:8000/v1")
    assert (other.model, other.url, other.key) == ("gpt", "http://localhost:8000/v1", "openai")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("m@http://h/v1?stile=brief", "did you mean 'style'"),
        ("m@http://h/v1?form=xml", "form is 'xml'"),
        ("m@http://h/v1?attempts=many", "it is a number"),
        ("m@http://h/v1?attempts=0", "1 or more"),
        ("m@ftp://h", "not of the form"),
        ("", "MODEL_NAME"),
    ],
)
def test_a_wrong_word_is_named(words: str, told: str) -> None:
    with pytest.raises(BadEndpoint, match=told):
        read(words)


def test_a_model_is_asked_about_the_tasks_it_is_named_for_and_others_stay_empty() -> None:
    with hostile() as server:
        agent = f"llm:m@{server.url}?cache=false&form=text&tasks=review_easy+easy_screening"
        tasks = ["easy_screening", "budgeted_screening", "review_easy"]
        rows = compare(FAMILY, tasks, [f"mine={agent}"], episodes=2)
    played = {row.task: row.n for row in rows if row.task != ALL_TASKS}
    assert played == {"easy_screening": 2, "budgeted_screening": 0, "review_easy": 2}
    assert rows[1].note == "does not play this task"
    assert rows[-1].note == "2 of 3 tasks"


def test_a_task_that_nobody_has_is_named_before_anything_is_asked() -> None:
    with pytest.raises(BadEndpoint, match="did you mean 'review_easy'"):
        find("llm:m@http://127.0.0.1:1/v1?tasks=easy_screening+review_eesy", FAMILY)


def test_without_model_or_key_the_row_says_what_to_set() -> None:
    with pytest.raises(NotReady, match="MODEL_NAME"):
        find("llm", FAMILY)
    with pytest.raises(NotReady, match="OPENAI_API_KEY or HF_TOKEN"):
        find("llm:gpt-4.1", FAMILY)
    found = find("mine=llm:m@http://127.0.0.1:1/v1?form=text", FAMILY, Options(max_new_tokens=7))
    assert isinstance(found, ServedPlayer) and found.name == "mine"
    assert found.model.asking.answer_tokens == 7
    assert kind.USAGE.startswith("llm:")


def test_the_page_lists_every_knob() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "llm.md").read_text("utf-8")
    assert [each.name for each in fields(Asking) if f"`{each.name}`" not in page] == []


def test_limits_a_minute_spread_requests_and_tokens() -> None:
    now = [0.0]
    pace = Pace(requests_per_minute=60, tokens_per_minute=6000, clock=lambda: now[0])
    assert [pace.reserve(50), pace.reserve(50), pace.reserve(200)] == [0.0, 1.0, 2.0]
    assert pace.reserve(1) == pytest.approx(4.0)  # 200 tokens are two seconds' worth
    pace.settle(reserved=1, used=101)
    assert pace.reserve(1) == pytest.approx(5.01)
    pace.hold(60)
    assert pace.reserve(1) == pytest.approx(60)


def test_waits_grow_and_stay_under_their_cap() -> None:
    assert backoff(1, 0.5, 20, 0.999) < 0.5 < backoff(2, 0.5, 20, 0.999) < 1.0
    assert backoff(50, 0.5, 20, 0.0) == pytest.approx(2.0)
    assert backoff(50, 0.5, 20, 0.9999) <= 20.0


def test_retry_after_is_read_in_every_spelling() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after({"retry-after": "7"}) == 7.0
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:09 GMT"}, now) == 9.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize("text", ["", "[]", "null", '{"choices":[null]}', '{"choices":[{}]}'])
def test_what_is_no_completion_is_a_bad_reply(text: str) -> None:
    with pytest.raises(BadReply):
        read_reply(text)


def test_a_defect_of_ours_is_not_mistaken_for_a_servers() -> None:
    with hostile() as server:
        broken = player(server.url)
        broken.temperature = object()  # type: ignore[assignment]
        with pytest.raises(TypeError):
            list(broken.play(FAMILY, "easy_screening", "train", [0]))


# -- neighbours ---------------------------------------------------------------------------------------


def _asks_then_finishes(body: dict[str, Any]) -> str:
    """Asks one pair of the drugs it reads of, then closes the review."""
    if len(body["messages"]) > 2:
        return FINISH
    drugs = sorted(re.findall(r"^- (\w+): ", body["messages"][1]["content"], re.M))[:2]
    return json.dumps({"action_type": "query_ddi", "drug_id_1": drugs[0], "drug_id_2": drugs[1]})


def _mark_of(seed: int) -> str:
    """Words that stand in the first message about this patient and in no other's."""
    text = opening(FAMILY, FAMILY.begin("easy_screening", seed, "train").observe().to_json())
    others = [
        opening(FAMILY, FAMILY.begin("easy_screening", s, "train").observe().to_json())
        for s in range(4)
        if s != seed
    ]
    return next(line for line in text.splitlines() if not any(line in other for other in others))
