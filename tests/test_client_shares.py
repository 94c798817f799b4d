"""Episodes that share a socket are stepped in one frame, and share nothing else: not even a failure."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, ClassVar

import httpx
import pytest
from fakes import FINISH, LEFT, RIGHT, LineEpisode, NumberLine
from servers import serving_here, until
from websockets.sync.server import ServerConnection, serve

from bench.bad_road import bad_road
from env_server import socket_door, wire
from env_server.app import create_app
from env_server.client import Connection, Deadline, EpisodeLost, RemoteEpisode, connect
from env_server.contract import Action, Refusal, Split, Step, canonical
from env_server.upstream import SHARE
from eval.door import ClockedDoor, Lost, RemoteDoor, Request

LINE = NumberLine()
WANTED: list[tuple[str, int, Split]] = [("far", seed, "train") for seed in range(400)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_here(create_app(LINE.name, families=[LINE], capacity=300)) as url:
        yield url


@pytest.fixture
def link(url: str) -> Iterator[Connection]:
    with connect(url, LINE.name) as link:
        yield link
    assert until(lambda: seats(url) == 0, 5.0)


def seats(url: str) -> int:
    taken: int = httpx.get(f"{url}/v1/capacity").json()["taken"]
    return taken


def moved(link: Connection, episodes: Sequence[RemoteEpisode], move: Action = RIGHT) -> list[str]:
    """What became of one step of each: `ok`, or the name of the loss."""
    told = link.step_many([(episode, move) for episode in episodes])
    return ["ok" if isinstance(one, Step) else type(one).__name__ for one in told]


def right(steps: Sequence[Step | EpisodeLost], seeds: Sequence[int], so_far: int) -> bool:
    """Whether each is the last of so many steps to the right on its own line."""
    for step, seed in zip(steps, seeds, strict=True):
        local = LINE.begin("far", seed)
        told = [local.step(RIGHT) for _ in range(so_far)][-1]
        if not isinstance(step, Step) or canonical(step.to_json()) != canonical(told.to_json()):
            return False
    return True


def test_more_episodes_than_a_frame_holds_take_a_seat_each_and_no_more(url: str) -> None:
    with connect(url, LINE.name, pool=300) as link:
        episodes = link.begin_many(WANTED[:300])
        assert seats(url) == 300
        for turn in (1, 2):
            steps = link.step_many([(episode, RIGHT) for episode in episodes])
            assert right(steps, range(300), turn)
        assert len({id(e.place.line) for e in episodes if e.place}) == -(-300 // SHARE)


def test_a_turn_of_many_is_a_frame_a_socket(url: str, link: Connection) -> None:
    episodes = link.begin_many(WANTED[: 2 * SHARE])
    before = _frames(url)
    assert moved(link, episodes) == ["ok"] * len(episodes)
    assert _frames(url) - before == 2


def test_a_sockets_moves_are_sent_while_the_next_ones_are_made_up(url: str) -> None:
    door = ClockedDoor(RemoteDoor(url, LINE))
    wanted = [Request(*one) for one in WANTED[: 2 * SHARE]]
    episodes = [one for one in door.begin_many(wanted) if not isinstance(one, Lost)]
    before = _frames(url)

    def moves() -> Iterator[Any]:
        for at, episode in enumerate(episodes):
            if at == len(episodes) - 1:
                assert until(lambda: _frames(url) == before + 1, 5.0), "the first half is there"
                time.sleep(0.5)
            yield episode, RIGHT

    door.seconds = 0.0
    steps = list(door.step_each(moves()))
    waited_s = door.seconds
    door.close()
    assert right(steps, range(2 * SHARE), 1)  # type: ignore[arg-type]
    assert waited_s < 0.5, "making up one's mind is no waiting for the environment"


def _frames(url: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    lines = [one for one in text.splitlines() if one.startswith("rounds_socket_frames_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_a_socket_that_breaks_loses_its_episodes_and_no_others(url: str) -> None:
    with bad_road(url) as road, connect(road.url, LINE.name) as link:
        episodes = link.begin_many(WANTED[: 2 * SHARE])
        road.break_down("cut", 1)
        told = moved(link, episodes)
        assert sorted(set(told)) == ["EpisodeLost", "ok"] and told.count("ok") == SHARE
        lost = [episode for episode, one in zip(episodes, told, strict=True) if one != "ok"]
        assert link.replay_many(lost) == [None] * SHARE
        assert moved(link, lost) == ["ok"] * SHARE
        assert right(link.step_many([(e, RIGHT) for e in lost]), [e.seed for e in lost], 2)


@dataclass(slots=True)
class _Broken(LineEpisode):
    """Falls over when told to go left."""

    def step(self, action: Action | Refusal) -> Step:
        if action == LEFT:
            raise RuntimeError("a defect of the family's")
        return LineEpisode.step(self, action)


@dataclass(slots=True)
class _Sluggish(LineEpisode):
    """Thinks for long about going left."""

    def step(self, action: Action | Refusal) -> Step:
        if action == LEFT:
            time.sleep(0.6)
        return LineEpisode.step(self, action)


class _Odd(NumberLine):
    """A number line of episodes of another kind."""

    kind: ClassVar[type[LineEpisode]]

    def begin(self, *wanted: Any, **named: Any) -> LineEpisode:
        it = NumberLine.begin(self, *wanted, **named)
        return self.kind(it.task, it.seed, it.split, it.place, it.mark, it.length, it.tells)


class _BrokenLine(_Odd):
    kind = _Broken


class _SluggishLine(_Odd):
    kind = _Sluggish


@contextmanager
def odd(family: _Odd, **settings: Any) -> Iterator[Connection]:
    app = create_app(LINE.name, families=[family])
    with serving_here(app) as url, connect(url, LINE.name, **settings) as link:
        yield link


def test_a_mistake_in_one_message_loses_its_episode_alone() -> None:
    with odd(_BrokenLine()) as link:
        first, second, third = link.begin_many(WANTED[:3])
        told = link.step_many([(first, RIGHT), (second, LEFT), (third, RIGHT)])
        assert right([told[0], told[2]], [0, 2], 1)
        assert isinstance(told[1], EpisodeLost) and "internal error" in str(told[1])
        assert moved(link, [first, third]) == ["ok", "ok"]


def test_an_answer_that_is_late_costs_its_episode_and_is_nobodys() -> None:
    with odd(_SluggishLine(), deadline_s=0.3) as link:
        slow, quick = link.begin_many(WANTED[:2])
        with pytest.raises(Deadline):
            slow.step(LEFT)
        time.sleep(0.5)
        assert right([quick.step(RIGHT)], [1], 1)
        slow.replay()
        assert right([slow.step(RIGHT)], [0], 1)


def test_long_messages_take_more_frames_and_one_too_long_loses_its_episode_alone(
    url: str, link: Connection
) -> None:
    episodes = link.begin_many(WANTED[:SHARE])
    lengths = [wire.MAX_WHY] * (SHARE - 1) + [70_000]
    moves = [(e, Refusal("malformed", n * "\x02")) for e, n in zip(episodes, lengths, strict=True)]
    before = _frames(url)
    told = ["ok" if isinstance(one, Step) else "lost" for one in link.step_many(moves)]
    assert told == ["ok"] * (SHARE - 1) + ["lost"]
    assert _frames(url) - before > 2


def test_seats_of_shared_episodes_go_back_with_the_next_frame(url: str, link: Connection) -> None:
    episodes = link.begin_many(WANTED[:10])
    for episode in episodes[2:]:
        episode.drop()
    assert until(lambda: link.servers()[0].episodes == 2, 2.0)
    moved(link, episodes[:2])
    assert seats(url) == 2


def test_no_more_seats_are_taken_than_the_pool_has(url: str) -> None:
    draw = Random(5)
    live: list[RemoteEpisode] = []
    with (
        serving_here(create_app(LINE.name, families=[LINE], capacity=40)) as url,
        connect(url, LINE.name, pool=40) as link,
    ):
        for _ in range(12):
            room = 40 - len(live)
            live += link.begin_many(WANTED[: draw.randint(0, room)])
            if len(live) < 40:
                live.append(link.begin("far"))
            draw.shuffle(live)
            moved(link, live[:7], FINISH)
            leaving = draw.randint(0, len(live))
            for episode in live[leaving:]:
                episode.drop()
            live = [episode for episode in live[7:leaving] if not episode.done]
            assert until(lambda: link.servers()[0].episodes == len(live), 2.0)  # noqa: B023
            assert seats(url) <= 40


# -- servers that answer otherwise -------------------------------------------------------------


def test_a_server_that_knows_no_batches_is_asked_once_and_then_by_sockets(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def unknown(*data: Any) -> Any:
        asked.append(data)
        raise socket_door.Unknown("no message type 'batch'; types: reset, step, state, close")

    monkeypatch.setattr(socket_door, "_batch", unknown)
    with connect(url, LINE.name, patience_s=0.0) as link:
        for _ in range(2):
            episodes = link.begin_many(WANTED[:10])
            assert right(link.step_many([(e, RIGHT) for e in episodes]), range(10), 1)
            assert len({id(e.place.line) for e in episodes if e.place}) == 10
            assert not [s.why for s in link.servers() if s.why]
    assert len(asked) == 1


Reply = dict[str, Any]


@contextmanager
def answering(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    with serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def _said(message: Reply, episodes: dict[str | None, LineEpisode]) -> Reply:
    """The right answer to one message."""
    name = message.get("episode")
    told: Reply = {"type": "observation", "data": {}}
    if message["type"] == "reset":
        it = episodes[name] = LINE.begin("far", message["data"]["seed"])
        begun = {"task": asdict(it.task), "seed": it.seed, "split": "train", "done": False}
        seen = {"observation": it.observe().to_json(), "episode_id": it.episode_id}
        told["data"] = {**begun, **seen}
    elif message["type"] == "step":
        told["data"] = episodes[name].step(RIGHT).to_json()
    return told if name is None else {**told, "episode": name}


def _answer(frame: Reply, episodes: dict[str | None, LineEpisode]) -> Reply:
    if frame["type"] != "batch":
        return {**_said(frame, episodes), "request_id": frame["request_id"]}
    replies = [_said(message, episodes) for message in frame["data"]["messages"]]
    return {"type": "batch", "data": {"replies": replies}, "request_id": frame["request_id"]}


def test_answers_in_another_order_find_who_asked() -> None:
    def handler(peer: ServerConnection) -> None:
        episodes: dict[str | None, LineEpisode] = {}
        held: list[Reply] = []
        for frame in map(json.loads, peer):
            if frame["type"] == "close":
                return
            answer = _answer(frame, episodes)
            begins = frame["type"] == "state" or "reset" in json.dumps(frame)
            held.append(answer)
            if begins or len(held) == 2:
                for one in held[::-1]:
                    peer.send(json.dumps(one))
                held.clear()

    with answering(handler) as url, connect(url, LINE.name, deadline_s=5.0) as link:
        episodes = link.begin_many(WANTED[:2])
        told: dict[int, Step] = {}
        threads = [
            threading.Thread(target=lambda e=e: told.update({e.seed: e.step(RIGHT)}))  # type: ignore[misc]
            for e in episodes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert right([told[0], told[1]], [0, 1], 1)


def test_of_a_turn_that_was_given_up_nothing_more_is_sent() -> None:
    heard: list[Reply] = []

    def handler(peer: ServerConnection) -> None:
        episodes: dict[str | None, LineEpisode] = {}
        for frame in map(json.loads, peer):
            if frame["type"] == "close":
                return
            heard.append(frame)
            if len(heard) == 4:  # after the greeting, a frame of resets, and one of steps
                time.sleep(0.6)
            peer.send(json.dumps(_answer(frame, episodes)))

    long = Refusal("malformed", "x" * 30_000)  # two of them are a frame each
    with (
        answering(handler) as url,
        connect(url, LINE.name, deadline_s=0.4, in_flight=1) as link,
    ):
        *episodes, other = link.begin_many(WANTED[:3])
        assert moved(link, [*episodes, other]) == ["ok", "ok", "ok"]
        told = link.step_many([(episode, long) for episode in episodes])
        assert [type(one) for one in told] == [Deadline, Deadline]
        time.sleep(1.0)
        assert len(heard) == 4
        assert moved(link, [other]) == ["ok"]


@pytest.mark.parametrize("spoiled", ["swapped", "short", "nameless", "NaN"])
def test_a_batch_that_answers_something_else_is_no_step_of_anybodys(spoiled: str) -> None:
    def handler(peer: ServerConnection) -> None:
        episodes: dict[str | None, LineEpisode] = {}
        for frame in map(json.loads, peer):
            if frame["type"] == "close":
                return
            answer = _answer(frame, episodes)
            if frame["type"] == "batch" and "step" in json.dumps(frame):
                replies = answer["data"]["replies"]
                if spoiled == "swapped":
                    replies.reverse()
                elif spoiled == "short":
                    replies.pop()
                elif spoiled == "nameless":
                    del replies[1]["episode"]
                else:
                    replies[1]["data"]["reward"] = float("nan")
            peer.send(json.dumps(answer))

    with answering(handler) as url, connect(url, LINE.name) as link:
        episodes = link.begin_many(WANTED[:3])
        assert moved(link, episodes) == ["EpisodeLost"] * 3
        assert [e.steps for e in episodes] == [0, 0, 0]
