"""The typed API: sessions by id, many steps in one call, snapshots, and who may see them all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fakes import LineEpisode, NumberLine
from servers import serving_here, until

from env_server import app as server
from env_server import registry
from env_server.contract import canonical
from env_server.guard import Keeper

FAMILY = registry.get("polypharmacy")
FINISH = {"action_type": "finish_review"}
NONSENSE = {"action_type": "?"}
STEP = ("observation", "reward", "parts", "done", "refusal", "info")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = server.create_app(
        capacity=60, families=[FAMILY, NumberLine()], keeper=Keeper("open sesame")
    )
    with serving_here(app) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as http:
        yield http


def create(http: httpx.Client, **case: Any) -> dict[str, Any]:
    reply = http.post("/v1/sessions", json={"task_id": "easy_screening", "seed": 4, **case})
    assert reply.status_code == 201, reply.text
    body: dict[str, Any] = reply.json()
    return body


def test_a_session_is_created_played_and_deleted(http: httpx.Client) -> None:
    begun = create(http)
    path = f"/v1/sessions/{begun['session_id']}"
    assert begun["seed"] == 4 and begun["observation"]["task_id"] == "easy_screening"
    refused = http.post(f"{path}/step", json={"action": NONSENSE}).json()
    assert refused["refusal"]["kind"] == "malformed" and not refused["done"]
    assert http.get(f"{path}/state").json()["step_count"] == 1
    assert http.get(path).json()["observation"] == refused["observation"]
    done = http.post(f"{path}/step", json={"action": FINISH}).json()
    assert done["done"] and done["score"] == done["observation"]["score"]
    assert http.post(f"{path}/step", json={"action": FINISH}).status_code == 409
    assert http.delete(path).status_code == 204
    assert http.get(path).status_code == http.delete(path).status_code == 404


def test_a_batch_answers_each_step_as_if_it_came_alone(http: httpx.Client) -> None:
    alone, first, second = create(http), create(http), create(http, seed=5)
    single = http.post(f"/v1/sessions/{alone['session_id']}/step", json={"action": FINISH}).json()
    steps = [
        {"session_id": first["session_id"], "action": FINISH},
        {"session_id": "nobody", "action": FINISH},
        {"session_id": second["session_id"], "action": NONSENSE},
        {"session_id": second["session_id"], "action": FINISH},
        {"session_id": second["session_id"], "action": FINISH},
        {"session_id": first["session_id"]},
        7,
    ]
    results = http.post("/v1/sessions/step", json={"steps": steps}).json()["results"]
    assert [r["status"] for r in results] == [200, 404, 200, 200, 409, 422, 422]
    assert {key: results[0][key] for key in STEP} == {key: single[key] for key in STEP}
    assert results[2]["refusal"]["kind"] == "malformed" and results[3]["done"]


def test_a_step_that_may_have_been_taken_is_not_taken_twice(http: httpx.Client) -> None:
    path = f"/v1/sessions/{create(http)['session_id']}"
    once = {"action": NONSENSE, "at": 0}
    assert http.post(f"{path}/step", json=once).status_code == 200
    again = http.post(f"{path}/step", json=once)
    assert again.status_code == 409 and "1 steps were taken, not 0" in again.json()["detail"]
    assert http.get(f"{path}/state").json()["step_count"] == 1


@pytest.mark.parametrize("family", ["polypharmacy", "number_line"])
def test_a_snapshot_played_on_elsewhere_is_the_same_game(http: httpx.Client, family: str) -> None:
    base = f"/envs/{family}/v1/sessions"
    session = http.post(base, json={"seed": 11}).json()
    path = f"{base}/{session['session_id']}"
    refusal = {"refusal": {"kind": "truncated", "why": "cut"}}
    for action in (refusal, NONSENSE, {"action_type": "ask_side"}):
        seen = http.post(f"{path}/step", json={"action": action}).json()
    snapshot = http.get(f"{path}/snapshot").json()
    assert snapshot["steps"] == 3
    http.delete(path)
    restored = http.post(base, json={"snapshot": snapshot})
    assert restored.status_code == 201, restored.text
    assert canonical(restored.json()["observation"]) == canonical(seen["observation"])
    assert restored.json()["refusal"] == seen["refusal"]
    fresh = f"{base}/{restored.json()['session_id']}"
    assert http.get(f"{fresh}/snapshot").json() == snapshot


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"snapshot": {}, "seed": 1}, "send it alone"),
        ({"snapshot": []}, "must be an object"),
        ({"snapshot": {"actions": []}}, "has a seed"),
        ({"snapshot": {"seed": 1, "actions": [3]}}, "actions[0] must be an object"),
        ({"snapshot": {"seed": 1, "version": "0.0", "actions": []}}, "cannot be played on"),
        ({"snapshot": {"seed": 1, "actions": [FINISH, FINISH]}}, "actions[1]: the episode ended"),
        ({"task_id": "easy"}, "known: easy_screening"),
        ({"sed": 1}, "did you mean 'seed'"),
    ],
)
def test_a_session_that_cannot_begin_takes_no_seat(
    http: httpx.Client, body: dict[str, Any], words: str
) -> None:
    taken = http.get("/v1/capacity").json()["taken"]
    reply = http.post("/v1/sessions", json=body)
    assert reply.status_code == 422 and words in reply.json()["detail"]
    assert http.get("/v1/capacity").json()["taken"] == taken


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"steps": []}, "a list of 1 to 256"),
        ({"steps": [{}] * 257}, "a list of 1 to 256"),
        ({"step": []}, "did you mean 'steps'"),
    ],
)
def test_a_bad_batch_is_told_what_is_wrong(
    http: httpx.Client, body: dict[str, Any], words: str
) -> None:
    reply = http.post("/v1/sessions/step", json=body)
    assert reply.status_code == 422 and words in reply.json()["detail"]


def test_capacity_and_families_are_told(http: httpx.Client) -> None:
    before = http.get("/v1/capacity").json()
    name = create(http)["session_id"]
    after = http.get("/v1/capacity").json()
    assert after["taken"] == before["taken"] + 1 and after["free"] == before["free"] - 1
    assert after["capacity"] == 60 and after["stopping"] is False
    http.delete(f"/v1/sessions/{name}")
    told = {f["name"]: f for f in http.get("/v1/families").json()["families"]}
    assert {t["id"] for t in told["polypharmacy"]["tasks"]} == set(FAMILY.tasks)
    assert http.post(told["number_line"]["sessions"], json={}).status_code == 201


def test_a_full_server_says_so_and_counts_it() -> None:
    app = server.create_app("number_line", capacity=1, families=[NumberLine()])
    with serving_here(app) as url, httpx.Client(base_url=url) as http:
        assert http.post("/v1/sessions", json={}).status_code == 201
        full = http.post("/v1/sessions", json={})
        assert full.status_code == 503 and "--capacity" in full.json()["detail"]
        assert full.headers["Retry-After"] == "5"
        assert "rounds_capacity_refusals_total 1" in http.get("/metrics").text


GATE = threading.Event()


class SlowToBegin(NumberLine):
    """A family whose cases are all ready at the same time."""

    def begin(self, *wanted: Any, **named: Any) -> LineEpisode:
        GATE.wait(20)
        return NumberLine.begin(self, *wanted, **named)


@pytest.mark.parametrize("door", ["/v1/sessions", "/reset"])
def test_whoever_waits_for_a_case_keeps_the_seat(door: str) -> None:
    GATE.clear()
    app = server.create_app(NumberLine().name, families=[SlowToBegin()], capacity=2)
    with (
        serving_here(app) as url,
        httpx.Client(base_url=url, timeout=20) as http,
        ThreadPoolExecutor(2) as players,
    ):
        first = [players.submit(http.post, door, json={"seed": seed}) for seed in range(2)]
        assert until(lambda: http.get("/v1/capacity").json()["free"] == 0, 10)
        third = http.post(door, json={"seed": 2})
        GATE.set()
        names = [one.result().json()["session_id"] for one in first]
        assert third.status_code == 503
        states = [http.get("/state", headers={"X-Session-Id": name}) for name in names]
        assert [state.status_code for state in states] == [200, 200]


def test_only_the_keeper_sees_and_closes_all_sessions(http: httpx.Client) -> None:
    name = create(http)["session_id"]
    for verb in ("GET", "DELETE"):
        refused = http.request(verb, "/v1/sessions")
        assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
    key = {"Authorization": "Bearer open sesame"}
    listed = http.get("/v1/sessions", headers=key).json()["sessions"]
    assert name in {one["session_id"] for one in listed}
    foreign = http.get("/v1/sessions", headers={**key, "Origin": "https://evil.example"})
    assert foreign.status_code == 403 and "--cors" in foreign.json()["detail"]
    assert http.delete("/v1/sessions", params={"idle_s": 1e6}, headers=key).json()["closed"] == 0
    assert http.delete("/v1/sessions", headers=key).json()["closed"] >= 1
    assert http.get(f"/v1/sessions/{name}").status_code == 404


def test_the_document_types_every_familys_actions(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    branches = {b["title"] for b in schemas["PolypharmacyAction"]["oneOf"]}
    assert {"query_ddi", "propose_intervention", "finish_review"} <= branches
    paths = document["paths"]
    for path in ("/v1/sessions/{session_id}/step", "/envs/number_line/v1/sessions/step"):
        assert paths[path]["post"]["requestBody"]["required"]
    step = paths["/v1/sessions/{session_id}/step"]["post"]["requestBody"]["content"]
    action = step["application/json"]["schema"]["properties"]["action"]
    assert {"$ref": "#/components/schemas/PolypharmacyAction"} in action["anyOf"]
    missing = [r for r in _refs(document) if not r.startswith("#/components/schemas/")]
    assert missing == []
    assert {r.rsplit("/", 1)[1] for r in _refs(document)} <= set(schemas)


def _refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _refs(value)
