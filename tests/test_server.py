"""The doors: what a socket and HTTP answer to good messages, bad ones and hostile ones."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes import NumberLine
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import ask, dial, serving_here, start
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from env_server import app as server
from env_server import flags, registry
from env_server.sessions import Full, NoSession, SessionTable

FAMILY = registry.get("polypharmacy")
FINISH = {"action_type": "finish_review"}


class Faulty(NumberLine):
    """A family with a bug."""

    def begin(self, *wanted: Any, **named: Any) -> Any:
        raise ZeroDivisionError("secret detail")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = server.create_app(capacity=300, families=[FAMILY, NumberLine(), Faulty(name="faulty")])
    with serving_here(app, ws_max_size=2**20) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as http:
        yield http


@pytest.fixture
def ws(url: str) -> Iterator[ClientConnection]:
    with dial(url) as ws:
        yield ws


# -- the socket -------------------------------------------------------------------------------


def test_the_socket_speaks_openenvs_protocol(ws: ClientConnection) -> None:
    begun = ask(ws, {"type": "reset", "data": {"task_id": "easy_screening", "seed": 1}})
    assert begun["type"] == "observation" and begun["data"]["done"] is False
    assert begun["data"]["reward"] is None
    assert begun["data"]["observation"]["task_id"] == "easy_screening"
    assert ask(ws, {"type": "state"})["data"]["step_count"] == 0
    done = ask(ws, {"type": "step", "data": FINISH})["data"]
    assert done["done"] and done["score"] == done["observation"]["score"]
    assert sum(done["parts"].values()) == done["reward"]


def test_a_request_id_comes_back(ws: ClientConnection) -> None:
    assert ask(ws, {"type": "reset", "request_id": 41})["request_id"] == 41
    assert ask(ws, {"type": "nonsense", "request_id": "b"})["request_id"] == "b"
    assert "request_id" not in ask(ws, {"type": "state"})


HOSTILE = {
    "array": "[1, 2]",
    "binary": b'{"type":"reset"}',
    "huge number": '{"type":"reset","data":{"seed":' + "9" * 5000 + "}}",
    "float out of range": '{"type":"reset","data":{"seed":1e999}}',
    "not JSON": "{type: reset}",
    "NaN": '{"type":"step","data":{"dose":NaN}}',
    "too long": '{"type":"step","data":{"rationale":"' + "x" * 70_000 + '"}}',
    "too deep": '{"type":"step","data":' + "[" * 30_000 + "]" * 30_000 + "}",
    "lone surrogate": '{"type":"step","data":{"rationale":"\\ud800"}}',
    "null": "null",
    "empty": "",
    "data is an array": '{"type":"reset","data":[]}',
    "step without data": '{"type":"step"}',
    "seed is a string": '{"type":"reset","data":{"seed":"7"}}',
    "seed is a boolean": '{"type":"reset","data":{"seed":true}}',
    "seed is negative": '{"type":"reset","data":{"seed":-1}}',
    "task is a number": '{"type":"reset","data":{"task_id":5}}',
    "split is an object": '{"type":"reset","data":{"split":{}}}',
    "refusal is a string": '{"type":"step","data":{"refusal":"no"}}',
    "refusal of no kind": '{"type":"step","data":{"refusal":{"kind":"lazy","why":""}}}',
    "unknown field": '{"type":"state","dta":{}}',
}


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE)
def test_a_bad_frame_is_answered_and_the_session_lives(
    ws: ClientConnection, frame: str | bytes
) -> None:
    ask(ws, {"type": "reset", "data": {"task_id": "easy_screening", "seed": 3}})
    error = ask(ws, frame)
    assert error["type"] == "error" and error["data"]["code"] == "VALIDATION_ERROR"
    assert "Traceback" not in error["data"]["message"]
    assert ask(ws, {"type": "state"})["data"]["step_count"] == 0


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "data", "action_type", "seed", "refusal"]) | st.text(),
                inner,
            )
        ),
        max_leaves=8,
    ),
    st.sampled_from(["reset", "step", "state", "mcp", None]),
)
def test_no_message_ends_a_session_or_shows_our_insides(
    fuzzed: ClientConnection, value: object, kind: str | None
) -> None:
    message = json.dumps(value if kind is None else {"type": kind, "data": value})
    if '"close"' in message:
        return
    reply = ask(fuzzed, message)
    assert reply["type"] in ("observation", "state", "error", "mcp")
    assert reply["data"].get("code") != "EXECUTION_ERROR"


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(["/reset", "/step"]), st.binary(max_size=80) | st.text(max_size=60))
def test_no_body_makes_a_server_error(steady: httpx.Client, path: str, body: bytes | str) -> None:
    assert steady.post(path, content=body).status_code < 500


@pytest.fixture(scope="module")
def steady(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as http:
        yield http


@pytest.fixture(scope="module")
def fuzzed(url: str) -> Iterator[ClientConnection]:
    with dial(url) as ws:
        yield ws


def test_mistakes_name_the_nearest_right_word(ws: ClientConnection) -> None:
    wrong = ask(ws, {"type": "reset", "data": {"task_id": "easy_screning"}})["data"]
    assert "did you mean 'easy_screening'" in wrong["message"] and wrong["kind"] == "UnknownTask"
    wrong = ask(ws, {"type": "reset", "data": {"split": "tset"}})["data"]
    assert "did you mean 'test'" in wrong["message"]
    wrong = ask(ws, {"type": "reset", "data": {"sed": 1}})["data"]
    assert "did you mean 'seed'" in wrong["message"]
    assert ask(ws, {"type": "rest"})["data"]["code"] == "UNKNOWN_TYPE"


def test_an_action_that_cannot_be_read_costs_a_step_and_says_why(ws: ClientConnection) -> None:
    ask(ws, {"type": "reset", "data": {"task_id": "easy_screening", "seed": 3}})
    step = ask(ws, {"type": "step", "data": {"action_type": "query_dd"}})["data"]
    assert step["refusal"]["kind"] == "malformed" and step["reward"] < 0
    step = ask(ws, {"type": "step", "data": {"action_type": 7}})["data"]
    assert "must be a string" in step["refusal"]["why"]
    step = ask(ws, {"type": "step", "data": {"refusal": {"kind": "truncated", "why": "cut"}}})
    assert step["data"]["refusal"] == {"kind": "truncated", "why": "cut"}
    assert ask(ws, {"type": "state"})["data"]["step_count"] == 3


def test_steps_before_reset_and_after_the_end_are_refused(ws: ClientConnection) -> None:
    assert ask(ws, {"type": "step", "data": FINISH})["data"]["code"] == "NO_EPISODE"
    ask(ws, {"type": "reset"})
    ask(ws, {"type": "step", "data": FINISH})
    assert ask(ws, {"type": "step", "data": FINISH})["data"]["code"] == "EPISODE_OVER"
    assert ask(ws, {"type": "reset"})["type"] == "observation"


def test_a_bug_in_a_family_is_told_by_its_number_only(url: str) -> None:
    with dial(url, "/envs/faulty/ws") as ws:
        error = ask(ws, {"type": "reset"})["data"]
        assert error["code"] == "EXECUTION_ERROR" and "secret" not in error["message"]
        assert ask(ws, {"type": "state"})["data"]["code"] == "NO_EPISODE"
    with httpx.Client(base_url=url) as http:
        reply = http.post("/envs/faulty/reset")
        assert reply.status_code == 500 and "secret" not in reply.text


def test_a_full_server_says_why_before_it_closes() -> None:
    app = server.create_app("number_line", capacity=1, families=[NumberLine()])
    with serving_here(app) as url, dial(url), dial(url) as second:
        error = ask(second, {"type": "reset"})["data"]
        assert error["code"] == "CAPACITY_REACHED" and "--capacity" in error["message"]
        with pytest.raises(ConnectionClosed) as closed:
            second.recv(timeout=5)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013


def test_an_idle_socket_is_closed_and_its_seat_freed() -> None:
    app = server.create_app("number_line", capacity=1, idle_s=0.2, families=[NumberLine()])
    with serving_here(app) as url:
        with dial(url) as ws, pytest.raises(ConnectionClosed, match="idle"):
            ws.recv(timeout=5)
        assert len(app.state.table) == 0


def test_bounded_rewards_stay_inside_and_parts_stay_signed() -> None:
    app = server.create_app("polypharmacy", reward_style="bounded", families=[FAMILY])
    with serving_here(app) as url, dial(url) as ws:
        ask(ws, {"type": "reset", "data": {"task_id": "easy_screening", "seed": 3}})
        step = ask(ws, {"type": "step", "data": {"action_type": "?"}})["data"]
        assert step["reward"] == step["observation"]["shaped_reward"] == 0.001
        assert step["parts"]["invalid"] < 0
        done = ask(ws, {"type": "step", "data": FINISH})["data"]
        assert 0.001 <= done["reward"] <= 0.999


# -- HTTP -------------------------------------------------------------------------------------


def test_plain_requests_remember_the_episode(http: httpx.Client) -> None:
    begun = http.post("/reset", json={"task_id": "easy_screening", "seed": 2})
    assert begun.headers["X-Session-Id"] == begun.json()["session_id"]
    bare = http.post("/step", json={"action_type": "nope"}).json()
    wrapped = http.post("/step", json={"action": FINISH}).json()
    assert set(bare) >= {"observation", "reward", "done", "info"}
    assert wrapped["done"] and wrapped["observation"]["step_index"] == 2
    assert http.get("/state").json()["step_count"] == 2


def test_curl_without_a_content_type_works(http: httpx.Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b'{"task_id": "easy_screening"}'
    assert http.post("/reset", content=body, headers=form).status_code == 200
    assert http.post("/reset").json()["observation"]["task_id"] == "budgeted_screening"


def test_sessions_are_told_apart_by_header_query_or_body(http: httpx.Client) -> None:
    ids = [
        http.post("/reset", json={"task_id": "easy_screening", "seed": i}).json()["session_id"]
        for i in range(3)
    ]
    http.post("/step", json=FINISH, headers={"X-Session-Id": ids[0]})
    http.post(f"/step?session_id={ids[1]}", json={"action_type": "?"})
    http.post("/step", json={"action_type": "?", "session_id": ids[2]})
    http.post("/step", json={"action": {"action_type": "?"}, "session_id": ids[2]})
    counts = [http.get("/state", params={"session_id": i}).json()["step_count"] for i in ids]
    assert counts == [1, 1, 2]


def test_a_named_session_can_be_reset(http: httpx.Client) -> None:
    name = http.post("/reset", json={"seed": 1}).json()["session_id"]
    again = http.post("/reset", json={"seed": 2, "session_id": name}).json()
    assert again["session_id"] == name and again["seed"] == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/reset", b"[1]", 422, "an array"),
        ("/reset", b'{"seed": NaN}', 422, "NaN"),
        ("/reset", b'{"seed": "x"}', 422, "whole number"),
        ("/reset", b'{"task_id": "easy"}', 422, "known: easy_screening"),
        ("/reset", b'{"split": "tests"}', 422, "did you mean 'test'"),
        ("/reset", b"\xff\xfe{}", 422, "not JSON"),
        ("/reset", b'{"x": "' + b"y" * 70_000 + b'"}', 413, "65536"),
        ("/step", b'{"action": []}', 422, "action must be an object"),
        ("/step", b'{"action": {}, "sesion_id": "a"}', 422, "did you mean 'session_id'"),
        ("/step", b'{"session_id": "nobody"}', 404, "POST /reset"),
        ("/step", b'{"session_id": 5}', 422, "session_id must be a string"),
        ("/step", b'{"a": Infinity}', 422, "Infinity"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    http: httpx.Client, path: str, body: bytes, status: int, words: str
) -> None:
    http.post("/reset")
    reply = http.post(path, content=body)
    assert reply.status_code == status
    assert words in reply.json()["detail"]


def test_a_step_after_the_end_is_a_conflict(http: httpx.Client) -> None:
    http.post("/reset")
    http.post("/step", json=FINISH)
    reply = http.post("/step", json=FINISH)
    assert reply.status_code == 409 and "has ended" in reply.json()["detail"]


def test_a_step_before_any_reset_is_told_to_reset(url: str) -> None:
    with httpx.Client(base_url=f"{url}/envs/number_line/") as http:
        reply = http.post("step", json={"action_type": "left"})
    assert reply.status_code == 404 and "POST /reset" in reply.json()["detail"]


def test_every_family_has_the_same_doors_and_its_own_sessions(http: httpx.Client) -> None:
    name = http.post("/envs/number_line/reset").json()["session_id"]
    assert http.get("/state", params={"session_id": name}).status_code == 404
    assert http.get("/envs/number_line/state").json()["step_count"] == 0
    assert http.get("/envs/number_line/metadata").json()["name"] == "number_line"


def test_the_small_doors_answer(http: httpx.Client) -> None:
    assert http.head("/").status_code == 200
    assert http.get("/").json()["default_family"] == "polypharmacy"
    page = http.get("/", headers={"Accept": "text/html"})
    assert "Polypharmacy" in page.text or "polypharmacy" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert http.get("/health").json() == {"status": "healthy"}
    assert http.get("/docs").status_code == 200
    assert {t["id"] for t in http.get("/metadata").json()["tasks"]} == set(FAMILY.tasks)


def test_schema_shows_the_real_state(http: httpx.Client) -> None:
    schema = http.get("/schema").json()
    begun = http.post("/reset").json()
    state = http.get("/state", params={"session_id": begun["session_id"]}).json()
    assert set(schema["state"]["properties"]) == set(state)
    assert set(schema["observation"]["properties"]) == set(begun["observation"])


def test_mcp_answers_by_the_standard(http: httpx.Client) -> None:
    assert http.post("/mcp", json={}).json()["error"]["code"] == -32600
    assert http.post("/mcp", content=b"{").json()["error"]["code"] == -32600
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert http.post("/mcp", json=call).json()["result"] == {"tools": []}
    call["method"] = "openenv/session/create"
    assert http.post("/mcp", json=call).json()["error"]["code"] == -32601


# -- the session table ------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_idle_http_sessions_end() -> None:
    clock = Clock()
    table = SessionTable(2, idle_s=10, clock=clock)
    first = table.open("f", "http")
    clock.now = 11
    with pytest.raises(NoSession, match="closed after 10 s"):
        table.find("f", first.id)
    assert len(table) == 0


def test_resets_without_a_name_never_fill_the_server_for_good() -> None:
    clock = Clock()
    table = SessionTable(3, clock=clock)
    for _ in range(50):
        table.open("f", "http").episode = None
        clock.now += 31
    assert len(table) <= 3


def test_a_session_that_is_played_by_name_is_never_dropped_for_another() -> None:
    clock = Clock()
    table = SessionTable(2, clock=clock)
    for _ in range(2):
        session = table.open("f", "http")
        session.episode = FAMILY.begin("easy_screening", 0)
        table.find("f", session.id)
    clock.now = 100
    with pytest.raises(Full, match="all 2 sessions"):
        table.open("f", "ws")


def test_a_session_that_is_being_served_is_neither_idle_nor_in_anybodys_way() -> None:
    clock = Clock()
    table = SessionTable(1, idle_s=10, clock=clock)

    async def build() -> None:
        session = table.open("f", "http")
        async with session.turn:  # its case is being built: there is no episode yet
            clock.now = 50
            with pytest.raises(Full):
                table.open("f", "http")
            assert table.all() == [session]
        assert table.open("f", "http") is not session

    asyncio.run(build())


# -- the command ------------------------------------------------------------------------------


def test_a_taken_port_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert server.main(["--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert str(port) in said and "--port" in said and "Traceback" not in said


def test_an_unknown_family_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["--port", "0", "--family", "polyfarmacy"]) == 1
    assert "did you mean 'polypharmacy'" in capsys.readouterr().err


def test_a_table_that_does_not_hold_together_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begin(*wanted: object) -> None:
        raise ValueError("ddi_rules.csv line 9: no drug 'wafarin'")

    monkeypatch.setattr(type(FAMILY), "begin", begin)
    assert server.main(["--port", "0"]) == 1
    assert "ddi_rules.csv line 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [["--port", "70000"], ["--capacity", "0"], ["--idle-s", "nan"], ["--reward-style", "x"]],
)
def test_a_bad_flag_ends_with_usage(given: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        server.main(given)
    assert ended.value.code == 2


@pytest.mark.slow
def test_what_no_flag_says_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "ROUNDS_RATE": "50",
        "ROUNDS_IDLE_S": " 7 ",
        "ROUNDS_CAPACITY": "",
        "ROUNDS_PORT": "tcp://",
        "ROUNDS_CORS": "https://a https://b",
        "ROUNDS_DEBUG_LATENT": "1",
        "SUGGEST_AGENT": "x",
        "ROUNDS_TOKEN": "-secret",
        "ROUNDS_LOG_FORMAT": "json",
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    asked = flags.read(["--rate", "5", "--log-format", "text"])
    assert (asked.rate, asked.idle_s, asked.capacity, asked.port) == (5.0, 7.0, 256, 7860)
    assert asked.cors == ["https://a", "https://b"] and asked.debug_latent
    assert (asked.agent, asked.token, asked.log_format) == ("x", "-secret", "text")
    monkeypatch.setenv("ROUNDS_DEBUG_LATENT", "off")
    assert not flags.read([]).debug_latent


def test_help_says_what_holds_without_a_flag() -> None:
    asked = flags.parser()
    told = " ".join(asked.format_help().split())
    for action in asked._actions:
        if action.option_strings and action.default not in (None, False, [], "==SUPPRESS=="):
            assert action.help and "(default: " in action.help, action.option_strings
    assert "(default: 7860)" in told and "(default: warning)" in told


def test_a_rate_is_no_number_of_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert flags.read(["--rate", "0"]).rate == 0
    for wrong in ("fast", "-1", "nan"):
        with pytest.raises(SystemExit):
            flags.read([f"--rate={wrong}"])
        assert f"{wrong!r} is no number of requests a second" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("ROUNDS_RATE", "fast"), ("ROUNDS_LOG_FORMAT", "xml"), ("ROUNDS_DEBUG_LATENT", "perhaps")],
)
def test_a_mistake_in_the_environment_is_told_by_its_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        flags.read([])
    told = capsys.readouterr().err
    assert name in told and value in told


@pytest.mark.parametrize(
    ("sign", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)],  # the second as supervisors expect
)
def test_an_interrupt_stops_the_server_without_a_traceback(sign: signal.Signals, code: int) -> None:
    child, url = start()
    with dial(url) as ws:
        ask(ws, {"type": "reset"})
        child.send_signal(sign)
        assert child.wait(20) == code
    assert child.stdout is not None and child.stderr is not None
    out, err = child.stdout.read(), child.stderr.read()
    child.communicate()
    assert "Traceback" not in err
    assert f"{url}/docs" in out and "polypharmacy" in out and "review_easy" in out
