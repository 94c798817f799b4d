"""Many episodes on one socket, long steps that hold nobody up, and the order of one session."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fakes import LineEpisode, NumberLine
from servers import ask, dial, serving_here, until
from websockets.asyncio.client import connect
from websockets.sync.client import ClientConnection

from env_server import app as server
from env_server import registry
from env_server.contract import Action, Refusal, Step, canonical
from env_server.pace import CHECKED, DOUBTS, HELD_S, PROOFS, RELAPSE, SHORT_S, WAITED_S, Pace
from env_server.play import Limits
from env_server.workers import Worker

FAMILY = registry.get("polypharmacy")
FINISH = {"action_type": "finish_review"}


@pytest.fixture(scope="module")
def app() -> Any:
    return server.create_app(capacity=40, families=[FAMILY])


@pytest.fixture(scope="module")
def url(app: Any) -> Iterator[str]:
    with serving_here(app, ws_max_size=2**20) as url:
        yield url


@pytest.fixture
def ws(url: str) -> Iterator[ClientConnection]:
    with dial(url) as ws:
        yield ws


def batch(ws: ClientConnection, *messages: Any) -> list[dict[str, Any]]:
    reply = ask(ws, {"type": "batch", "data": {"messages": list(messages)}, "request_id": 9})
    assert reply["type"] == "batch" and reply["request_id"] == 9, reply
    replies: list[dict[str, Any]] = reply["data"]["replies"]
    assert len(replies) == len(messages)
    return replies


def begin(name: str, seed: int = 3) -> dict[str, Any]:
    data = {"task_id": "easy_screening", "seed": seed}
    return {"type": "reset", "episode": name, "data": data}


def test_a_batched_step_is_the_same_bytes_as_one_alone(ws: ClientConnection, url: str) -> None:
    moves = [{"action_type": "?"}, FINISH]
    local = FAMILY.begin("easy_screening", 3)
    batch(ws, *(begin(str(at)) for at in range(5)))
    for move in moves:
        expected = local.step(FAMILY.action_from_json(move)).to_json()
        steps = ({"type": "step", "episode": str(at), "data": move} for at in range(5))
        for reply in batch(ws, *steps):
            shown = {key: reply["data"][key] for key in expected}
            assert canonical(shown) == canonical(expected)


def test_a_mistake_in_a_batch_hinders_no_other(ws: ClientConnection) -> None:
    replies = batch(
        ws,
        begin("a"),
        {"type": "step", "episode": "never begun", "data": FINISH},
        7,
        {"type": "nonsense", "episode": "a"},
        {"type": "reset", "episode": "b", "data": {"seed": -1}, "request_id": "mine"},
        {"type": "step", "episode": "a", "data": FINISH},
        {"type": "step", "episode": "a", "data": FINISH},
        {"type": "state", "episode": "a"},
        {"type": "step", "data": FINISH},
    )
    told = [r["data"].get("code", r["type"]) for r in replies]
    assert told == [
        *("observation", "NO_EPISODE", "VALIDATION_ERROR", "UNKNOWN_TYPE", "VALIDATION_ERROR"),
        *("observation", "EPISODE_OVER", "state", "NO_EPISODE"),
    ]
    assert replies[4]["request_id"] == "mine" and replies[5]["episode"] == "a"


def test_each_named_episode_takes_a_seat_and_gives_it_back(app: Any, url: str) -> None:
    assert until(lambda: len(app.state.table) == 0, 5)
    with dial(url) as ws:
        batch(ws, *(begin(str(at)) for at in range(9)))
        assert len(app.state.table) == 10  # with the socket's own
        left = batch(ws, {"type": "close", "episode": "0"}, {"type": "close", "episode": "0"})
        assert [r["type"] for r in left] == ["closed", "error"]
        batch(ws, {"type": "reset", "episode": "wrong", "data": {"seed": -1}})
        assert len(app.state.table) == 9
        full = batch(ws, *(begin(f"more {at}") for at in range(40)))
        assert full[-1]["data"]["code"] == "CAPACITY_REACHED"
        assert ask(ws, {"type": "reset"})["type"] == "observation"
    assert until(lambda: len(app.state.table) == 0, 5)


@pytest.mark.parametrize(
    "data", [None, [], {}, {"messages": []}, {"messages": {}}, {"messages": [{}] * 257}]
)
def test_a_frame_that_is_no_batch_is_told_so(ws: ClientConnection, data: Any) -> None:
    error = ask(ws, {"type": "batch", "data": data})["data"]
    assert error["code"] == "VALIDATION_ERROR" and "1 to 256" in error["message"]


# -- long steps -------------------------------------------------------------------------------


@dataclass(slots=True)
class SlowEpisode(LineEpisode):
    """Left takes half a second of waiting, and remembers who was in it at once."""

    def step(self, action: Action | Refusal) -> Step:
        if getattr(action, "action_type", None) == "left":
            time.sleep(0.5)
        return LineEpisode.step(self, action)  # slots make a new class, which super() misses


class SlowLine(NumberLine):
    def begin(self, *wanted: Any, **named: Any) -> Any:
        episode = super().begin(*wanted, **named)
        fields = ("task", "seed", "split", "place", "mark", "length", "tells")
        return SlowEpisode(**{name: getattr(episode, name) for name in fields})


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    app = server.create_app("slow", families=[SlowLine(name="slow")], limits=Limits(step_s=2.0))
    with serving_here(app) as url:
        yield url


def test_a_long_step_of_one_holds_up_no_other(slow: str) -> None:
    with dial(slow) as first, dial(slow) as second:
        ask(first, {"type": "reset"})
        ask(second, {"type": "reset"})
        first.send(json.dumps({"type": "step", "data": {"action_type": "left"}}))
        started = time.monotonic()
        for _ in range(20):
            ask(second, {"type": "state"})
        assert time.monotonic() - started < 0.4
        assert json.loads(first.recv(timeout=5))["type"] == "observation"


def test_requests_of_one_session_wait_for_one_another(slow: str) -> None:
    with httpx.Client(base_url=slow, timeout=30) as http:
        path = f"/v1/sessions/{http.post('/v1/sessions', json={}).json()['session_id']}"
        done: list[dict[str, Any]] = []

        def step() -> None:
            sent = {"action": {"action_type": "left"}}
            done.append(httpx.post(f"{slow}{path}/step", json=sent, timeout=30).json())

        threads = [threading.Thread(target=step) for _ in range(3)]
        for thread in threads:
            thread.start()
        counts = [http.get(f"{path}/state").json()["step_count"] for _ in range(3)]
        for thread in threads:
            thread.join()
        left = sorted(reply["observation"]["steps_left"] for reply in done)
        assert left == list(range(left[0], left[0] + 3))
        assert counts == sorted(counts) and set(counts) <= {0, 1, 2, 3}


def test_a_step_past_its_deadline_drops_its_episode_alone() -> None:
    app = server.create_app("slow", families=[SlowLine(name="slow")], limits=Limits(step_s=0.2))
    with serving_here(app) as url, dial(url) as ws, dial(url) as other:
        ask(ws, {"type": "reset"})
        ask(other, {"type": "reset"})
        late = ask(ws, {"type": "step", "data": {"action_type": "left"}})["data"]
        assert late["code"] == "EXECUTION_ERROR" and "reset begins another" in late["message"]
        assert ask(ws, {"type": "state"})["data"]["code"] == "NO_EPISODE"
        asked = ask(other, {"type": "step", "data": {"action_type": "ask_side"}})
        assert asked["type"] == "observation"
        assert ask(ws, {"type": "reset"})["type"] == "observation"


def test_a_form_is_trusted_once_short_and_distrusted_once_long() -> None:
    pace, episode = Pace(FAMILY), FAMILY.begin("easy_screening", 0)
    form = pace.form(episode, FINISH)
    assert form == ("easy_screening", "finish_review", False)
    assert pace.form(episode, {"action_type": "x" * 9999})[1] is None
    for _ in range(PROOFS):
        assert pace.place(form) == "thread"
        pace.took_apart(form, SHORT_S, SHORT_S / 2)
    assert pace.place(form) == "loop"
    for more, long in (
        (CHECKED, lambda: pace.took(form, HELD_S * 2)),
        (RELAPSE, lambda: pace.took_apart(form, SHORT_S * 2, SHORT_S * 2)),
    ):
        long()
        for _ in range(more - 1):
            pace.took_apart(form, 0.0, 0.0)
        assert pace.place(form) == "thread"
        pace.took_apart(form, 0.0, 0.0)
        assert pace.place(form) == "loop"


def test_a_form_that_dawdles_on_the_loop_is_forgiven_at_times_but_not_for_ever() -> None:
    pace, form = Pace(FAMILY), ("easy_screening", "finish_review", False)
    for _ in range(PROOFS):
        pace.took_apart(form, 0.0, 0.0)
    for _ in range(10 * DOUBTS):  # every second run, as on a busy machine
        pace.took(form, HELD_S / 2)
        pace.took(form, 0.0)
    assert pace.place(form) == "loop"
    for _ in range(DOUBTS + 2):
        pace.took(form, HELD_S / 2)
    assert pace.place(form) == "thread"


def test_a_form_that_waits_a_little_every_time_is_never_trusted() -> None:
    pace, form = Pace(FAMILY), ("easy_screening", "finish_review", False)
    for _ in range(10 * PROOFS):
        pace.took_apart(form, SHORT_S * 3, SHORT_S / 100)
        assert pace.place(form) == "threads"
    pace.took_apart(form, WAITED_S, WAITED_S)  # it computes after all
    assert pace.place(form) == "thread"


class Asking(NumberLine):
    """Left asks another server, which takes 30 ms; the rest is instant."""

    def begin(self, *wanted: Any, **named: Any) -> Any:
        episode = super().begin(*wanted, **named)
        fields = ("task", "seed", "split", "place", "mark", "length", "tells")
        return AskingEpisode(**{name: getattr(episode, name) for name in fields})


@dataclass(slots=True)
class AskingEpisode(LineEpisode):
    def step(self, action: Action | Refusal) -> Step:
        if getattr(action, "action_type", None) == "left":
            time.sleep(0.03)
        return LineEpisode.step(self, action)


def test_steps_that_wait_go_apart_and_many_wait_at_once() -> None:
    """However often they were seen: the loop is never held, and twenty take about as long as one."""
    app = server.create_app("asking", families=[Asking(name="asking")])
    left = {"type": "step", "data": {"action_type": "left"}}

    async def main(url: str) -> tuple[float, float]:
        async with asyncio.timeout(30):
            opened = [await connect(f"ws{url[4:]}/ws", proxy=None) for _ in range(21)]
            *waiting, other = opened
            longest = 0.0
            for _ in range(PROOFS + 4):
                await asyncio.gather(*(_asked(ws, {"type": "reset"}) for ws in opened))
                started = time.perf_counter()
                steps = asyncio.gather(*(_asked(ws, left) for ws in waiting))
                for _ in range(5):
                    asked = time.perf_counter()
                    await _asked(other, {"type": "state"})
                    longest = max(longest, time.perf_counter() - asked)
                await steps
                took_s = time.perf_counter() - started
            await asyncio.gather(*(ws.close() for ws in opened))
            return took_s, longest

    with serving_here(app) as url:
        took_s, longest = asyncio.run(main(url))
    assert took_s < 20 * 0.03 / 2 and longest < 20 * 0.03 / 2


def test_the_waiting_steps_of_one_frame_wait_together() -> None:
    app = server.create_app("asking", families=[Asking(name="asking")])
    names = [str(at) for at in range(12)]
    with serving_here(app) as url, dial(url) as ws:
        for _ in range(PROOFS):
            batch(ws, *({"type": "reset", "episode": name} for name in names))
            started = time.perf_counter()
            lefts = ({"type": "step", "episode": n, "data": {"action_type": "left"}} for n in names)
            assert {reply["type"] for reply in batch(ws, *lefts)} == {"observation"}
            took_s = time.perf_counter() - started
    assert took_s < 12 * 0.03 / 2


def test_a_frame_keeps_the_order_of_each_episode_and_of_seats() -> None:
    app = server.create_app("asking", families=[Asking(name="asking")], capacity=2)
    left = {"type": "step", "episode": "a", "data": {"action_type": "left"}}
    with serving_here(app) as url, dial(url) as ws:
        replies = batch(
            ws,
            {"type": "reset", "episode": "a"},  # the last seat, beside the socket's own
            left,
            {"type": "state", "episode": "a"},
            left,
            {"type": "close", "episode": "a"},
            {"type": "reset", "episode": "b"},
            {"type": "step", "episode": "a", "data": {"action_type": "left"}},
        )
    kinds = [reply["type"] for reply in replies]
    assert kinds == [
        *("observation",) * 2,
        "state",
        "observation",
        "closed",
        "observation",
        "error",
    ]
    assert replies[2]["data"]["step_count"] == 1
    first, second = (replies[at]["data"]["observation"]["steps_left"] for at in (1, 3))
    assert first == second + 1


async def _asked(ws: Any, message: Any) -> dict[str, Any]:
    await ws.send(json.dumps(message))
    reply: dict[str, Any] = json.loads(await ws.recv())
    assert reply["type"] != "error", reply
    return reply


def test_several_lanes_work_at_once_and_one_that_is_stuck_is_replaced() -> None:
    async def main() -> None:
        worker, free = Worker("lanes", lanes=3), threading.Event()
        stuck = [asyncio.create_task(worker.do(free.wait, 0.3)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert [await worker.do(lambda at=at: at, 5.0) for at in range(9)] == list(range(9))
        assert await asyncio.gather(*stuck, return_exceptions=True)
        assert worker.left_behind == 2
        free.set()
        meeting = threading.Barrier(3)  # only three at once come through
        met = await asyncio.gather(*(worker.do(meeting.wait, 5.0) for _ in range(3)))
        assert sorted(met) == [0, 1, 2]

    asyncio.run(main())


def test_a_worker_leaves_a_stuck_thread_behind_and_goes_on() -> None:
    async def main() -> None:
        worker, free = Worker("w"), threading.Event()
        stuck = asyncio.create_task(worker.do(free.wait, 0.2))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(worker.do(lambda: 7, 5.0))
        with pytest.raises(TimeoutError):
            await stuck
        assert await waiting == 7 and worker.left_behind == 1
        free.set()
        assert await worker.do(lambda: 8, 5.0) == 8
        with pytest.raises(ZeroDivisionError):
            await worker.do(lambda: 1 // 0, 5.0)

    asyncio.run(main())
    assert until(lambda: not _named("w", more_than=1), 5)


def _named(name: str, more_than: int) -> bool:
    return sum(thread.name == name for thread in threading.enumerate()) > more_than


def test_a_job_given_up_while_it_waited_is_never_done() -> None:
    async def main() -> None:
        worker, done = Worker("v"), []
        first = asyncio.create_task(worker.do(lambda: time.sleep(0.3), 5.0))
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await worker.do(lambda: done.append(1), 0.05)
        await first
        assert await worker.do(lambda: list(done), 5.0) == [] and worker.left_behind == 0

    asyncio.run(main())
