"""Episodes played by Ray: the same table, whatever happens to a worker on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from env_server import registry
from env_server.contract import UnknownAgent, UnknownTask
from eval import engine_ray
from eval.compare import compare
from eval.engine import NoEngine, engine
from eval.engine_ray import WorkersLost, lot_size, play, resources, split_into_lots
from eval.record import read_episodes
from eval.roster import Options
from eval.rows import Row
from eval.trajectory import Trajectory

FAMILY = registry.get("polypharmacy")
TASKS, AGENTS = ["review_easy", "review_complex"], ["random", "heuristic", "reference"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    pytest.importorskip("ray", reason="needs ray: pip install -e '.[ray]'")
    engine_ray.begin(workers=2)
    yield
    engine_ray.close()


def timeless(rows: list[Row]) -> list[Row]:
    return [replace(row, seconds=None) for row in rows]


def episodes(run: Path) -> dict[tuple[str, str, int], Trajectory]:
    found = read_episodes(run / "episodes.jsonl")
    return {(t.task, t.agent, t.seed): replace(t, seconds=0.0) for t in found}


def by_ray() -> Any:
    return engine("ray", Options(), None, 2)


# -- without a cluster ---------------------------------------------------------------------------


def test_every_seed_travels_in_exactly_one_lot():
    assert [s for lot in split_into_lots(range(7, 30), 4) for s in lot] == list(range(7, 30))


def test_a_model_keeps_its_batch_and_everybody_else_travels_in_small_lots():
    assert lot_size(FAMILY, "m=local:runs/x", Options(batch=32), 500, 2) == 32
    assert lot_size(FAMILY, "heuristic", Options(), 500, 2) == 63
    assert lot_size(FAMILY, "h=heuristic", Options(), 5, 8) == 1


def test_only_a_model_of_ours_takes_a_gpu_and_only_where_there_is_one():
    assert resources("m=local:runs/x", {"CPU": 8, "GPU": 2}) == {"num_gpus": 1.0}
    assert resources("m=local:runs/x", {"CPU": 8}) == {}
    assert resources("heuristic", {"CPU": 8, "GPU": 2}) == {}


def test_nothing_to_play_starts_no_cluster():
    assert list(play("polypharmacy", "review_easy", "test", "random", [], options=Options())) == []


def test_without_the_package_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eval.engine.find_spec", lambda name: None)
    with pytest.raises(NoEngine, match=r"\[ray\]"):
        engine("ray", Options(), None, 2)


# -- on a cluster of this machine ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_table_is_the_one_that_is_played_here_and_progress_ticks(tmp_path: Path):
    ticks: list[int] = []
    here = compare("polypharmacy", TASKS, AGENTS, episodes=8, run=tmp_path / "here")
    there = compare(
        "polypharmacy",
        TASKS,
        AGENTS,
        episodes=8,
        engine=by_ray(),
        run=tmp_path / "there",
        tick=lambda task, agent, n: ticks.append(n),
    )
    assert timeless(there) == timeless(here)
    assert episodes(tmp_path / "there") == episodes(tmp_path / "here")
    assert sum(ticks) == 8 * len(TASKS) * len(AGENTS)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_broken_off_goes_on_where_it_stopped(tmp_path: Path):
    def stop(task: str, agent: str, n: int) -> None:
        if agent == "heuristic":
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"episodes": 10, "engine": by_ray(), "run": tmp_path / "r"}
    with pytest.raises(KeyboardInterrupt):
        compare("polypharmacy", ["review_easy"], AGENTS, tick=stop, **asked)
    kept = len(episodes(tmp_path / "r"))
    assert 10 < kept < 30
    rows = compare("polypharmacy", ["review_easy"], AGENTS, resume=True, **asked)
    assert timeless(rows) == timeless(compare("polypharmacy", ["review_easy"], AGENTS, episodes=10))
    assert len(list(read_episodes(tmp_path / "r" / "episodes.jsonl"))) == 30


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    honest, killed = engine_ray._played, str(tmp_path / "killed")

    def mortal(asked: tuple[Any, ...], seeds: list[int]) -> list[Any]:
        if 4 in seeds and not os.path.exists(killed):
            open(killed, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(asked, seeds)

    monkeypatch.setattr(engine_ray, "_played", mortal)
    asked = ("polypharmacy", "review_easy", "test", "heuristic", range(12))
    found = list(play(*asked, options=Options(), workers=2))
    assert os.path.exists(killed)
    assert sorted(t.seed for t in found) == list(range(12))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_lot_that_kills_every_worker_is_an_error_that_names_its_seeds(
    monkeypatch: pytest.MonkeyPatch,
):
    def deadly(asked: tuple[Any, ...], seeds: list[int]) -> list[Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    monkeypatch.setattr(engine_ray, "_played", deadly)
    monkeypatch.setattr(engine_ray, "RETRIES", 1)
    with pytest.raises(WorkersLost, match=r"random on review_easy, seeds 0 to \d.*tried 2 times"):
        list(play("polypharmacy", "review_easy", "test", "random", range(4), options=Options()))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_mistake_of_the_callers_arrives_as_what_it_is_and_at_once():
    begun = time.monotonic()
    with pytest.raises(UnknownAgent, match="heuristic"):
        list(play("polypharmacy", "review_easy", "test", "heuristik", [1], options=Options()))
    with pytest.raises(UnknownTask, match="review_easy"):
        list(play("polypharmacy", "review_eazy", "test", "random", [1], options=Options()))
    assert time.monotonic() - begun < 60
