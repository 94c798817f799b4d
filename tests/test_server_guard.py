"""Who gets in and what is written down: rates, sizes, tokens, other sites, policies, metrics, logs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes import NumberLine
from servers import ask, dial, serving_here, until
from websockets.exceptions import InvalidStatus

from env_server import app as server
from env_server import logs
from env_server.guard import Keeper, Rates
from env_server.metrics import Counter, Histogram, Metrics
from env_server.play import Limits


def small(**settings: Any) -> Any:
    return server.create_app("number_line", families=[NumberLine()], **settings)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with serving_here(small()) as url, httpx.Client(base_url=url) as http:
        yield http


# -- rates and sizes --------------------------------------------------------------------------


def test_a_rate_lets_a_burst_through_and_then_its_share() -> None:
    now = 0.0
    rates = Rates(Limits(rate=10, burst_s=0.5), clock=lambda: now)
    assert [rates.wait_s("a") for _ in range(5)] == [0.0] * 5
    assert rates.wait_s("a") == pytest.approx(0.1)
    assert rates.wait_s("b") == 0.0
    now = 0.1
    assert rates.wait_s("a") == 0.0 and rates.wait_s("a") > 0.0


def test_an_address_over_the_rate_is_told_when_to_come_back() -> None:
    with (
        serving_here(small(limits=Limits(rate=1, burst_s=3))) as url,
        httpx.Client(base_url=url) as http,
    ):
        codes = [http.get("/health").status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        assert int(http.get("/health").headers["Retry-After"]) >= 1
        with pytest.raises(InvalidStatus) as refused, dial(url):
            pass
        assert refused.value.response.status_code == 429


def test_a_socket_over_the_rate_is_slowed_and_loses_nothing() -> None:
    with serving_here(small(limits=Limits(rate=20, burst_s=0.1))) as url, dial(url) as ws:
        started = time.monotonic()
        for at in range(12):
            ws.send(json.dumps({"type": "state", "request_id": at}))
        assert [json.loads(ws.recv())["request_id"] for _ in range(12)] == list(range(12))
        assert time.monotonic() - started > 0.4


def test_a_large_body_is_refused_before_it_is_read() -> None:
    app = small(limits=Limits(body_bytes=1000))
    with serving_here(app) as url, httpx.Client(base_url=url) as http:
        said = http.post("/reset", content=b"x" * 1001)
        assert said.status_code == 413 and "1000" in said.json()["detail"]
        stream = http.post("/reset", content=(b"x" * 400 for _ in range(3)))  # no length given
        assert stream.status_code == 413
        assert 'rounds_turned_away_total{why="size"} 1' in http.get("/metrics").text
        with dial(url) as ws:
            error = ask(ws, json.dumps({"type": "reset", "data": {"x": "y" * 1000}}))
            assert error["data"]["code"] == "VALIDATION_ERROR" and "1000" in str(error["data"])


def test_a_frame_is_measured_in_bytes_not_in_letters() -> None:
    app = small(limits=Limits(body_bytes=1000))
    with serving_here(app) as url, dial(url) as ws:
        error = ask(ws, json.dumps({"type": "reset", "x": "ø" * 700}, ensure_ascii=False))
        assert "message of 14" in error["data"]["message"]


# -- the keeper -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keeper", "headers", "status"),
    [
        (Keeper(), {}, 403),
        (Keeper(local=True), {}, 200),
        (Keeper(local=True), {"Origin": "https://evil.example"}, 403),
        (Keeper("s3cret"), {}, 401),
        (Keeper("s3cret"), {"Authorization": "Bearer wrong"}, 401),
        (Keeper("s3cret"), {"Authorization": "Basic s3cret"}, 401),
        (Keeper("s3cret"), {"Authorization": "Bearer s3cret"}, 200),
        (Keeper("s3cret", local=True), {}, 401),
    ],
)
def test_what_changes_more_than_a_session_is_the_keepers(
    keeper: Keeper, headers: dict[str, str], status: int
) -> None:
    with serving_here(small(keeper=keeper)) as url:
        reply = httpx.get(f"{url}/v1/sessions", headers=headers)
        assert reply.status_code == status
        assert "s3cret" not in reply.text


def test_playing_needs_no_token() -> None:
    with serving_here(small(keeper=Keeper("s3cret"))) as url, dial(url) as ws:
        assert ask(ws, {"type": "reset"})["type"] == "observation"
        assert httpx.post(f"{url}/v1/sessions", json={}).status_code == 201
        assert httpx.post(f"{url}/agent/suggest", json={}).status_code in (200, 404)


def test_a_lent_player_is_asked_for_the_tokens_holder_only() -> None:
    with serving_here(small(keeper=Keeper("s3cret"), agent="llm:costly")) as url:
        assert httpx.post(f"{url}/reset").status_code == 200
        assert httpx.post(f"{url}/agent/suggest", json={}).status_code == 401


# -- browsers ---------------------------------------------------------------------------------


def test_other_sites_are_kept_out_unless_named(http: httpx.Client) -> None:
    origin = {"Origin": "https://site.example"}
    assert "access-control-allow-origin" not in http.get("/health", headers=origin).headers
    app = small(keeper=Keeper(origins=("https://site.example",)))
    with serving_here(app) as url:
        named = httpx.get(f"{url}/health", headers=origin)
        assert named.headers["access-control-allow-origin"] == "https://site.example"
        other = httpx.get(f"{url}/health", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_every_reply_says_what_a_browser_may_do_with_it(http: httpx.Client) -> None:
    for path in ("/", "/docs", "/health", "/metrics", "/nowhere", "/openapi.json"):
        headers = http.get(path, headers={"Accept": "text/html"}).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


def test_the_docs_page_runs_its_own_script_alone(http: httpx.Client) -> None:
    page = http.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert page.text.count("<script>") == len(re.findall(r"'sha256-[A-Za-z0-9+/]+=*'", policy)) == 1
    for host in re.findall(r'src="(https://[^/"]+)', page.text):
        assert host in policy


def test_a_request_has_an_id_and_keeps_a_good_one(http: httpx.Client) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", http.get("/health").headers["X-Request-Id"])
    mine = http.get("/health", headers={"X-Request-Id": "run-7.a"})
    assert mine.headers["X-Request-Id"] == "run-7.a"
    bad = http.get("/health", headers={"X-Request-Id": "a" * 100})
    assert bad.headers["X-Request-Id"] != "a" * 100


# -- metrics ----------------------------------------------------------------------------------

LINE = re.compile(
    r"# (HELP|TYPE) [a-z_]+ .+|"
    r'[a-z_]+(\{[a-z]+="(\\.|[^"\\])*"(,[a-z]+="(\\.|[^"\\])*")*\})? -?([0-9.e+-]+|\+Inf)'
)


def value(page: str, line: str) -> float:
    found = [row for row in page.splitlines() if row.startswith(line + " ")]
    assert len(found) == 1, (line, page)
    return float(found[0].rsplit(" ", 1)[1])


def test_the_metrics_page_counts_what_happened(http: httpx.Client) -> None:
    url = str(http.base_url).rstrip("/")
    with dial(url) as ws:
        ask(ws, {"type": "reset"})
        ask(ws, {"type": "step", "data": {"action_type": "?"}})
        ask(ws, {"type": "step", "data": {"action_type": "finish"}})
        page = http.get("/metrics")
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert [row for row in page.text.splitlines() if not LINE.fullmatch(row)] == []
    task = NumberLine().default_task
    begun = f'rounds_episodes_begun_total{{family="number_line",task="{task}"}}'
    assert value(page.text, begun) == 1
    assert value(page.text, begun.replace("begun", "finished")) == 1
    assert value(page.text, 'rounds_refusals_total{family="number_line",kind="malformed"}') == 1
    assert value(page.text, 'rounds_step_seconds_count{family="number_line"}') == 2
    assert value(page.text, 'rounds_sessions{family="number_line",kind="ws"}') == 1
    assert value(page.text, "process_resident_memory_bytes") > 1e7
    ends = 'rounds_sockets_closed_total{why="peer"} 1'
    assert until(lambda: ends in http.get("/metrics").text, 5)


def test_a_histogram_adds_up() -> None:
    taken = Histogram("s", "seconds", ("family",))
    for seconds in (0.0001, 0.0005, 0.3, 99.0):
        taken.add(seconds, "f")
    rows = dict(line.rsplit(" ", 1) for line in taken.lines() if line[0] != "#")
    assert rows['s_bucket{family="f",le="0.0005"}'] == "2"
    assert rows['s_bucket{family="f",le="0.5"}'] == "3"
    assert rows['s_bucket{family="f",le="+Inf"}'] == rows['s_count{family="f"}'] == "4"


def test_a_label_is_escaped() -> None:
    counted = Counter("c", "h", ("why",))
    counted.add('a"b\\c\nd')
    assert 'c{why="a\\"b\\\\c\\nd"} 1' in list(counted.lines())
    assert Metrics().page().endswith("\n")


# -- logs -------------------------------------------------------------------------------------


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged meanwhile, as JSON."""
    root = logging.getLogger()
    kept, level, stream = root.handlers[:], root.level, io.StringIO()
    logs.begin("info", "json", stream)
    yield stream
    root.handlers[:] = kept
    root.setLevel(level)


class Faulty(NumberLine):
    """A family with a bug."""

    def begin(self, *wanted: Any, **named: Any) -> Any:
        raise ZeroDivisionError("secret detail")


def test_a_line_of_the_log_names_its_request_and_an_error_its_id(written: io.StringIO) -> None:
    app = server.create_app("faulty", families=[Faulty(name="faulty")])
    with serving_here(app, log_config=None) as url:
        reply = httpx.post(f"{url}/reset", headers={"X-Request-Id": "mine"})
        with dial(url) as ws:
            told = ask(ws, {"type": "reset"})["data"]["message"]
        assert until(lambda: "socket closed" in written.getvalue(), 5)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    by_http = next(one for one in lines if one.get("request_id") == "mine" and "error_id" in one)
    assert by_http["error_id"] in reply.json()["detail"]
    assert "ZeroDivisionError: secret detail" in by_http["exception"]
    by_socket = next(one for one in lines if one.get("session_id") and "error_id" in one)
    assert by_socket["error_id"] in told and "secret" not in told
    access = next(one for one in lines if one["logger"] == "rounds.access")
    assert (access["method"], access["path"], access["status"]) == ("POST", "/reset", 500)


def test_a_text_line_ends_with_its_ids() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    try:
        logs.begin("info", "text", stream)
        mark = logs.request_id.set("r1")
        logging.getLogger("rounds.x").info("hello")
        logs.request_id.reset(mark)
        logging.getLogger("rounds.x").info("bye")
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    assert stream.getvalue() == "INFO rounds.x: hello [r1]\nINFO rounds.x: bye\n"


def test_the_clock_of_the_loop_is_not_needed_to_close() -> None:
    """A peer that was never watched can be told to stop."""
    from env_server.peers import Peer, Peers
    from env_server.sessions import Session

    async def main() -> None:
        peers = Peers()
        peer = Peer(Session("a", "f", "ws", 0.0), 1.0, 1.0)
        with peers.present(peer):
            assert await peers.leave(0.05) == 1 and peer.stopping

    asyncio.run(main())
