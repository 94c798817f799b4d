"""The client: the same verbs as in process, and a typed failure for everything that may go wrong."""

from __future__ import annotations

import gc
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import FINISH, LEFT, RIGHT, LineEpisode, NumberLine
from servers import ROOT, serving_here, start, stop, until

from env_server.app import create_app
from env_server.client import (
    CapacityError,
    Connection,
    Deadline,
    EpisodeLost,
    ServerError,
    connect,
)
from env_server.contract import (
    Action,
    BadSplit,
    EpisodeOver,
    EpisodeRunning,
    Refusal,
    Step,
    UnknownTask,
    canonical,
)

LINE = NumberLine()
MAIN = threading.main_thread().ident or 0


@dataclass(slots=True)
class Sluggish(LineEpisode):
    """Thinks for long about going left."""

    def step(self, action: Action | Refusal) -> Step:
        if action == LEFT:
            time.sleep(0.6)
        return LineEpisode.step(self, action)


class SluggishLine(NumberLine):
    """A number line whose episodes may miss a deadline."""

    def begin(self, *wanted: Any, **named: Any) -> LineEpisode:
        plain = NumberLine.begin(self, *wanted, **named)
        return Sluggish(
            plain.task, plain.seed, plain.split, plain.place, plain.mark, plain.length, plain.tells
        )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_here(create_app(LINE.name, families=[LINE], capacity=80)) as url:
        yield url


@pytest.fixture
def link(url: str) -> Iterator[Connection]:
    with connect(url, LINE.name) as link:
        yield link


def test_sixty_four_episodes_play_at_once_and_keep_apart(link: Connection) -> None:
    remote = link.begin_many([("far", seed, "train") for seed in range(64)])
    local = [LINE.begin("far", seed, "train") for seed in range(64)]
    while live := [i for i in range(64) if not local[i].done]:
        acts = [local[i].legal_actions()[(i + local[i].steps) % 3] for i in live]
        steps = link.step_many([(remote[i], act) for i, act in zip(live, acts, strict=True)])
        for i, act, step in zip(live, acts, steps, strict=True):
            assert isinstance(step, Step)
            assert canonical(step.to_json()) == canonical(local[i].step(act).to_json())
    assert [e.score() for e in remote] == [e.score() for e in local]


def test_mistakes_raise_what_they_raise_in_process(link: Connection) -> None:
    with pytest.raises(UnknownTask, match="did you mean 'near'"):
        link.begin("nera")
    with pytest.raises(BadSplit, match="did you mean 'test'"):
        link.begin("near", split="tset")  # type: ignore[arg-type]
    with pytest.raises(ServerError, match="seed must be a whole number"):
        link.begin("near", seed=-1)
    episode = link.begin("near")
    with pytest.raises(EpisodeRunning):
        episode.score()
    episode.step(FINISH)
    with pytest.raises(EpisodeOver):
        episode.step(FINISH)
    with pytest.raises(EpisodeOver):
        link.step_many([(episode, FINISH)])


def test_an_address_without_a_server_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerError, match=r"python -m env_server\.app"):
        connect(f"http://127.0.0.1:{port}")
    with pytest.raises(ServerError, match="no server address"):
        connect("ftp://example.org")


def test_an_unknown_family_is_named(url: str) -> None:
    with pytest.raises(ServerError, match="'polyfarmacy'"):
        connect(url, "polyfarmacy")


def test_a_full_server_says_so_and_a_freed_seat_is_had_again() -> None:
    with serving_here(create_app(LINE.name, families=[LINE], capacity=1)) as url:
        with connect(url, LINE.name), pytest.raises(CapacityError, match="--capacity"):
            connect(url, LINE.name, patience_s=0.0)
        assert until(lambda: _connects(url), 2.0)


def _connects(url: str) -> bool:
    try:
        connect(url, LINE.name, patience_s=0.0).close()
    except CapacityError:
        return False
    return True


def test_episodes_finished_dropped_or_forgotten_give_their_socket_back(url: str) -> None:
    with connect(url, LINE.name, pool=1, patience_s=0.0) as link:
        held = link.begin("near")
        with pytest.raises(CapacityError, match="larger pool"):
            link.begin("near")
        held.step(FINISH)
        dropped = link.begin("near")
        dropped.drop()
        forgotten = link.begin("near")
        del forgotten
        gc.collect()
        assert link.begin("near").steps == 0


def test_a_late_reply_never_answers_another_request() -> None:
    with (
        serving_here(create_app(LINE.name, families=[SluggishLine()])) as url,
        connect(url, LINE.name, pool=1, deadline_s=0.3) as link,
    ):
        episode = link.begin("near", seed=3)
        with pytest.raises(Deadline, match="step 1"):
            episode.step(LEFT)
        with pytest.raises(EpisodeLost, match="replay"):
            episode.step(RIGHT)
        time.sleep(0.7)  # the late reply is on its way now
        again = link.begin("near", seed=3)
        step = again.step(RIGHT)
        assert canonical(step.to_json()) == canonical(LINE.begin("near", 3).step(RIGHT).to_json())


def test_an_interrupt_while_waiting_loses_that_episode_only() -> None:
    with (
        serving_here(create_app(LINE.name, families=[SluggishLine()])) as url,
        connect(url, LINE.name) as link,
    ):
        waiting, other = link.begin_many([("near", 3, "train"), ("near", 4, "train")])
        interrupt = threading.Timer(0.2, signal.pthread_kill, (MAIN, signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            waiting.step(LEFT)
        interrupt.join()
        assert isinstance(other.step(RIGHT), Step)
        with pytest.raises(EpisodeLost):
            waiting.step(RIGHT)


def test_begin_many_gives_all_or_none(url: str) -> None:
    with connect(url, LINE.name, pool=2, patience_s=0.0) as link:
        with pytest.raises(CapacityError):
            link.begin_many([("near", seed, "train") for seed in range(3)])
        with pytest.raises(UnknownTask):
            link.begin_many([("near", 0, "train"), ("nowhere", 0, "train")])
        assert len(link.begin_many([("near", 0, "train"), ("near", 1, "train")])) == 2


def test_a_batch_reports_the_lost_episode_in_its_place() -> None:
    with (
        serving_here(create_app(LINE.name, families=[SluggishLine()])) as url,
        connect(url, LINE.name, deadline_s=0.3) as link,
    ):
        slow, quick = link.begin_many([("near", 3, "train"), ("near", 4, "train")])
        link.step_many([(quick, RIGHT)])
        lost, *_ = link.step_many([(slow, LEFT)])
        assert isinstance(lost, EpisodeLost)
        time.sleep(0.5)
        (step,) = link.step_many([(quick, RIGHT)])
        assert isinstance(step, Step) and quick.steps == 2


@pytest.mark.slow
def test_a_killed_server_loses_the_episode_and_replay_takes_it_up_again() -> None:
    child, url = start()
    second = None
    try:
        with connect(url, patience_s=0.2) as link:
            episode = link.begin("easy_screening", 11)
            before = [canonical(episode.step(Refusal("empty", "")).to_json()) for _ in range(3)]
            child.kill()
            child.communicate(timeout=10)
            with pytest.raises(EpisodeLost):
                episode.step(Refusal("empty", ""))
            with pytest.raises(ServerError):
                link.begin("easy_screening", 11)
            second, _ = start(port=int(url.rsplit(":", 1)[1]))
            episode.replay()
            assert episode.steps == len(before) == 3
            assert canonical(episode.observe().to_json()) in before[-1]
            assert episode.step(Refusal("empty", "")).observation.to_json()["step_index"] == 4
    finally:
        child.kill()
        child.communicate(timeout=10)
        if second is not None:
            stop(second)


def test_a_killed_client_frees_its_seat_within_a_second() -> None:
    hold = (
        "import sys, time; from env_server.client import connect;"
        f"e = connect(sys.argv[1], {LINE.name!r}).begin('near'); print('holding', flush=True);"
        "time.sleep(60)"
    )
    with serving_here(create_app(LINE.name, families=[LINE], capacity=1)) as url:
        child = subprocess.Popen(
            [sys.executable, "-c", hold, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "holding\n"
        assert not _connects(url)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
        assert until(lambda: _connects(url), 1.0)


def test_a_closed_connection_says_so(url: str) -> None:
    link = connect(url, LINE.name)
    link.close()
    link.close()
    with pytest.raises(ServerError, match="connect again"):
        link.begin("near")


def test_who_asks_while_it_is_closed_is_told_so_and_waits_for_nothing(url: str) -> None:
    def ask_on(link: Connection) -> None:
        told = ""
        while "connect again" not in told:
            try:
                link.begin("near").drop()
            except ServerError as error:
                told = str(error)

    for _ in range(5):
        link = connect(url, LINE.name)
        players = [threading.Thread(target=ask_on, args=(link,), daemon=True) for _ in range(2)]
        for player in players:
            player.start()
        time.sleep(0.01)
        link.close()
        for player in players:
            player.join(10)
            assert not player.is_alive()


@pytest.mark.parametrize("module", ["env_server.client", "env_server.registry", "env_server.app"])
def test_no_heavy_library_comes_along(module: str) -> None:
    script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"openenv", "torch", "gradio", "transformers", "pandas"}
    if module == "env_server.client":  # a tenth of a second, paid when the first socket is opened
        assert not loaded & {"websockets", "pydantic"}
