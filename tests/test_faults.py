"""Whatever breaks between a trainer and its environment costs time, and never a reward that is wrong.

Real processes throughout. `python -m bench.faults` does the same with more of everything.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import pytest
from servers import serving, until

from bench import faults
from bench.bad_road import FAULTS, Fault, bad_road
from bench.processes import children
from bench.scripted import Script, perform, scripts
from env_server.client import (
    CapacityError,
    Deadline,
    EpisodeLost,
    RemoteError,
    aconnect,
    connect,
)
from env_server.contract import Refusal, Step, canonical
from eval.door import LocalDoor, Lost, Move, RemoteDoor
from training.own_server import own_server

pytestmark = pytest.mark.slow
NOTHING = Refusal("empty", "")


@pytest.fixture(scope="module")
def wanted() -> list[Script]:
    return scripts(faults.TASK, 8)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "DEADLINE_S", 1.0)


@pytest.mark.parametrize("name", faults.SERVERS)
def test_no_killed_or_frozen_server_costs_an_episode_or_a_reward(
    name: str, wanted: list[Script]
) -> None:
    before = children(os.getpid())
    seen = faults.SERVERS[name](wanted)
    assert (seen.wrong, seen.lost, seen.why) == (0, 0, "")
    assert seen.longest_s < faults.PATIENCE_S
    assert until(lambda: set(children(os.getpid())) <= set(before), 5.0)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_bad_road_costs_an_episode_or_a_reward(
    fault: Fault, wanted: list[Script], server: str
) -> None:
    seen = faults.bad_answers(server, fault, wanted)
    assert (seen.wrong, seen.lost, seen.why) == (0, 0, "")
    assert seen.longest_s < 4.0 * faults.DEADLINE_S


class Mixed(LocalDoor):
    """Pays each episode what another one earned: what must never happen."""

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        steps = [cast(Step, step) for step in super().step_many(moves)]
        return [
            replace(step, reward=other.reward)
            for step, other in zip(steps, steps[::-1], strict=True)
        ]


def test_the_measure_sees_a_reply_that_is_anothers(wanted: list[Script]) -> None:
    assert perform(LocalDoor("polypharmacy"), wanted).wrong == 0
    assert perform(Mixed("polypharmacy"), wanted).wrong > 0


def test_a_client_that_is_killed_frees_its_seats_within_a_second() -> None:
    assert faults.client_killed(8) < 1.0


def test_a_late_reply_is_never_taken_for_another_actions(server: str) -> None:
    with (
        bad_road(server, delay_s=0.8) as road,
        connect(road.url, pool=1, deadline_s=0.4) as link,
        connect(server) as plain,
    ):
        late, quick = link.begin("easy_screening", 5), plain.begin("easy_screening", 5)
        road.break_down("slow", 1)
        with pytest.raises(Deadline):
            late.step(NOTHING)
        late.replay()
        for _ in range(3):
            assert canonical(late.step(NOTHING).to_json()) == canonical(
                quick.step(NOTHING).to_json()
            )


@pytest.mark.parametrize("fault", ["silent", "garbage", "truncated", "half_closed", "cut"])
def test_whatever_breaks_within_a_replay_is_typed_and_may_be_tried_again(
    server: str, fault: Fault
) -> None:
    with bad_road(server) as road, connect(road.url, deadline_s=0.5, patience_s=0.2) as link:
        episode = link.begin("easy_screening", 6)
        for _ in range(3):
            before = episode.step(NOTHING)
        link.begin_many([("easy_screening", s, "train") for s in range(3)])  # sockets to spare
        road.break_down(fault)
        with pytest.raises(RemoteError):
            episode.replay()
        with pytest.raises(EpisodeLost):
            episode.step(NOTHING)
        road.mend()
        assert until(lambda: _replayed(episode), 5.0)
        assert episode.steps == 3
        assert canonical(episode.observe().to_json()) == canonical(before.observation.to_json())


def _replayed(episode: object) -> bool:
    try:
        episode.replay()  # type: ignore[attr-defined]
    except RemoteError:
        return False
    return True


def test_a_full_server_is_waited_for_and_another_one_asked() -> None:
    with serving("--capacity", "2") as small, serving("--capacity", "8") as large:
        with connect(small, patience_s=0.0) as holder:
            held = holder.begin_many([(None, s, "train") for s in range(2)])
            with connect([small, large], patience_s=3.0) as link:
                begun = link.begin_many([(None, s, "train") for s in range(6)])
                assert {s.url: s.episodes for s in link.servers()}[link.url.split(", ")[1]] == 6
            assert len(begun) == len(held) * 3
        with connect(small, pool=4, patience_s=0.3) as link:
            held = link.begin_many([(None, s, "train") for s in range(2)])
            with pytest.raises(CapacityError, match="taken"):
                link.begin(None, 9)
            assert not any(episode.done for episode in held)


def test_the_less_busy_server_is_asked_and_a_dead_one_once_it_is_back() -> None:
    with (
        faults.Server() as first,
        faults.Server() as second,
        connect([first.url, second.url], patience_s=20.0) as link,
    ):
        held: list[object] = [*link.begin_many([(None, s, "train") for s in range(10)])]
        assert [s.episodes for s in link.servers()] == [5, 5]
        held.clear()
        first.kill()
        held += link.begin_many([(None, s, "train") for s in range(4)])
        assert [s.episodes for s in link.servers()] == [0, 4]
        assert [bool(s.why) for s in link.servers()] == [True, False]
        first.start()
        assert until(lambda: _both_play(link, held), 15.0)


def _both_play(link: object, held: list[object]) -> bool:
    held.append(link.begin(None, len(held)))  # type: ignore[attr-defined]
    return all(s.episodes > 0 for s in link.servers())  # type: ignore[attr-defined]


async def test_the_same_episodes_from_an_event_loop(server: str) -> None:
    async with await aconnect(server) as link:
        begun = await link.abegin_many([("easy_screening", s, "train") for s in range(4)])
        with connect(server) as plain:
            for episode in begun:
                twin = plain.begin("easy_screening", episode.seed)
                told = await episode.astep(NOTHING)
                assert canonical(told.to_json()) == canonical(twin.step(NOTHING).to_json())
        episode = await link.abegin("easy_screening", 1)
        episode.drop()
        await episode.areplay()
        (step,) = await link.astep_many([(episode, NOTHING)])
        assert isinstance(step, Step)


def test_a_run_whose_server_keeps_dying_says_so_instead_of_hanging(tmp_path: Path) -> None:
    with own_server(tmp_path / "server.log") as url:
        door = RemoteDoor(url, "polypharmacy", 2, patience_s=1.0)
        wanted = scripts(faults.TASK, 2)

        def between(turn: int) -> None:
            for child in children(os.getpid()):
                os.kill(child, signal.SIGKILL)

        seen = perform(door, wanted, between)
        door.close()
    assert seen.lost == 2 and seen.wrong == 0
    assert "no server" in seen.why


def test_a_server_is_started_again_though_its_log_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "swept"
    with own_server(folder / "server.log") as url:
        (first,) = children(os.getpid())
        shutil.rmtree(folder)
        os.kill(first, signal.SIGKILL)
        assert until(lambda: healthy(url) and first not in children(os.getpid()), 60)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_slow_readers_seat_is_free_soon_after_its_deadline_whatever_others_play() -> None:
    seen, free_s = faults.slow_reader(scripts(faults.TASK, 2))
    assert (seen.wrong, seen.lost, seen.why) == (0, 0, "")
    assert 1.0 < free_s < 10.0


def test_a_trainer_that_is_killed_twice_or_without_room_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch", reason="the train extra is not installed")
    told = {figure.name: figure for figure in faults.trainer_figures(2, tmp_path)}
    assert told["trainer killed"].value == 2
    broken = [name for name, figure in told.items() if not figure.kept]
    assert [name for name in broken if "not measured" not in name] == []
