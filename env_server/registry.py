"""Finds every family by its being there: folders of `env_server/envs`, and installed entry points.

Knows no family by name; adding one edits nothing here.
"""

from __future__ import annotations

import pkgutil
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from env_server import envs
from env_server.contract import (
    Family,
    RoundsError,
    Task,
    UnknownAgent,
    UnknownFamily,
    UnknownTask,
    did_you_mean,
    task_of,
)

ENTRY_POINTS = "rounds.families"


class NoTables(RoundsError, ValueError):
    """The family is not made from tables that a user may replace."""


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Every family that can be had, in alphabetical order; nothing is imported to find out."""
    here = {m.name for m in pkgutil.iter_modules(envs.__path__) if m.ispkg}
    return tuple(sorted(here | {point.name for point in entry_points(group=ENTRY_POINTS)}))


@cache
def get(name: str) -> Family:
    """The family called `name`. Raises UnknownFamily with the nearest names."""
    if name not in names():
        raise UnknownFamily(did_you_mean("family", name, names()))
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            family: Family = point.load()
            return family
    shipped: Family = import_module(f"{envs.__name__}.{name}").family
    return shipped


def on_tables(name: str, directory: str | None) -> Family:
    """The family called `name`, playing on the tables of `directory` (None = the shipped ones).

    Raises NoTables where the family has none to replace, and what the family raises for bad ones.
    """
    family = get(name)
    if directory is None:
        return family
    use = getattr(family, "use_tables", None)
    if use is None:
        raise NoTables(f"{name} has no tables to replace; leave {directory!r} out")
    use(directory)
    return family


def owner(task_name: str) -> Family:
    """The family that has a task of this name. Raises UnknownTask over all families."""
    for name in names():
        if task_name in get(name).tasks:
            return get(name)
    every = tuple(t for name in names() for t in get(name).tasks)
    raise UnknownTask(did_you_mean("task", task_name, every))


def task(family: Family, name: str | None) -> Task:
    """The family's task `name`, or its default for None. Raises UnknownTask, with the family that has it."""
    try:
        return task_of(family, name)
    except UnknownTask:
        for other in names():
            if other != family.name and name in get(other).tasks:
                raise UnknownTask(
                    f"no {family.name} task {name!r}: it is one of {other}'s;"
                    f" take --family {other}, or /envs/{other} on a server"
                ) from None
        raise


def agent(family: Family, name: str) -> str:
    """`name`, once the family is known to ship that agent. Raises UnknownAgent."""
    if name not in family.agents:
        raise UnknownAgent(did_you_mean(f"{family.name} agent", name, tuple(family.agents)))
    return name
