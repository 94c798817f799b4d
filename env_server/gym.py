"""Gymnasium's own doors to every task: `gymnasium.make("rounds/<family>-<task>-v0")`, and many at once.

Importing this imports every family and registers its tasks. What such an environment is, says
`task_env`.
"""

from __future__ import annotations

from typing import Any, Final

from env_server import registry
from env_server.contract import Family
from env_server.task_env import BadOption, TaskEnv

# after task_env, whose own import says which extra is missing
import gymnasium  # isort: skip
from gymnasium.vector import SyncVectorEnv  # isort: skip

NAMESPACE: Final = "rounds"


def name_of(family: str, task: str) -> str:
    """What `gymnasium.make` calls a task."""
    return f"{NAMESPACE}/{family}-{task}-v0"


def vector(
    task: str,
    n: int,
    family: str | Family | None = None,
    **settings: Any,
) -> SyncVectorEnv:
    """`n` environments of one task that step together, in this process.

    family: the one that has the task, unless given. settings: as TaskEnv takes them. Reset with one
    seed gives each its own stream of patients. Raises BadOption for n < 1.
    """
    if n < 1:
        raise BadOption(f"a vector of {n} environments; it needs one at least")
    owner = registry.owner(task) if family is None else family
    return SyncVectorEnv([lambda: TaskEnv(owner, task, **settings) for _ in range(n)])


def register() -> tuple[str, ...]:
    """Make every task of every family known to `gymnasium.make`; once more changes nothing."""
    names = []
    for family in registry.names():
        for task in registry.get(family).tasks:
            names.append(name_of(family, task))
            if names[-1] not in gymnasium.registry:
                asked = {"family": family, "task": task}
                gymnasium.register(names[-1], f"{TaskEnv.__module__}:TaskEnv", kwargs=asked)
    return tuple(names)


NAMES: Final = register()
