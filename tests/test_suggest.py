"""Suggestions are legal, come from who was asked or say why not, and never from who sees too much."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hostile_llm as h
import httpx
import pytest
from fakes import NumberLine
from hostile_llm import FINISH, Hostile, hostile
from servers import serving_here
from websockets.sync.client import connect as open_socket

from env_server import app as server
from env_server import registry, suggest_door
from env_server.contract import Refusal
from env_server.play import Play, TooSlow
from env_server.sessions import SessionTable
from eval.agents import llm
from eval.episode import play

FAMILY = registry.get("polypharmacy")
RESET = {"task_id": "review_easy", "seed": 4, "split": "train"}


@contextmanager
def door(agent: str | None = None, **settings: Any) -> Iterator[httpx.Client]:
    app = server.create_app(families=[FAMILY, NumberLine()], agent=agent, **settings)
    with (
        serving_here(app, ws_max_size=2**20) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        yield http


def served(there: Hostile) -> str:
    return f"llm:m@{there.url}?cache=false&backoff_s=0.01&attempts=2&breaker=1"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with door() as http:
        yield http


def test_suggestions_followed_to_the_end_are_the_heuristics_review(http: httpx.Client) -> None:
    whole = play(FAMILY, "review_easy", 4, "train", FAMILY.agents["heuristic"])
    http.post("/reset", json=RESET)
    done, actions = False, []
    while not done:
        advice = http.post("/agent/suggest").json()
        assert (advice["agent"], advice["steps"]) == ("heuristic", len(actions))
        actions.append(advice["action"])
        done = http.post("/step", json=advice["action"]).json()["done"]
    assert actions == [turn.action for turn in whole.turns]


@pytest.mark.parametrize("style", ["signed", "bounded"])
def test_a_session_is_found_by_name_or_by_where_it_stands(style: Any) -> None:
    with door(reward_style=style) as http:
        begun = http.post("/reset", json=RESET).json()
        http.post("/reset", json={**RESET, "seed": 5})  # now the latest
        named = http.post("/agent/suggest", json={"session_id": begun["session_id"]}).json()
        seen = http.post("/agent/suggest", json={"observation": begun["observation"]}).json()
        assert named == seen and named["episode_id"] == begun["observation"]["episode_id"]
        http.post("/step", json=named["action"], headers={"X-Session-Id": begun["session_id"]})
        stale = http.post("/agent/suggest", json={"observation": begun["observation"]})
        assert stale.status_code == 404 and "session_id" in stale.json()["detail"]


def test_an_episode_played_over_a_socket_is_found_by_its_observation(http: httpx.Client) -> None:
    with open_socket(f"ws{str(http.base_url)[4:]}/ws", proxy=None) as ws:
        ws.send(json.dumps({"type": "reset", "data": {**RESET, "seed": 77}}))
        seen = json.loads(ws.recv())["data"]["observation"]
        advice = http.post("/agent/suggest", json={"observation": seen}).json()
    assert advice["episode_id"] == seen["episode_id"] and advice["action"]


def test_being_advised_costs_nothing(http: httpx.Client) -> None:
    http.post("/reset", json=RESET)
    before = http.get("/state").json()
    for _ in range(3):
        http.post("/agent/suggest")
    assert http.get("/state").json() == before


def test_who_sees_what_is_hidden_is_not_asked(http: httpx.Client) -> None:
    http.post("/reset", json=RESET)
    refused = http.post("/agent/suggest", json={"agent": "reference"})
    assert refused.status_code == 422 and "hidden" in refused.json()["detail"]


@pytest.mark.parametrize("agent", ["llm:m@http://evil.example/v1", "local:/etc", "heuristik"])
def test_a_request_names_no_player_that_the_server_was_not_given(
    http: httpx.Client, agent: str
) -> None:
    http.post("/reset", json=RESET)
    refused = http.post("/agent/suggest", json={"agent": agent})
    assert refused.status_code == 422 and "no polypharmacy adviser" in refused.json()["detail"]


def test_an_agent_of_the_family_is_asked_by_name(http: httpx.Client) -> None:
    http.post("/reset", json=RESET)
    advice = http.post("/agent/suggest", json={"agent": "finish_at_once"}).json()
    assert (advice["agent"], advice["action"]) == ("finish_at_once", json.loads(FINISH))


def test_every_family_has_the_door(http: httpx.Client) -> None:
    http.post("/envs/number_line/reset", json={"seed": 3, "split": "train"})
    advice = http.post("/envs/number_line/agent/suggest").json()
    assert advice["agent"] == "heuristic" and advice["action"] == {"action_type": "ask_side"}


@pytest.mark.parametrize("body", [{"observation": 3}, {"agnet": "x"}, {"session_id": 7}])
def test_a_wrong_request_is_told_what_is_wrong(http: httpx.Client, body: Any) -> None:
    assert http.post("/agent/suggest", json=body).status_code == 422


def test_without_an_episode_there_is_nothing_to_suggest() -> None:
    with door() as http:
        assert http.post("/agent/suggest").status_code == 404
        http.post("/reset", json=RESET)
        http.post("/step", json=json.loads(FINISH))
        assert http.post("/agent/suggest").status_code == 409


# -- a served model behind the door ---------------------------------------------------------------------


def test_a_served_model_suggests_and_is_shown_the_patient() -> None:
    with hostile() as there, door(served(there)) as http:
        http.post("/reset", json=RESET)
        advice = http.post("/agent/suggest").json()
    assert advice["action"] == json.loads(FINISH) and advice["agent"].startswith("llm:m@")
    assert "clinical pharmacist" in there.bodies[0]["messages"][0]["content"]


@pytest.mark.parametrize("said", ["Hmm.", '{"action_type":"query_ddi","drug_id_1":"x"}'])
def test_what_the_environment_would_refuse_is_replaced_by_the_heuristic(said: str) -> None:
    with hostile([h.says(said)]) as there, door(served(there)) as http:
        http.post("/reset", json=RESET)
        advice = http.post("/agent/suggest").json()
    assert advice["agent"] == "heuristic" and advice["instead_of"]["agent"].startswith("llm:m@")
    assert advice["instead_of"]["why"]
    legal = FAMILY.begin("review_easy", 4, "train").legal_actions()
    assert advice["action"] in [action.to_json() for action in legal]


def test_a_model_that_is_down_is_a_503_that_says_so() -> None:
    with hostile(always=h.status(401)) as there, door(served(there)) as http:
        http.post("/reset", json=RESET)
        reply = http.post("/agent/suggest")
    assert reply.status_code == 503 and "OPENAI_API_KEY" in reply.json()["detail"]


def test_a_missing_extra_is_a_503_that_names_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(llm, "find_spec", lambda name: None)
    with door("llm:m@http://127.0.0.1:9/v1") as http:
        http.post("/reset", json=RESET)
        reply = http.post("/agent/suggest")
    assert reply.status_code == 503 and "'.[agents]'" in reply.json()["detail"]


def test_without_the_room_above_the_door_names_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setattr(suggest_door, "LENDER", "no_such_room:adviser")
    with door("llm:m@http://127.0.0.1:9/v1") as http:
        http.post("/reset", json=RESET)
        reply = http.post("/agent/suggest")
    assert reply.status_code == 503 and suggest_door.REMEDY in reply.json()["detail"]


def test_a_model_that_thinks_for_too_long_holds_nobody_up() -> None:
    quick = "&patience_s=0.5&timeout_s=0.5"
    with hostile(always=h.hang) as there, door(served(there) + quick) as http:
        http.post("/reset", json=RESET)
        began = time.monotonic()
        assert http.post("/agent/suggest", timeout=20).status_code == 503
        assert time.monotonic() - began < 5
        assert http.post("/agent/suggest", json={"agent": "heuristic"}).status_code == 200


async def test_a_suggestion_is_given_up_after_its_time() -> None:
    slow = suggest_door.Advice("slow:one", wait_s=0.05)
    slow._borrowed["polypharmacy"] = lambda episode: time.sleep(0.3)
    at = Play(FAMILY, SessionTable())
    with pytest.raises(TooSlow, match="within"):
        await suggest_door.suggestion(at, slow, FAMILY.begin("review_easy", 1), "slow:one")
    slow.wait_s = 5.0
    slow._borrowed["polypharmacy"] = lambda episode: Refusal("empty", "nothing was said")
    advice = await suggest_door.suggestion(at, slow, FAMILY.begin("review_easy", 1), "slow:one")
    assert advice["instead_of"] == {"agent": "slow:one", "why": "nothing was said"}


async def test_advisers_that_never_answer_do_not_silence_the_others() -> None:
    never, advice = threading.Event(), suggest_door.Advice("stuck:one", wait_s=0.05)
    advice._borrowed["polypharmacy"] = lambda episode: never.wait(30) and None
    at, episode = Play(FAMILY, SessionTable()), FAMILY.begin("review_easy", 1)
    for _ in range(6):
        with pytest.raises(TooSlow):
            await suggest_door.suggestion(at, advice, episode, "stuck:one")
    advice.wait_s = 5.0
    assert (await suggest_door.suggestion(at, advice, episode, "heuristic"))["action"]
    never.set()
