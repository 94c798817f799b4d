"""Episodes played by Ray: on every core here, or on every machine of a cluster.

Seeds travel out in small lots, trajectories come back as each lot is done. A worker that dies has
its lot played again by another. Knows Ray, the agent's spec and nothing of tables of results: the
same (task, split, seed) gives the same episode wherever it is played.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import ceil
from typing import Any

from env_server import registry
from env_server.contract import Family, JsonObject, RoundsError, Split
from eval import roster
from eval.roster import Options, Player
from eval.trajectory import Trajectory

RETRIES = 3  # of a lot whose worker died; what an agent or a family raises is never tried again
LOTS = 4  # a worker, at least: so that a slow lot holds nobody up for long
LARGEST = 64  # seeds a lot of an agent that plays one episode at a time
ON_GPU = ("local", "adapter")  # kinds of players that take a GPU of their own where there are any


class WorkersLost(RoundsError, RuntimeError):
    """A lot of episodes killed every worker that tried it, or the cluster has gone."""


def play(
    family: str,
    task: str,
    split: Split,
    agent: str,
    seeds: Sequence[int],
    *,
    options: Options,
    tables: str | None = None,
    workers: int | None = None,
) -> Iterator[Trajectory]:
    """One trajectory a seed, in the order in which workers finish.

    agent: a spec as `roster.find` reads it, found anew by every worker. workers: lots under way at
    once; None is a core each. Raises WorkersLost, and whatever the agent or the family raises.
    """
    if not seeds:
        return
    import ray

    begin(workers)
    cores = int(ray.cluster_resources().get("CPU", 1))
    most = workers or cores
    lots = split_into_lots(seeds, lot_size(registry.get(family), agent, options, len(seeds), most))
    needs = resources(agent, ray.cluster_resources())
    remote = ray.remote(max_retries=RETRIES, num_cpus=1, **needs)(_played)
    asked = (family, task, split, agent, options, tables, os.getcwd())
    for lot in _as_done(lambda seeds: remote.remote(asked, seeds), lots, most, agent, task):
        yield from map(Trajectory.from_json, lot)


def begin(workers: int | None = None) -> None:
    """Join the cluster that RAY_ADDRESS names, else start one in this machine; once a process.

    It ends with the process, or with `close`.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # what later versions do anyway
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(num_cpus=workers, include_dashboard=False, **quiet)


def close() -> None:
    """Leave the cluster; one that was started here ends."""
    import ray

    ray.shutdown()


def split_into_lots(seeds: Sequence[int], size: int) -> list[list[int]]:
    return [list(seeds[at : at + size]) for at in range(0, len(seeds), size)]


def lot_size(family: Family, agent: str, options: Options, seeds: int, workers: int) -> int:
    """How many seeds travel together: a model's own batch, so that it generates as it would here."""
    kind = roster.label_of(agent)[1]
    if kind not in family.agents:
        return options.batch
    return min(LARGEST, max(1, ceil(seeds / (workers * LOTS))))


def resources(agent: str, cluster: Mapping[str, float]) -> dict[str, float]:
    """What a lot asks for beside a core: a GPU for a model of ours, where the cluster has any."""
    kind = roster.label_of(agent)[1].partition(":")[0]
    return {"num_gpus": 1.0} if kind in ON_GPU and cluster.get("GPU", 0) >= 1 else {}


def _as_done(
    start: Callable[[list[int]], Any],
    lots: Sequence[list[int]],
    most: int,
    agent: str,
    task: str,
) -> Iterator[list[JsonObject]]:
    """What each lot gave as soon as it is there, with at most `most` lots under way."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    left = list(reversed(lots))
    under_way: dict[Any, list[int]] = {}
    try:
        while left or under_way:
            while left and len(under_way) < most:
                lot = left.pop()
                under_way[start(lot)] = lot
            (done,), _ = ray.wait(list(under_way), num_returns=1)
            lot = under_way.pop(done)
            try:
                yield ray.get(done)
            except RayTaskError as wrong:  # the agent's or the family's own doing
                raise wrong.cause from wrong
            except RayError as wrong:
                raise WorkersLost(
                    f"{agent} on {task}, seeds {lot[0]} to {lot[-1]}: {_first_line(wrong)}, tried"
                    f" {RETRIES + 1} times. A worker that dies is often out of memory: fewer --workers"
                    " or a smaller --batch, then --resume"
                ) from wrong
    finally:
        for late in under_way:
            ray.cancel(late)


def _first_line(wrong: BaseException) -> str:
    lines = str(wrong).strip().splitlines() or [""]
    return f"{type(wrong).__name__}: {lines[0].rstrip('.')}"


# -- in a worker ---------------------------------------------------------------------------------


def _played(asked: tuple[Any, ...], seeds: list[int]) -> list[JsonObject]:
    family, task, split, agent, options, tables, home = asked
    if os.path.isdir(home):
        os.chdir(home)  # paths in specs are the caller's
    home_family, player = _ready(family, agent, options, tables)
    return [t.to_json() for t in player.play(home_family, task, split, seeds)]


@lru_cache(maxsize=4)
def _ready(family: str, agent: str, options: Options, tables: str | None) -> tuple[Family, Player]:
    """The family on its tables, and the player; a worker keeps them, so that a model loads once."""
    home = registry.on_tables(family, tables)
    return home, roster.find(agent, home, options)
