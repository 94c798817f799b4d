"""Which patients a GRPO run learns from and looks at, and whose tasks they are.

Knows settings, tasks and seeds; nothing of how a patient is played.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from env_server import registry
from env_server.contract import Family, Split
from training.grpo_settings import GrpoSettings

if TYPE_CHECKING:
    from trl import GRPOConfig

    from eval.door import Request


def owners(settings: GrpoSettings) -> dict[str, Family]:
    """Whose each task is: the run's family, where it has one of that name. Raises UnknownTask."""
    home = registry.get(settings.family)
    foreign = [task for task in settings.tasks if task not in home.tasks]
    if len(foreign) == len(settings.tasks):
        registry.task(
            home, foreign[0]
        )  # most likely a slip of the pen: the family's own names help
    return {task: home if task in home.tasks else registry.owner(task) for task in settings.tasks}


def cases(settings: GrpoSettings, split: Split, count: int, seed_from: int) -> list[Request]:
    """`count` different patients of a split, the tasks in turn."""
    from eval.door import Request

    tasks = settings.tasks
    return [
        Request(tasks[i % len(tasks)], seed_from + i // len(tasks), split) for i in range(count)
    ]


def patients(settings: GrpoSettings, config: GRPOConfig) -> list[Request]:
    return cases(settings, "train", count(settings, config), settings.seed_from)


def count(settings: GrpoSettings, config: GRPOConfig) -> int:
    """How many different patients a run meets."""
    groups = config.generation_batch_size // config.num_generations
    return settings.patients or max(config.max_steps, 1) * groups


def prompts(settings: GrpoSettings, config: GRPOConfig) -> list[Any]:
    """One a patient; with a curriculum, one a slot, whose patient is drawn when its turn comes."""
    from training.rollout import case_prompt, slot_prompt

    if settings.curriculum:
        return [slot_prompt(slot) for slot in range(count(settings, config))]
    return [case_prompt(request) for request in patients(settings, config)]
