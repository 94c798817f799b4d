"""Finds every family by its being there: folders of `env_server/envs`, and installed entry points.

Knows no family by name; adding one edits nothing here.
"""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from env_server import envs
from env_server.contract import (
    Family,
    Task,
    UnknownAgent,
    UnknownFamily,
    UnknownTask,
    nearest,
)

ENTRY_POINTS = "rounds.families"


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Every family that can be had, in alphabetical order; nothing is imported to find out."""
    here = {m.name for m in pkgutil.iter_modules(envs.__path__) if m.ispkg}
    return tuple(sorted(here | {point.name for point in entry_points(group=ENTRY_POINTS)}))


@lru_cache(maxsize=None)
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


def task(family: Family, name: str | None) -> Task:
    """The family's task `name`, or its default for None. Raises UnknownTask."""
    wanted = name or family.default_task
    if wanted not in family.tasks:
        raise UnknownTask(did_you_mean(f"{family.name} task", wanted, tuple(family.tasks)))
    return family.tasks[wanted]


def owner(task_name: str) -> Family:
    """The family that has a task of this name. Raises UnknownTask over all families."""
    for name in names():
        if task_name in get(name).tasks:
            return get(name)
    every = tuple(t for name in names() for t in get(name).tasks)
    raise UnknownTask(did_you_mean("task", task_name, every))


def agent(family: Family, name: str) -> str:
    """`name`, once the family is known to ship that agent. Raises UnknownAgent."""
    if name not in family.agents:
        raise UnknownAgent(did_you_mean(f"{family.name} agent", name, tuple(family.agents)))
    return name


def did_you_mean(what: str, given: str, known: tuple[str, ...]) -> str:
    """One line that names the wrong value, the nearest right ones, and all there are."""
    return f"no {what} {given!r}{nearest(str(given), known)}; known: {', '.join(known)}"
